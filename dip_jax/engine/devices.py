"""The platform that JAX computes on."""

import jax

from dip_jax.errors import InputError


def is_cpu() -> bool:
    """Returns whether JAX computes on CPU by default."""
    return jax.default_backend() == "cpu"


def require_platform() -> None:
    """Checks that JAX can use its platform.

    Raises:
      InputError: If the platform of `JAX_PLATFORMS` is absent, or its driver fails.
    """
    try:
        jax.devices()
    except Exception as error:  # JAX raises several kinds, some without words
        platforms = jax.config.values["jax_platforms"]
        reason = (str(error).strip() or "not available").splitlines()[0]
        raise InputError(
            f"JAX cannot use the platform of JAX_PLATFORMS={platforms or ''}: {reason}. Unset "
            "JAX_PLATFORMS, or install JAX for this platform."
        ) from None

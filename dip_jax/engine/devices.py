"""The platform that JAX computes on, and the work that stays on the host."""

import collections
import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from dip_jax.errors import InputError

T = TypeVar("T")


def is_cpu() -> bool:
    """Returns whether JAX computes on CPU by default."""
    return jax.default_backend() == "cpu"


def host_device() -> Any:
    """Returns JAX's device for the host beside an accelerator; None on CPU, or if JAX_PLATFORMS leaves it out."""
    if is_cpu():
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """A context in which JAX computes on the host, for work that must not wait for a chunk on an accelerator.

    It holds for this thread. On CPU it changes nothing.
    """
    device = host_device()
    with contextlib.nullcontext() if device is None else jax.default_device(device):
        yield


def made_on_host(items: Iterable[T]) -> Iterator[T]:
    """Yields the items of a generator, which runs in the context `on_host` while the caller does not."""
    iterator = iter(items)
    while True:
        with on_host():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def describe_devices(nvidia_file: Path = Path("/dev/nvidia0")) -> str:
    """Returns a line about the devices of this process, e.g. `Device: 1 x cpu`.

    It says if the computer has an NVIDIA GPU that JAX does not use, although nobody asked for the CPU: JAX only logs
    that it cannot reach one.

    Args:
      nvidia_file: A file that the driver of NVIDIA makes for the first GPU.
    """
    kinds = collections.Counter(device.device_kind for device in jax.local_devices())
    line = "Device: " + ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    if is_cpu() and not jax.config.values["jax_platforms"] and nvidia_file.exists():
        line += (
            "; this computer has an NVIDIA GPU, which JAX does not use: run nvidia-smi to check its driver, and "
            "install dip-jax[cuda]"
        )
    return line


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

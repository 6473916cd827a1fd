"""Memory: what a program needs, what there is, and what was used."""

from typing import Any

import jax
import numpy as np
import psutil

from dip_jax.config import Config
from dip_jax.engine.devices import is_cpu
from dip_jax.errors import InputError


def program_bytes(analysis: Any) -> int:
    """Bytes that the program needs on a device, as the compiler counts them."""
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def available_bytes(config: Config) -> float:
    """What a program may use of a device: `run.max_memory`, or what is free on CPU, all of it elsewhere."""
    if config.run.max_memory is not None:
        return config.run.max_memory * 1e9
    if is_cpu():
        return psutil.virtual_memory().available
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", np.inf)


def too_large(needed: float, available: float, shape: tuple[int, ...], number: int) -> InputError:
    """What to tell a user whose `number` pictures of `shape` do not fit; both amounts in bytes."""
    return InputError(
        f"{number} picture{'s' * (number > 1)} of {shape[1]} x {shape[0]} would need about "
        f"{needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; use a smaller "
        "picture, fewer channels (--preset=denoise_small or --set net.channels_down=...), fewer slots "
        "(--slots), or say that there is more (--set run.max_memory=GB)."
    )


def peak_bytes() -> int:
    """The most memory in use so far: of the process on CPU, of the fullest device elsewhere."""
    if is_cpu():
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            return getattr(psutil.Process().memory_info(), "peak_wset", 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if psutil.MACOS else 1024 * peak
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max(stat.get("peak_bytes_in_use", 0) for stat in stats)

"""Memory that a program needs, that is available, and that was used."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from dip_jax.config import RunConfig
from dip_jax.engine.devices import is_cpu
from dip_jax.errors import InputError

_USED_OF_GPU = (
    0.9  # the rest is for fragments, workspaces of cuDNN and results on their way to the host
)


def program_bytes(analysis: Any) -> int:
    """Returns the bytes that a program needs on a device.

    Args:
      analysis: The memory analysis of the compiler.
    """
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def available_bytes(run: RunConfig) -> float:
    """Returns the bytes that a program may use on a device.

    This is `run.max_memory` if set. By default it is the free memory on CPU, 90 % of the memory of a GPU, whose
    allocator also needs room, and the whole memory elsewhere.
    """
    if run.max_memory is not None:
        return run.max_memory * 1e9
    if is_cpu():
        return min(psutil.virtual_memory().available, container_bytes())
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", np.inf)
    return _USED_OF_GPU * limit if jax.default_backend() == "gpu" else limit


def container_bytes(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Returns the bytes that the container of this process may still use; infinity without a limit.

    Args:
      root: The control group of the container, version 2 or 1.

    References:
      Control Group v2 and Memory Resource Controller, in the documentation of the Linux kernel.
    """
    for folder, limit, usage, cache in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            total, used = (int((folder / name).read_text()) for name in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or the limit is "max"
            continue
        return max(0, total - used + int(stat.get(cache, 0)))  # cached files can be dropped
    return np.inf


def too_large(needed: float, available: float, shape: tuple[int, ...], number: int) -> InputError:
    """Returns the error for images that do not fit into memory.

    Args:
      needed: Bytes that they need.
      available: Bytes that are available.
      shape: Height, width and channels of an image.
      number: Number of images.
    """
    return InputError(
        f"{number} image{'s' * (number > 1)} of {shape[1]} x {shape[0]} would need about "
        f"{needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; use a smaller "
        "image, fewer channels (--preset=denoise_small or --set net.channels_down=...), fewer slots "
        "(--slots), or raise the limit (--set run.max_memory=GB)."
    )


def peak_bytes() -> int:
    """Returns the peak of the bytes in use: of the process on CPU, of the fullest device elsewhere."""
    if is_cpu():
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            return getattr(psutil.Process().memory_info(), "peak_wset", 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if psutil.MACOS else 1024 * peak
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max(stat.get("peak_bytes_in_use", 0) for stat in stats)

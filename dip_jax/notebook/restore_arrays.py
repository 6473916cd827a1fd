"""A function for each task, from a degraded array to the restored one.

An image is `[H, W]` or `[H, W, C]`, and a batch `[N, H, W, C]`, whose images are fitted in parallel, each with its own
network. The result has the type of the argument: uint8 and uint16 are scaled by their largest value, and floats are in
[0, 1]. All functions take the keyword arguments of `Options`.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from dip_jax.base import Array, Case, Operator, Result, Shape
from dip_jax.config import Config, Pattern, RunConfig
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.observation import Observation
from dip_jax.engine.restore import restore_many
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.images.read import read_image
from dip_jax.notebook.progress_bar import ProgressBar
from dip_jax.presets import build_config
from dip_jax.tasks.cases import build_case
from dip_jax.tasks.from_operator import case_from_operator


class Options(TypedDict, total=False):
    """Keyword arguments of all functions."""

    preset: str
    """Name of a setting, see `presets.PRESETS`; by default that of the task."""
    settings: Mapping[str, Any]
    """Config fields that differ from the preset, as `{"fit.num_steps": 1500}`."""
    estimator: Estimator
    """A fit or sampler of your own, in place of that of the preset. `settings` may then have `task` and `run` fields
    only."""
    run: RunConfig
    """How the run uses the machine, and its seed; by default that of the settings."""
    reference: np.ndarray
    """Ground truth, of the shape of the result. It serves to log the PSNR."""
    progress: bool
    """Whether to show a progress bar; default True."""
    on_step: Callable[[Observation], None]
    """Called every `every` steps with the current image, loss and state; see `restore_many`."""
    every: int
    """Steps between two calls of `on_step`; default 100."""
    on_result: Callable[[Result], None]
    """Called with the whole `Result` of each image: its curve, network, weights, posterior, notes."""


def denoise(
    image: np.ndarray, *, noise_std: float | None = None, **options: Unpack[Options]
) -> np.ndarray:
    """Removes noise.

    Args:
      image: Noisy image or batch.
      noise_std: Standard deviation of the noise in the units of the image; None for unknown.
      **options: See `Options`.

    Example:
      >>> noisy = np.random.default_rng(0).integers(0, 255, (33, 40), np.uint8)
      >>> small = {"net.kind": "deep_decoder", "net.depth": 1, "net.width": 4, "net.input_depth": 4}
      >>> restored = denoise(noisy, settings={"fit.num_steps": 2, **small})
      >>> restored.shape, restored.dtype.name
      ((33, 40), 'uint8')
    """
    return _restore("denoise", image, noise_std, options)


def inpaint(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    noise_std: float | None = None,
    **options: Unpack[Options],
) -> np.ndarray:
    """Fills in missing pixels. Known pixels keep their values unless there is noise.

    Args:
      image: Image or batch; missing pixels may have any finite value.
      mask: `[H, W]` for all images, or `[N, H, W]`: 1 where a pixel is known, 0 where it is missing.
      noise_std: Standard deviation of the noise of known pixels, in the units of the image; None for no noise.
      **options: See `Options`.
    """
    return _restore("inpaint", image, noise_std, options, mask=np.asarray(mask))


def super_resolve(image: np.ndarray, *, factor: int = 4, **options: Unpack[Options]) -> np.ndarray:
    """Enlarges an image.

    Args:
      image: Small image or batch.
      factor: Factor by which each side grows.
      **options: See `Options`.
    """
    return _restore("super_resolve", image, None, options, {"task.factor": factor})


def deblur(
    image: np.ndarray,
    kernel: np.ndarray,
    *,
    noise_std: float | None = None,
    **options: Unpack[Options],
) -> np.ndarray:
    """Removes a known blur.

    Args:
      image: Blurred image or batch.
      kernel: Blur kernel `[p, q]`.
      noise_std: Standard deviation of the noise in the units of the image; None for no noise.
      **options: See `Options`.
    """
    return _restore(
        "deblur", image, noise_std, options, {"task.kernel": "file"}, kernel=np.asarray(kernel)
    )


def demosaic(
    mosaic: np.ndarray, *, pattern: Pattern = "RGGB", **options: Unpack[Options]
) -> np.ndarray:
    """Computes the colors of a Bayer mosaic.

    Args:
      mosaic: `[H, W]`, `[H, W, 1]` or `[N, H, W, 1]`.
      pattern: Color filters of the first two rows.
      **options: See `Options`.

    Returns:
      `[H, W, 3]` or `[N, H, W, 3]`.
    """
    batch = mosaic if np.ndim(mosaic) > 2 else np.asarray(mosaic)[..., None]
    return _restore("demosaic", batch, None, options, {"task.pattern": pattern})


def dejpeg(image: np.ndarray | str | Path, **options: Unpack[Options]) -> np.ndarray:
    """Removes the artifacts of JPEG compression.

    Args:
      image: A JPEG file, whose quantized coefficients are fitted; or a decoded image or batch.
      **options: See `Options`.
    """
    if not isinstance(image, str | Path):
        return _restore("dejpeg", image, None, options, {"task.jpeg": "decoded"})
    config = _config("dejpeg", None, 1.0, options, {})
    case = build_case(config.task, "image", read_image(image).pixels, jpeg=read_jpeg(image))
    case = _with_reference(case, options, 0, 1)
    return _to_type(_run([case], config, options)[0], np.dtype(np.uint8), 255.0)


def flash(
    image: np.ndarray,
    guide: np.ndarray,
    *,
    noise_std: float | None = None,
    **options: Unpack[Options],
) -> np.ndarray:
    """Denoises an image with the help of a second one taken with flash.

    Args:
      image: Image without flash, or a batch.
      guide: Image with flash `[H, W, 3]` for all images, or a batch.
      noise_std: Standard deviation of the noise in the units of the image; None for unknown.
      **options: See `Options`.
    """
    guides = np.asarray(guide, np.float32) / _scale(np.asarray(guide))
    return _restore("flash", image, noise_std, options, guide=guides)


def reconstruct(
    measurement: np.ndarray,
    operator: Operator | Callable[[Array], Array],
    shape: Shape,
    *,
    noise_std: float = math.nan,
    **options: Unpack[Options],
) -> np.ndarray:
    """Reconstructs an image from any measurement y = A x + noise.

    Args:
      measurement: The data y, for an image in [0, 1].
      operator: A: an operator (`dip_jax.operators`), or any JAX function of an image `[H, W, C]`.
      shape: Height, width and channels of the image.
      noise_std: Standard deviation of the noise; 0 for no noise, NaN for unknown.
      **options: See `Options`.

    Returns:
      `[H, W, C]` float32.
    """
    config = _config("custom", None, 1.0, options, {})
    case = case_from_operator(
        "image",
        measurement,
        operator,
        shape,
        noise_std=noise_std,
    )
    return _run([_with_reference(case, options, 0, 1)], config, options)[0]


def _restore(
    task: str,
    images: np.ndarray,
    noise_std: float | None,
    options: Options,
    values: Mapping[str, Any] | None = None,
    mask: np.ndarray | None = None,
    guide: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
) -> np.ndarray:
    """Restores an image or a batch.

    Args:
      task: Name of the task.
      images: The images.
      noise_std: In the units of the images.
      options: The keyword arguments.
      values: Config fields of the task.
      mask: One for all images, or with an axis of images in front.
      guide: As `mask`.
      kernel: For all images.
    """
    images = np.asarray(images)
    batch, scale = _batch(images), _scale(images)
    config = _config(task, noise_std, scale, options, values or {})
    mask = mask[..., 0] if mask is not None and mask.shape[-1:] == (1,) else mask
    for label, array, ndim in (("masks", mask, 3), ("guides", guide, 4)):
        if array is not None and array.ndim == ndim and len(array) != len(batch):
            raise InputError(f"Expected {label} for {len(batch)} images, got {len(array)}.")
    cases = []
    for i, image in enumerate(batch):
        case = build_case(
            config.task,
            "image" if len(batch) == 1 else f"image {i + 1}",
            image.astype(np.float32) / np.float32(scale),
            mask=mask[i] if mask is not None and mask.ndim == 3 else mask,
            guide=guide[i] if guide is not None and guide.ndim == 4 else guide,
            kernel=kernel,
        )
        cases.append(_with_reference(case, options, i, len(batch)))
    restored = np.stack([_to_type(x, images.dtype, scale) for x in _run(cases, config, options)])
    if images.ndim == 4:
        return restored
    return restored[0, ..., 0] if images.ndim == 2 else restored[0]


def _batch(images: np.ndarray) -> np.ndarray:
    """The images as a batch `[N, H, W, C]`."""
    images = np.asarray(images)
    if images.ndim not in (2, 3, 4):
        raise InputError(
            f"Expected an image [H, W] or [H, W, C], or a batch [N, H, W, C], got shape {images.shape}."
        )
    images = images[..., None] if images.ndim == 2 else images
    return images if images.ndim == 4 else images[None]


def _scale(images: np.ndarray) -> float:
    """The stored value of a pixel of 1."""
    if images.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(images.dtype).max)
    if images.dtype.kind != "f":
        raise InputError(
            f"Expected uint8, uint16, or floats in [0, 1], got {images.dtype}; convert the image, e.g. by "
            "astype(numpy.uint8)."
        )
    return 1.0


def _to_type(image: np.ndarray, dtype: np.dtype[Any], scale: float) -> np.ndarray:
    """The restored image in the type of the degraded one."""
    if dtype.kind == "f":
        return image.astype(dtype)
    return np.rint(np.clip(image, 0, 1) * scale).astype(dtype)


def _with_reference(case: Case, options: Options, index: int, number: int) -> Case:
    """A case with its reference in [0, 1], if there is one."""
    if options.get("reference") is None:
        return case
    reference = np.asarray(options["reference"])
    batch = _batch(reference)
    if len(batch) != number:
        raise InputError(f"Expected a reference for each of the {number} images, got {len(batch)}.")
    if batch.shape[1:] != case.shape:
        raise InputError(f"Expected a reference of shape {case.shape}, got {batch.shape[1:]}.")
    image = batch[index].astype(np.float32) / np.float32(_scale(reference))
    return case._replace(reference=image)


def _config(
    task: str,
    noise_std: float | None,
    scale: float,
    options: Options,
    values: Mapping[str, Any],
) -> Config:
    """The settings: those of the preset, then those of the arguments; checks the names of the arguments."""
    for name in options:
        require_choice("keyword argument", name, tuple(Options.__annotations__))
    settings = options.get("settings", {})
    if "estimator" in options:
        unused = [name for name in settings if not name.startswith(("task.", "run."))]
        if unused or "preset" in options:
            raise InputError(
                "An estimator replaces the settings of net, fit, sgld and stop: expected none beside it, got "
                f"{', '.join(unused) or 'a preset'}."
            )
    if noise_std is not None and noise_std > scale:
        raise InputError(
            f"noise_std has the units of the images, here 0 to {scale:g}, and got {noise_std:g}; divide float images of 0 "
            "to 255 and their noise_std by 255, or pass uint8."
        )
    noise = {} if noise_std is None else {"task.noise_std": noise_std / scale}
    changes = {**values, **noise, **settings}
    return build_config(options.get("preset"), task=task, changes=changes)


def _run(cases: Sequence[Case], config: Config, options: Options) -> list[np.ndarray]:
    """Restores cases with equal settings; returns the images in their order."""
    estimator = options.get("estimator") or estimator_from_config(config)
    on_result = options.get("on_result")
    images: dict[str, np.ndarray] = {}
    bar = ProgressBar() if options.get("progress", True) else contextlib.nullcontext()
    with bar as on_progress:
        for result in restore_many(
            cases,
            estimator,
            run=options.get("run", config.run),
            on_progress=on_progress,
            on_step=options.get("on_step"),
            every=options.get("every", 100),
            keep_networks=on_result is not None,
        ):
            if result.error is not None:
                raise result.error
            images[result.name] = result.image
            if on_result is not None:
                on_result(result)
    return [images[case.name] for case in cases]

"""The output folder of restorations from Python, as the command writes it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dip_jax.base import Case, Result, Status
from dip_jax.errors import InputError
from dip_jax.images.read import StoredImage
from dip_jax.report.image import report_image
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath, exists, make_folder, to_path


def write_run(
    folder: str | Path | AnyPath,
    restorations: Iterable[tuple[Case, Result]],
    *,
    overwrite: bool = False,
) -> list[Summary]:
    """Writes the restored images, their curves, figures and posteriors, and the page of the run.

    The files are those of the command, except `config.json`, because an estimator of objects has no config. Gray and
    RGB images become PNG files of 8 bits, others `.npy` files. `load_run` reads the folder back.

    Args:
      folder: The folder, which is created.
      restorations: Cases and their results. They may come from a generator, which is read once, so that only one
        image needs to be in memory.
      overwrite: Replace the files of an earlier run.

    Returns:
      The summary of each image.

    Raises:
      InputError: If the folder has an earlier run and `overwrite` is not set, or a result has failed.
      OSError: If a file cannot be written, or a file that no run wrote has its name.

    Example:
      >>> from dip_jax import Estimator, build_fit, case_from_operator, load_run, nets, restore
      >>> from dip_jax.operators import Identity
      >>> y = np.random.default_rng(0).random((33, 33, 1), np.float32)
      >>> case = case_from_operator("a", y, Identity(), y.shape)
      >>> fit = build_fit(nets.deep_decoder(depth=1, width=4, input_depth=4))
      >>> (result,) = restore([case], Estimator(fit, num_steps=2))
      >>> summaries = write_run("restored", [(case, result)])
      >>> load_run("restored")["a"].image.shape
      (33, 33, 1)
    """
    folder = to_path(folder)
    if exists(folder / "summary.json") and not overwrite:
        raise InputError(f"{folder} has an earlier run; pass overwrite=True, or another folder.")
    make_folder(folder)
    summaries = []
    for case, result in restorations:
        if result.status == Status.FAILED:
            raise InputError(
                f"{case.name}: expected a restored image, got a failure ({result.error})."
            )
        template = _template(result.image)
        case = case._replace(value_range=(float(template.low), float(template.high)))
        summaries.append(report_image(folder, case, result, None, template))
    write_pages(folder, summaries)
    return summaries


def _template(image: np.ndarray) -> StoredImage:
    """How an image is stored."""
    if image.shape[-1] in (1, 3):
        return StoredImage(image)
    return StoredImage(image, dtype=np.dtype(np.float32), low=0.0, high=1.0, suffix=".npy")

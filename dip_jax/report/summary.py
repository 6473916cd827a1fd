"""The schema of `summary.json`, and how the file is written and read.

The folder of an image holds one `Summary`; the output folder of a run holds the list of all.
"""

import json
from collections.abc import Sequence
from types import UnionType
from typing import Any, NotRequired, TypedDict, cast, get_args, get_origin, get_type_hints

from dip_jax.base import PosteriorKind, Status
from dip_jax.errors import InputError
from dip_jax.report.manifest import Manifest
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import AnyPath, read_bytes

_FILE = "summary.json"


class StopSummary(TypedDict):
    """Where one stopping rule stops."""

    estimate_step: int
    """Step whose estimate the rule returns."""
    fired: bool
    """Whether the rule fired within the steps that were run."""
    psnr: float | None
    """PSNR of that estimate, dB; None without a reference."""
    gap: float | None
    """PSNR of the best step minus `psnr`, dB; None without a reference."""


class PosteriorSummary(TypedDict, total=False):
    """The keys that sampling, or several seeds, add to a `Summary`.

    Standard deviations and widths are in [0, 1] units. A value is None where it is unknown; `nll` to
    `uce_scaled` and all PSNR need a reference.
    """

    intervals: PosteriorKind
    """Origin of the standard deviation: `samples`, `seeds`, `bootstrap` or `linearized`."""
    num_samples: int
    """Number of samples in all chains, of the linearized network, or of replicates."""
    num_chains: int
    """Number of chains."""
    rhat_max: float | None
    """Largest R-hat of the traced quantities; None if a chain is constant, or with too few samples."""
    ess_min: float | None
    """Smallest effective sample size of the traced quantities; None with too few samples."""
    converged: bool | None
    """Whether `rhat_max` and `ess_min` meet their limits; None if a single chain meets them."""
    temperature: float | None
    """Kinetic temperature of the samples, 1 if the steps are short enough; None if the sampler has no momentum."""
    virial: float | None
    """Mean of w grad U over the weights, 1 if their norms have settled; None if the sampler does not state it."""
    step_size: float | None
    """Length of a step of the sampler; None if it does not state it."""
    sampled_noise_std: float | None
    """Mean of the sampled noise levels, in [0, 1] units; None if the level is not sampled."""
    std_mean: float | None
    """Root mean square of the standard deviation over all values, before known values are restored."""
    error_of_mean: float | None
    """Root mean square of the Monte Carlo error of the mean, by the means of the chains; None for one chain."""
    leave_one_out: float | None
    """Fraction of the values of a chain's mean in the 90 % interval that the other chains predict, averaged over the
    chains; 0.9 is expected. None for fewer than three chains."""
    outlier_chain: int | None
    """Number of the chain, from 1, for which this fraction is lowest, if it is below 0.6; otherwise None."""
    nll: float | None
    """Mean negative log likelihood of a true value, nats."""
    coverage_90: float | None
    """Fraction of the true values inside the 90 % interval."""
    width_90: float | None
    """Mean width of the 90 % interval."""
    uce: float | None
    """Uncertainty calibration error, in squared [0, 1] units."""
    ause: float | None
    """Area under the sparsification error curve, as a fraction of the root mean squared error."""
    std_scale: float | None
    """Factor on the standard deviation, fitted on one half of the pixels; the next four use the other half."""
    nll_scaled: float | None
    """`nll` with the scaled standard deviation."""
    coverage_90_scaled: float | None
    """`coverage_90` with the scaled standard deviation."""
    width_90_scaled: float | None
    """`width_90` with the scaled standard deviation."""
    uce_scaled: float | None
    """`uce` with the scaled standard deviation."""
    num_held_out: int | None
    """Number of measured values that were held out from all chains; None if there are none."""
    held_out_error: float | None
    """Estimated root mean squared error of the mean on them, without their noise."""
    held_out_error_low: float | None
    """Lower end of its 95 % interval."""
    held_out_error_high: float | None
    """Upper end of that interval."""
    held_out_squared_error: float | None
    """Estimated mean squared error of the mean on them, in squared [0, 1] units; the noise may make it negative."""
    held_out_squared_error_std: float | None
    """Standard error of that estimate, in squared [0, 1] units."""
    held_out_predicted_error: float | None
    """Root mean square of the predicted standard deviation on them, to compare `held_out_error` with."""
    held_out_z_rms: float | None
    """Root mean square of residual / predicted standard deviation on them, the noise included; near 1 if it is strong."""
    held_out_coverage_90: float | None
    """Fraction of them inside their 90 % interval, the noise included."""
    held_out_nll: float | None
    """Mean negative log likelihood of one of them, nats."""
    psnr_sample: float | None
    """Mean PSNR of the last output of each chain, dB."""
    psnr_point: float | None
    """PSNR of a fit with as many steps, at its last step, dB."""
    psnr_point_best: float | None
    """PSNR of that fit at its best step, dB."""
    point_best_step: int
    """The best step of that fit."""
    num_seeds: int
    """Number of networks of a fit with several seeds."""
    num_averaged: int
    """Number of networks in their mean, which leaves outliers out."""
    psnr_median: float | None
    """PSNR of the pixelwise median of the networks, dB."""
    psnr_seeds: list[float | None]
    """PSNR of each network, dB."""


class Summary(PosteriorSummary):
    """One entry of `summary.json`: how an image was restored, and how well.

    All PSNR and `ssim` are None without a reference. An image that was not restored has the same keys;
    those that have no value are None.
    """

    name: str
    """Name of the image, which is also its folder."""
    task: str
    """Task, `task.name` of the config."""
    method: str
    """`fit` or `sgld`, `fit.method` of the config."""
    status: Status
    """How the restoration ended."""
    num_steps: int | None
    """Number of steps that were run; for several networks the largest."""
    stop_step: int | None
    """Step whose estimate was returned; for several networks the median, or the mean of those combined."""
    num_rollbacks: int | None
    """Number of rollbacks by the guard; for several networks the sum."""
    psnr: float | None
    """PSNR of the restored image, dB."""
    ssim: float | None
    """Structural similarity of the restored image and the reference; 1 for equal images."""
    psnr_raw: float | None
    """PSNR of the estimate before known values were put back, dB."""
    psnr_measurement: float | None
    """PSNR of the degraded image, or of the image that stands for it in the sheet, dB."""
    value_range: list[float] | None
    """Values in the file of the pixels 0 and 1; PSNR and standard deviations are relative to this range. None if it
    differs between bands."""
    noise_std: float | None
    """Known or estimated noise level in the values of the file; None if it is unknown."""
    loss: float | None
    """Loss in the last step; its unit depends on the likelihood."""
    psnr_best: float | None
    """PSNR of the best estimate of all steps, dB; None for several networks."""
    best_step: int | None
    """Step of that estimate."""
    stops: dict[str, StopSummary]
    """Each stopping rule that was run, by name; empty for sampling."""
    seconds: float | None
    """Wall time of the restoration, s, also while images share a device; for several networks the sum."""
    seconds_per_step: float | None
    """`seconds` divided by the steps of all networks, s."""
    compile_seconds: float | None
    """Wall time of compiling the program that restored the image, s."""
    peak_gigabytes: float | None
    """Peak memory of the whole run so far, 10^9 bytes: of the process on CPU, of the fullest device elsewhere."""
    num_params: int | None
    """Number of weights of one network."""
    seed: int | None
    """Random seed, `run.seed` of the config; None if there is none."""
    device: str
    """Kind of the device."""
    versions: dict[str, str]
    """Version of Python, of dip_jax and of the libraries that the numbers depend on."""
    notes: list[str]
    """Sentences for the user."""
    error: str | None
    """Why the image was not restored; None if it was."""
    digest: str
    """Checksum of the input files, by which a resumed run recognizes them; empty if unknown."""
    variant: NotRequired[str]
    """Label of the config, where one run compares several; not written to files."""


def write_summary(files: Manifest, summary: Summary) -> None:
    """Writes the summary of one image.

    Args:
      files: The record of the image.
      summary: The summary.
    """
    _write(files, summary)


def write_run_summary(output: AnyPath, summaries: Sequence[Summary]) -> None:
    """Writes the summaries of all images into the output folder of a run."""
    _write(Manifest(output), list(summaries))


def remove_summary(output: AnyPath, name: str) -> None:
    """Removes the summary of an image, so that its folder no longer counts as complete.

    Args:
      output: The output folder of the run.
      name: The name of the image.
    """
    Manifest(output, name).remove(f"{name}/{_FILE}")


def read_summary(folder: AnyPath) -> Summary | None:
    """The summary of an image, read from its `folder`; None if it is missing, damaged or incomplete."""
    try:
        return _parse(json.loads(read_bytes(folder / _FILE)))
    except (OSError, ValueError, RecursionError):
        return None


def read_run_summary(output: AnyPath) -> list[Summary]:
    """The summaries of all images, read from the output folder of a run.

    Raises:
      InputError: If the file is damaged, or belongs to a single image.
      OSError: If the file is missing or cannot be read.
    """
    path = output / _FILE
    fault = "a damaged file; run again with --resume"
    try:
        loaded = json.loads(read_bytes(path))
        if _has_type(loaded, Summary):
            fault = "that of one image; pass the folder above"
        elif _has_type(loaded, list[Summary]):
            return [_parse(summary) for summary in loaded]
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{path}: expected the summaries of a run, got {fault}.")


def _parse(summary: Any) -> Summary:
    """Raises a `ValueError` for anything but a summary from JSON."""
    if not _has_type(summary, Summary):
        raise ValueError("keys are missing or have another type")
    parsed = {**summary, "status": Status(summary["status"])}
    if "intervals" in summary:
        parsed["intervals"] = PosteriorKind(summary["intervals"])
    return cast(Summary, parsed)


def _write(files: Manifest, content: object) -> None:
    write_text(files.path(_FILE), json.dumps(content, indent=2) + "\n")


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value from JSON has a type of this file; a key that is not declared may have any value."""
    origin, items = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_has_type(value, k) for k in items)
    if origin is list:
        return isinstance(value, list) and all(_has_type(item, items[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_has_type(v, items[1]) for v in value.values())
    if hasattr(kind, "__required_keys__"):
        kinds = get_type_hints(kind)
        return (
            isinstance(value, dict)
            and kind.__required_keys__ <= value.keys()
            and all(_has_type(value[key], kinds[key]) for key in kinds.keys() & value.keys())
        )
    stored: dict[Any, Any] = {float: (int, float), Status: str, PosteriorKind: str}
    return isinstance(value, stored.get(kind, kind))

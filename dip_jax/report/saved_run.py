"""Reading an output folder back: summaries at once, arrays when they are asked for."""

import dataclasses
import json
import sys
from typing import Any

import numpy as np

from dip_jax.config import Config, from_json
from dip_jax.errors import InputError
from dip_jax.images.decode import decode
from dip_jax.posterior.arviz_data import arrays_to_arviz
from dip_jax.report.posterior_arrays import FILE, read_posterior
from dip_jax.report.summary import Summary, read_run_summary
from dip_jax.storage.paths import AnyPath, is_folder, list_folder, local_copy, read_bytes, to_path


@dataclasses.dataclass(frozen=True, eq=False)
class SavedImage:
    """An image in an output folder.

    Each access to an array reads its file and keeps nothing, so that a loop over thousands of images needs the memory
    of one. Images and standard deviations are `[H, W, C]` in [0, 1] units, as in a `Result`; only `values` has the
    units of the file. Every attribute that reads a file raises an `InputError` if it is damaged or missing, and an
    `OSError` if it cannot be accessed.
    """

    folder: AnyPath
    """The folder of the image."""
    summary: Summary
    """How the image was restored, and how well."""
    config: Config | None
    """The settings of the run; None if it was made of objects, see `write_run`."""

    @property
    def path(self) -> AnyPath:
        """The file of the restored image.

        Raises:
          InputError: If the image was not restored.
        """
        path = self._find("restored")
        if path is None:
            status, error = self.summary["status"].value, self.summary["error"]
            raise InputError(
                f"{self.folder}: expected a restored image, got none (status {status}: {error or 'no reason'}); "
                "restore it with --resume."
            )
        return path

    @property
    def values(self) -> np.ndarray:
        """The restored image as it is stored, `[H, W, C]` in the type of the file, without alpha."""
        return _read_colors(self.path)

    @property
    def image(self) -> np.ndarray:
        """The restored image, float32 `[H, W, C]`; rounded as in the file.

        Raises:
          InputError: If the bands have a range of values each, which the summary does not record.
        """
        return self._to_unit_range(self.values)

    @property
    def curve(self) -> dict[str, np.ndarray]:
        """The logged values of every tenth step, with the names of `Result.curve`; of the first of several networks.

        A value that does not exist is NaN, and a name without any value is left out.
        """
        return self.network_curves[0]

    @property
    def network_curves(self) -> tuple[dict[str, np.ndarray], ...]:
        """The curve of each network."""
        path = self.folder / "metrics.jsonl"
        return _parse_curves(path, _read(path))

    @property
    def mean(self) -> np.ndarray | None:
        """Mean of the samples, or of the seeds, with the known values of the image; None for a single fit."""
        return self._posterior("mean")

    @property
    def std(self) -> np.ndarray | None:
        """Standard deviation of the samples, or of the seeds; None for a single fit."""
        return self._posterior("std")

    @property
    def interval(self) -> np.ndarray | None:
        """Limits of the 90 % interval of each value, `[2, H, W, C]`; None if there is none."""
        low, high = self._posterior("low"), self._posterior("high")
        return None if low is None or high is None else np.stack([low, high])

    @property
    def interval_state(self) -> str | None:
        """What is missing from the deviation and the interval, such as that the chains have not converged.

        Empty if nothing is missing, None for a single fit.
        """
        state = self._posterior("state")
        return None if state is None else str(state)

    @property
    def traces(self) -> np.ndarray | None:
        """Traced quantities of each sample of M chains `[M, S, Q]`; None if nothing was sampled."""
        return self._posterior("traces")

    @property
    def trace_names(self) -> tuple[str, ...]:
        """The Q different names of these quantities, as in `Posterior`; empty if nothing was sampled."""
        names = self._posterior("trace_names")
        return () if names is None else tuple(names.tolist())

    @property
    def samples(self) -> np.ndarray | None:
        """The kept samples `[M, K, H, W, C]` of M chains; NaN where a chain kept fewer than K. None if there are none."""
        return self._posterior("samples")

    def to_arviz(self) -> Any:
        """The samples of chains for ArviZ, as `dip_jax.to_arviz` converts those of a result.

        Returns:
          An `xarray.DataTree`, or an `arviz.InferenceData` if ArviZ is older than version 1; both have the method
          `to_netcdf`.

        Raises:
          InputError: If ArviZ is not installed, nothing was sampled, or the file is damaged.
        """
        traces, samples = self.traces, self.samples
        if traces is None:
            traces = np.zeros((0, 0, 0), np.float32)
        kept = np.zeros((0, 0, 0, 0), np.float32)
        if samples is not None:
            flat = samples.reshape(-1, *samples.shape[2:])
            kept = flat[~np.isnan(flat).all(axis=(1, 2, 3))]
        return arrays_to_arviz(traces, self.trace_names, kept)

    @property
    def median(self) -> np.ndarray | None:
        """Pixelwise median of the seeds; None without several seeds."""
        path = self._find("median")
        return None if path is None else self._to_unit_range(_read_colors(path))

    def _find(self, stem: str) -> AnyPath | None:
        """The file of a name whose suffix depends on the input."""
        return next((path for path in list_folder(self.folder) if path.stem == stem), None)

    def _posterior(self, name: str) -> np.ndarray | None:
        """An array of `posterior.npz`; None if there is no such file, or the file has no such array."""
        path = self.folder / FILE
        try:
            return read_posterior(path, [name]).get(name)
        except FileNotFoundError:
            return None
        except Exception as error:  # numpy may raise anything on a damaged file
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _damaged(path, "an archive of arrays", error) from None

    def _to_unit_range(self, values: np.ndarray) -> np.ndarray:
        limits = self.summary["value_range"]
        if limits is None:
            raise InputError(
                f"{self.folder}: expected one range of values, got bands with a range each, which no file records; use "
                "`values`."
            )
        low, high = limits
        return ((values.astype(np.float64) - low) / (high - low)).astype(np.float32)


def load_run(folder: str | AnyPath) -> dict[str, SavedImage]:
    """Reads the output folder of a run.

    It reads two files. During a run, the folder lists the images that were finished some seconds before.

    Args:
      folder: The output folder, local or remote; of a comparison, the folder of one of its settings.

    Returns:
      The images by name, also those that failed.

    Raises:
      InputError: If there is no such folder, it is not an output folder, or one of the two files is damaged.
      OSError: If a file cannot be accessed.

    Example:
      >>> import imageio.v3 as iio
      >>> from dip_jax import InputFiles, build_config, restore_files
      >>> iio.imwrite("photo.png", np.random.default_rng(0).integers(0, 256, (33, 33), np.uint8))
      >>> net = ["net.kind=deep_decoder", "net.depth=1", "net.width=4", "net.input_depth=4"]
      >>> config = build_config(overrides=["fit.num_steps=1", *net])
      >>> summaries = restore_files(config, "restored", InputFiles(["photo.png"]))
      >>> saved = load_run("restored")["photo"]
      >>> saved.summary == summaries[0], saved.image.shape, saved.curve["step"].tolist()
      (True, (33, 33, 1), [0])
    """
    folder = to_path(folder)
    if not is_folder(folder):
        raise InputError(f"{folder}: expected an output folder, got no folder; check the path.")
    try:
        summaries = read_run_summary(folder)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: expected an output folder of dip_jax, got one without summary.json ({error}); pass the "
            "--output of a run, and finish an interrupted run with --resume."
        ) from None
    config = _read_config(folder / "config.json")
    return {
        summary["name"]: SavedImage(folder / summary["name"], summary, config)
        for summary in summaries
    }


def _read_config(path: AnyPath) -> Config | None:
    """The settings of a run; None if there is no such file."""
    try:
        return from_json(read_bytes(path).decode(errors="replace"))
    except FileNotFoundError:
        return None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read(path: AnyPath) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected a file of a restored image, got none; restore it with --overwrite."
        ) from None


def _read_colors(path: AnyPath) -> np.ndarray:
    with local_copy(path) as file:
        colors, _ = decode(file, max_pixels=sys.maxsize).split_alpha()
    return colors


def _parse_curves(path: AnyPath, data: bytes) -> tuple[dict[str, np.ndarray], ...]:
    """The curves in a `metrics.jsonl`, by network."""
    networks: dict[int, list[dict[str, float]]] = {}
    try:
        for entry in map(json.loads, data.decode().splitlines()):
            networks.setdefault(int(entry.pop("network", 1)), []).append(entry)
        curves = tuple(_curve(entries) for _, entries in sorted(networks.items()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, "lines of JSON", error) from None
    if not curves:
        raise _damaged(path, "lines of JSON", ValueError("it is empty"))
    return curves


def _curve(entries: list[dict[str, float]]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for entry in entries for name in entry if name != "step")
    return {
        "step": np.array([int(entry["step"]) for entry in entries]),
        **{name: np.array([float(e.get(name, np.nan)) for e in entries]) for name in names},
    }


def _damaged(path: AnyPath, expected: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return InputError(
        f"{path}: expected {expected}, got a damaged file ({reason}); restore the image with --overwrite."
    )

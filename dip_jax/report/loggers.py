"""What a run logs while it goes on, for TensorBoard and Weights & Biases: `run.log`.

Each network has a log of its own, named by its label, so that curves of images and of chains can be laid over each
other. Only the files of a run decide its result: an error of a log ends the logging, not the run.
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from dip_jax.base import Case, Result
from dip_jax.config import Config
from dip_jax.engine.observation import Observation
from dip_jax.errors import InputError, describe_error
from dip_jax.metrics import psnr_on_host
from dip_jax.report.log_tensorboard import EventFile, require_tensorboard
from dip_jax.report.log_wandb import WandbRun, require_wandb
from dip_jax.report.manifest import STATE_FOLDER
from dip_jax.report.sheet import displayed
from dip_jax.storage.paths import AnyPath, is_remote

_MAX_SIDE = 512  # pixels of a logged image; larger ones are thinned out


class Logger(Protocol):
    """Gets what networks have reached, and their results."""

    def on_step(self, observation: Observation) -> None:
        """Logs the last values and the estimate of a network."""
        ...

    def on_result(self, case: Case, result: Result) -> None:
        """Logs the restored image, and ends the logs of its networks."""
        ...

    def close(self) -> None:
        """Ends all logs."""
        ...


class NetworkLog(Protocol):
    """The log of one network."""

    def write(
        self, step: int, values: Mapping[str, float], images: Mapping[str, np.ndarray]
    ) -> None:
        """Adds numbers, and uint8 images `[H, W]` or `[H, W, 3]`, by name.

        Args:
          step: Number of steps made.
          values: The numbers.
          images: The images.
        """
        ...

    def close(self) -> None:
        """Ends the log."""
        ...


def log_folder(output: AnyPath) -> AnyPath:
    """The folder of the logs in an output folder. Its files have names that their libraries choose."""
    return output / STATE_FOLDER / "log"


def require_logger(config: Config, output: AnyPath) -> None:
    """Checks that the logs of a run can be written.

    Args:
      config: The settings; `run.log` names the kind of logs.
      output: The output folder.

    Raises:
      InputError: If the package is not installed, the user is not logged in, or the output folder is remote.
    """
    kind = config.run.log
    if kind == "none":
        return
    if is_remote(output):
        raise InputError(
            f"run.log={kind} expects a local output folder, got {output}; choose another --output, or leave out run.log."
        )
    {"tensorboard": require_tensorboard, "wandb": require_wandb}[kind]()


def build_logger(
    config: Config, output: AnyPath, *, on_message: Callable[[str], None]
) -> Logger | None:
    """Returns the logger of a run; None if `run.log` is `none`.

    Args:
      config: The settings.
      output: The output folder.
      on_message: Called with a sentence if logging ends because of an error.

    Raises:
      InputError: As in `require_logger`.

    Example:
      >>> from pathlib import Path
      >>> build_logger(Config(), Path("restored"), on_message=print) is None
      True
    """
    require_logger(config, output)
    if config.run.log == "none":
        return None
    folder = log_folder(output)

    def open_log(label: str, first_step: int) -> NetworkLog:
        if config.run.log == "tensorboard":
            return EventFile(folder / label, first_step)
        return WandbRun(folder, label, group=output.name, settings=dataclasses.asdict(config))

    return TolerantLogger(NetworkLogger(open_log), on_message)


class NetworkLogger:
    """Writes a log for each network, which is open while its image is in progress."""

    def __init__(self, open_log: Callable[[str, int], NetworkLog]):
        """Opens no log yet.

        Args:
          open_log: `open_log(label, first_step)` opens the log of a network. Steps from the first one on that an
            earlier run logged are void.
        """
        self._open_log = open_log
        self._logs: dict[str, dict[str, NetworkLog]] = {}  # by image, then by network

    def on_step(self, observation: Observation) -> None:
        """Logs the last values and the estimate of a network."""
        step, name = observation.step, observation.case.name
        log = self._log(name, observation.name, step)
        log.write(step, _finite(observation.values), {"estimate": _to_uint8(observation.image)})

    def on_result(self, case: Case, result: Result) -> None:
        """Logs the restored image, its PSNR and the step of its estimate, and ends the logs of its networks."""
        values = {"stop_step": float(result.stop_step)}
        if case.reference is not None:
            values["restored_psnr"] = psnr_on_host(result.image, case.reference)
        # A log that is opened only for the result voids no step.
        log = self._log(case.name, case.name, result.num_steps + 1)
        log.write(result.num_steps, _finite(values), {"restored": _to_uint8(result.image)})
        _close(self._logs.pop(case.name).values())

    def close(self) -> None:
        """Ends all logs."""
        _close([log for logs in self._logs.values() for log in logs.values()])
        self._logs.clear()

    def _log(self, image: str, label: str, first_step: int) -> NetworkLog:
        logs = self._logs.setdefault(image, {})
        if label not in logs:
            logs[label] = self._open_log(label, first_step)
        return logs[label]


class TolerantLogger:
    """A logger whose first error ends it with a message. Any thread may call any method."""

    def __init__(self, logger: Logger, on_message: Callable[[str], None]):
        """Wraps a logger.

        Args:
          logger: The logger, which may raise any error.
          on_message: Called with a sentence after its first error.
        """
        self._logger: Logger | None = logger
        self._on_message = on_message
        self._lock = threading.Lock()

    def on_step(self, observation: Observation) -> None:
        """Logs the last values and the estimate of a network."""
        self._attempt(lambda logger: logger.on_step(observation))

    def on_result(self, case: Case, result: Result) -> None:
        """Logs the restored image, and ends the logs of its networks."""
        self._attempt(lambda logger: logger.on_result(case, result))

    def close(self) -> None:
        """Ends all logs."""
        self._attempt(lambda logger: logger.close())

    def _attempt(self, action: Callable[[Logger], None]) -> None:
        with self._lock:
            logger = self._logger
            if logger is None:
                return
            try:
                action(logger)
            except Exception as error:  # a library may raise anything, and the disk may be full
                self._logger = None
                self._on_message(f"logging ended, the run continues ({describe_error(error)})")
                with contextlib.suppress(Exception):
                    logger.close()


def _close(logs: Iterable[NetworkLog]) -> None:
    """Closes every log, and then raises the error of one that failed."""
    with contextlib.ExitStack() as stack:
        for log in logs:
            stack.callback(log.close)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """The part of an image that is drawn, `[H, W]` or `[H, W, 3]`, thinned out if it is large."""
    pitch = math.ceil(max(image.shape[:2]) / _MAX_SIDE)
    return np.rint(255 * displayed(image[::pitch, ::pitch])).astype(np.uint8)

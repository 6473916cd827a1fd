"""What a task is: everything that differs between `denoise`, `inpaint`, ... and the tasks of users."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dip_jax.base import Array, Operator, Problem, Shape
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.fields import require_choice, shorten
from dip_jax.images.jpeg_file import JpegFile
from dip_jax.images.read import StoredImage
from dip_jax.operators.basic import Identity


class SideInputs(NamedTuple):
    """Additional inputs of a measurement; `Task.side_inputs` names those that a task takes."""

    mask: np.ndarray | None = None
    """`[H, W]`, 1 where a pixel or frequency is known and 0 where it is missing."""
    guide: np.ndarray | None = None
    """Image `[H, W, 3]` of the same scene."""
    kernel: np.ndarray | None = None
    """Blur kernel `[p, q]`."""
    jpeg: JpegFile | None = None
    """The JPEG file that the measurement was decoded from."""
    operator: Operator | None = None
    """The operator itself, if the config cannot describe it."""


class MeasurementFile(NamedTuple):
    """A measurement as it was read from its file."""

    path: Path
    """The file."""
    stored: StoredImage | None
    """The stored image; None for an array."""
    measurement: np.ndarray
    """The pixels, or the array."""


class Target(NamedTuple):
    """The measurement of a task that takes no files."""

    name: str
    """Name of the image; its random numbers follow from the name."""
    measurement: np.ndarray
    """The measurement."""


Measured = tuple[np.ndarray, SideInputs]
"""A measurement with its side inputs."""
Derived = tuple[SideInputs, tuple[str, ...]]
"""Side inputs with notes for the user."""

Preview = tuple[np.ndarray, str]
"""An estimate `[H, W, C]` with its label."""


def _one(config: TaskConfig) -> int:
    return 1


def _identity(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Operator:
    return Identity()


@dataclasses.dataclass(frozen=True)
class Task:
    """A task. The defaults describe a measurement that is an image of the size of the restored one.

    Example:
      >>> from dip_jax.operators import Downsample
      >>> halved = Task(
      ...     "halved", operator=lambda config, shape, side_inputs: Downsample(2), scale=lambda config: 2
      ... )
      >>> halved.scale(TaskConfig())
      2
    """

    name: str
    """Name of the task, an identifier."""
    _: dataclasses.KW_ONLY

    # What the task takes.
    measurement: Literal["image", "array", "any"] = "image"
    """Kind of the measurement.

    * `image`: pixels in [0, 1], from an image file; a simulation clips them.
    * `array`: an array in any unit that is not an image, from an array file. If the task has a preview, the operator is
      linear.
    * `any`: an image file or an array, in the unit of the operator.
    """
    side_inputs: tuple[str, ...] = ()
    """Fields of `SideInputs` that the task takes."""
    required: tuple[str, ...] = ()
    """Those without which there is no case."""
    settings: tuple[str, ...] = ()
    """Fields of `TaskConfig` that only some tasks use, and this one does."""
    code_from_guide: bool = False
    """Whether the guide is the code of the network (`fit.code=image`)."""
    counts_photons: bool = True
    """Whether the measured values may be numbers of photons."""
    assumes_no_noise: bool = True
    """Whether a Gaussian noise level that is not stated counts as 0, not as unknown."""

    target: Callable[[TaskConfig], Target] | None = None
    """`target(config)` returns the measurement of a task that takes no files, because its settings determine it. None
    means that a file has the measurement."""

    # From a measurement to a case.
    prepare: Callable[[TaskConfig, np.ndarray, SideInputs], Measured] | None = None
    """`prepare(config, measurement, side_inputs)` returns both in the convention of the operator; None if they are."""
    scale: Callable[[TaskConfig], int] = _one
    """`scale(config)` returns the factor by which each side of the image exceeds that of the measurement."""
    shape: Callable[[TaskConfig, tuple[int, ...], SideInputs], Shape] | None = None
    """`shape(config, measured, side_inputs)` returns the shape of the image behind a measurement of shape `measured`.
    None means that the sides are scaled and the channels kept."""
    operator: Callable[[TaskConfig, Shape, SideInputs], Operator] = _identity
    """`operator(config, shape, side_inputs)` returns the operator for an image of this shape."""
    operator_class: Callable[[TaskConfig], type[Operator]] | None = None
    """`operator_class(config)` returns the class of the operator before an image is read, so that images of similar
    sizes are read one after the other. None means unknown."""
    preview: Callable[[TaskConfig, np.ndarray, Problem, Shape], Preview] | None = None
    """`preview(config, measurement, problem, shape)` returns an estimate by a classical method, with its label; for an
    `array`, in the unit of the measurement. None means the measurement itself if it is an image, or the
    adjoint."""
    derive: Callable[[TaskConfig, MeasurementFile, SideInputs], Derived] | None = None
    """`derive(config, file, side_inputs)` adds side inputs that follow from the file of the measurement, and notes for
    the user. None means that there are none."""

    # From a clean image to a measurement.
    draw: Callable[[Array, TaskConfig, Shape, SideInputs], SideInputs] | None = None
    """`draw(key, config, shape, side_inputs)` adds random side inputs that are not given. None means that there are
    none."""
    degrade: Callable[[TaskConfig, np.ndarray, SideInputs], Measured] | None = None
    """`degrade(config, reference, side_inputs)` returns the measurement without noise, and the side inputs. None means
    that the operator makes the measurement."""
    noise_std: float | None = 0.0
    """Standard deviation of the Gaussian noise of a simulation whose config states none, in [0, 1] units. None means
    that a simulation adds no noise, and the noise level is unknown."""

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
          InputError: If the name is no identifier, or a field names something that does not exist.
        """
        if not self.name.isidentifier():
            raise InputError(
                f"The name of a task expects letters, digits and underscores, got {shorten(self.name)}."
            )
        require_choice("kind of measurement", self.measurement, ("image", "array", "any"))
        for name in (*self.side_inputs, *self.required):
            require_choice("side input", name, SideInputs._fields)
        for name in self.required:
            require_choice("side input of this task", name, self.side_inputs)
        known = tuple(field.name for field in dataclasses.fields(TaskConfig))
        for name in self.settings:
            require_choice("field of TaskConfig", name, known)

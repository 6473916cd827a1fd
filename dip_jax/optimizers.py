"""The optimizers and schedules that a config selects by name.

The optimizers are those of `optax` and `optax.contrib` that need no more than a learning rate.
Two of them need more than a call of optax:

* `muon` makes the update of each kernel orthogonal. optax must know which axes of a kernel
  `[k, k, C_in, C_out]` are the rows of its matrix.
* `schedule_free_adamw` and `schedule_free_sgd` replace a schedule by an average of the params. The
  network is trained at one point and evaluated at another.

References:
  Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
  Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2.
  Defazio et al., The Road Less Scheduled, 2024.
"""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, Literal, NamedTuple, get_args

import jax
import optax
from optax import contrib

from dip_jax.base import Params
from dip_jax.config import DEFAULT_LEARNING_RATE, Schedule
from dip_jax.errors import InputError
from dip_jax.fields import require_choice

# The first needs a random key, the second has a successor (`optimistic_adam_v2`), the third needs
# the loss as `obj_fn`, and the last is Adam for kernels of four axes.
_UNSUITABLE = {"noisy_sgd", "optimistic_adam", "sophia", "galore"}

# They estimate the size of their steps, of which the learning rate is a factor.
_ESTIMATING = {"cocob", "dadapt_adamw", "dog", "dowg", "momo", "prodigy"}


class Optimizer(NamedTuple):
    """An optimizer, and the params at which the network is evaluated."""

    transformation: optax.GradientTransformation
    """The optimizer as a transformation of gradients."""
    eval_params: Callable[[Any, Params], Params] | None = None
    """Function of the optimizer's state and the params that returns the params at which the network
    is evaluated for the estimate; None for the params themselves."""


def optimizer_names() -> tuple[str, ...]:
    """Returns the names of the optimizers that need no more than a learning rate."""
    return tuple(sorted(_builders()))


def build_optimizer(
    name: str,
    *,
    learning_rate: float | None = None,
    b2: float | None = None,
    schedule: Schedule = "constant",
    num_steps: int | None = None,
    warm_up_steps: int | None = None,
) -> Optimizer:
    """Returns an optimizer.

    A schedule counts the updates of the optimizer. A rollback of the guard also restores this
    count, so that only accepted steps advance the schedule.

    Args:
      name: One of `optimizer_names()`.
      learning_rate: Learning rate, or the largest one of the schedule. None is 1 for the optimizers
        that estimate the size of their steps (`cocob`, `dadapt_adamw`, `dog`, `dowg`, `momo`,
        `prodigy`), and 0.01 for all others.
      b2: Decay of the second moment; None for the default of optax. In `muon`, it belongs to Adam.
      schedule: Name of the schedule, see `build_schedule`.
      num_steps: Steps of the schedule; unused if it is constant.
      warm_up_steps: Steps of its warm-up; None for a twentieth of `num_steps`.

    Raises:
      InputError: If the name is unknown, or the optimizer has no `b2` or no schedule but one is
        given.

    Example:
      >>> optimizer = build_optimizer("adam", learning_rate=0.01)
      >>> optimizer.eval_params is None
      True
    """
    require_choice("optimizer", name, optimizer_names())
    build = _builders()[name]
    parameters = inspect.signature(build).parameters
    if learning_rate is None:
        learning_rate = 1.0 if name in _ESTIMATING else DEFAULT_LEARNING_RATE
    settings: dict[str, Any] = {"learning_rate": learning_rate}
    if b2 is not None:
        if "b2" not in parameters:
            raise InputError(
                f"Optimizer {name} has no b2, got fit.b2={b2:g}; set fit.b2=none or "
                "fit.optimizer=adam."
            )
        settings["b2"] = b2
    if schedule != "constant":
        if optax.Schedule not in get_args(parameters["learning_rate"].annotation):
            raise InputError(
                f"Optimizer {name} expects a constant learning rate, got "
                f"fit.schedule={schedule}; set fit.schedule=constant or fit.optimizer=adam."
            )
        if num_steps is None:
            raise InputError(f"Schedule {schedule} expects num_steps, got None.")
        settings["learning_rate"] = build_schedule(
            schedule, learning_rate=learning_rate, num_steps=num_steps, warm_up_steps=warm_up_steps
        )
    return Optimizer(
        optax.with_extra_args_support(build(**settings)),
        contrib.schedule_free_eval_params if name.startswith("schedule_free") else None,
    )


def build_schedule(
    name: Literal["cosine", "warmup_cosine"],
    *,
    learning_rate: float,
    num_steps: int,
    warm_up_steps: int | None = None,
) -> optax.Schedule:
    """Returns a schedule, a function from the number of updates made to a learning rate.

    * `cosine`: learning_rate (1 + cos(pi t / num_steps)) / 2.
    * `warmup_cosine`: a linear increase from 0 in the warm-up, then the same cosine over the rest.

    Args:
      name: Name of the schedule.
      learning_rate: The largest learning rate.
      num_steps: Steps after which the learning rate is 0.
      warm_up_steps: Steps of the warm-up, less than `num_steps`; None for a twentieth.

    Example:
      >>> schedule = build_schedule("cosine", learning_rate=0.02, num_steps=100)
      >>> [round(float(schedule(step)), 3) for step in (0, 50, 100)]
      [0.02, 0.01, 0.0]
    """
    warm_up = num_steps // 20 if warm_up_steps is None else warm_up_steps
    if name == "cosine" or not warm_up:
        return optax.cosine_decay_schedule(learning_rate, num_steps)
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm_up, num_steps)


@functools.cache
def _builders() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The functions that build an optimizer from a learning rate, by name."""
    candidates = {**vars(contrib), **vars(optax)}
    suitable = {n: f for n, f in candidates.items() if n not in _UNSUITABLE and _is_suitable(n, f)}
    return {**suitable, "muon": _muon}


def _is_suitable(name: str, candidate: Any) -> bool:
    """Whether a member of optax builds an optimizer and requires at most a learning rate."""
    is_function = isinstance(candidate, FunctionType | functools.partial)
    if name.startswith(("_", "scale_by_")) or not is_function:
        return False
    parameters = inspect.signature(candidate).parameters
    required = {p.name for p in parameters.values() if p.default is p.empty}
    return "learning_rate" in parameters and required <= {"learning_rate"}


def _muon(learning_rate: optax.ScalarOrSchedule, b2: float = 0.999) -> optax.GradientTransformation:
    """Muon for kernels `[k, k, C_in, C_out]`, and Adam for all other params."""
    kernel_axes = contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    return contrib.muon(
        learning_rate,
        adam_b2=b2,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(
            lambda w: kernel_axes if w.ndim == 4 else None, params
        ),
        # The root mean square of Adam's updates, so that both parts share a learning rate.
        consistent_rms=0.2,
    )

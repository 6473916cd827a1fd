"""The last programs of this process, so that a second restoration of the same form compiles nothing."""

import collections
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from dip_jax.engine.program_cache import Program, build_program, pickle_known

# Programs of several shapes are used in turn; each takes some MB of memory.
_NUM_KEPT = 4
_programs: collections.OrderedDict[Hashable, tuple[Program, Any]] = collections.OrderedDict()


def recall_program(
    estimator: Any,
    form: Any,
    trace: Callable[[], tuple[Callable[..., Any], Any]],
    argument_shapes: Callable[[Any], tuple[Any, ...]],
) -> tuple[Program, Any]:
    """Returns a program of this process, or builds it.

    A program is recalled for an equal config, or for the same estimator object, whose functions must be pure. A
    function of the user in `form`, such as an operator, may depend on variables that have changed since; its program
    is built each time.

    Args:
      estimator: The estimator, or the text that determines it.
      form: Everything else that determines the program, such as the shapes of its arguments.
      trace: As in `build_program`, which also describes the last argument and the result.
      argument_shapes: Returns the shapes of the arguments.
    """
    key = _key(estimator, form)
    if key in _programs:
        _programs.move_to_end(key)
        return _programs[key]
    built = build_program((estimator, form), trace, argument_shapes)
    if key is not None:
        _programs[key] = built
        while len(_programs) > _NUM_KEPT:
            _programs.popitem(last=False)
    return built


def forget_programs() -> None:
    """Frees the programs."""
    _programs.clear()


def _key(estimator: Any, form: Any) -> Hashable | None:
    """What determines a program in this process; None if that is not known."""
    pickled = pickle_known(form)
    # A context may change the default types without changing the settings.
    settings = repr(sorted(jax.config.values.items())), jax.dtypes.canonicalize_dtype(np.float64)
    key = (estimator, pickled, settings)
    try:
        hash(key)
    except TypeError:  # an array in a part of the user
        return None
    return None if pickled is None else key

"""Does a sampler follow its law? Its kinetic temperature and its virial, from the logged steps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

_TOLERANCE = 0.05
"""Excess of the kinetic temperature above 1 that no user needs to know about."""


class Law(NamedTuple):
    """Means over the steps that gave samples, of all chains; NaN for what the sampler does not state."""

    temperature: float
    """Kinetic temperature; above 1 if the steps are too long."""
    virial: float
    """Mean of w grad U / T over the weights, 1 on average in the posterior; below 1 while weights still grow."""
    step_size: float
    """Length of a step."""
    noise_std: float
    """Noise level, if it is sampled; otherwise NaN."""

    @property
    def message(self) -> str:
        """A sentence if the samples are not those of the posterior; otherwise empty."""
        if not self.temperature > 1 + _TOLERANCE:
            return ""
        return (
            f"the samples are too hot: expected a kinetic temperature of 1, got {self.temperature:.2f}; "
            "try shorter steps (--set sgld.step_size=0.08) or a longer burn-in (--num_steps)"
        )


def law_of(curves: Sequence[Mapping[str, np.ndarray]]) -> Law:
    """Returns the law of the chains of an image.

    Args:
      curves: The curve of each chain, see `Result.curve`.

    Example:
      >>> curve = {"sampled": np.array([0.0, 1.0]), "temperature": np.array([2.0, 1.01])}
      >>> law = law_of([curve])
      >>> law.temperature, law.virial, law.message
      (1.01, nan, '')
    """

    def mean_of(name: str) -> float:
        values = [
            curve[name][np.asarray(curve["sampled"]) > 0] for curve in curves if name in curve
        ]
        found = np.concatenate(values) if values else np.zeros(0)
        return float(np.mean(found)) if found.size else float("nan")

    return Law(*(mean_of(name) for name in Law._fields))

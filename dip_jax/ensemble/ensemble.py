"""Several networks of one image that are one estimator: disjoint folds, guides, a common stop, a final filter."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Case, Result
from dip_jax.ensemble.cross_validation import best_steps, select_steps
from dip_jax.ensemble.folds import draw_folds, hide_fold
from dip_jax.ensemble.guide import guide_image
from dip_jax.ensemble.similar_patches import filter_with_pilot
from dip_jax.keys import folds_key, image_key, informative_key
from dip_jax.operators.basic import Identity, Mask
from dip_jax.problem import informative_mask


class Combination(NamedTuple):
    """One estimate from those of several networks."""

    image: np.ndarray
    """The estimate `[H, W, C]`."""
    members: np.ndarray
    """The estimate of each network at the common steps `[K, H, W, C]`."""
    stop_step: int
    """Step of the estimate in the first channel of the basis, the brightness."""
    notes: tuple[str, ...]
    """Sentences for the user."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How the networks of an image share its measurement and become one estimate.

    Network k does not see fold k of the pixels. All networks run the same number of steps and keep
    their running averages at some of them (`stopping.keep`). When all have finished, the mean of
    the networks is taken, in each channel of `channel_basis` at the step with the least estimated error
    (`best_steps`).

    The measurement must have rows, columns and channels. A guide and the final filter also need
    pixels of the image itself (`Identity` or `Mask`), and a known noise level.
    """

    number: int
    """Number of networks, at least 2."""
    every: int
    """Number of steps between two kept estimates."""
    seed: int = 0
    """Seed of the folds."""
    is_guided: bool = False
    """Give each network a guide (`guide.guide_image`) as `Problem.code_image`; see `codes.guided`."""
    is_filtered: bool = False
    """Filter the measurement by its similar patches, with the mean of the networks as pilot
    (`similar_patches.filter_with_pilot`)."""

    def members(self, case: Case) -> Iterator[Case]:
        """Yields the case of each network.

        Args:
          case: The case of the image.
        """
        folds, is_known = self._folds(case)
        noise_std = _noise_std(case)
        for index in range(self.number):
            is_hidden = folds == index
            problem = hide_fold(case.problem, is_hidden)
            if self.is_guided and _measures_pixels(case):
                y = np.asarray(case.problem.measurement)
                guide = _on_host(guide_image, y, is_known & ~is_hidden, noise_std)
                problem = problem._replace(code_image=jnp.asarray(guide))
            yield case._replace(problem=problem, network_index=index)

    def combine(self, case: Case, results: Sequence[Result]) -> Combination | None:
        """Combines the results of the networks.

        Args:
          case: The case of the image.
          results: The results of those networks that count, with their kept estimates.

        Returns:
          The combination; None if a network has not kept any estimate yet.
        """
        kept = [
            result.kept[: result.num_steps // self.every]
            for result in results
            if result.kept is not None
        ]
        length = min(map(len, kept), default=0)
        if not length or len(kept) < len(results):
            return None
        estimates = np.stack([estimates[:length] for estimates in kept], axis=1)
        folds, is_known = self._folds(case)
        position = np.full(self.number, -1)
        position[[result.network_index for result in results]] = np.arange(len(results))
        y = np.asarray(case.problem.measurement)
        steps = best_steps(_predict(case, estimates), y, position[folds], is_known)
        indices = steps.indices
        if len(indices) != estimates.shape[-1]:  # the measurement has other channels than the image
            indices = np.full(estimates.shape[-1], indices[0])
        members = select_steps(estimates, indices)
        image = members.mean(axis=0)
        if self.is_filtered and _measures_pixels(case) and _noise_std(case) > 0:
            filled = np.where(is_known[..., None], y, image)
            image = _on_host(filter_with_pilot, filled, image, _noise_std(case))
        last = self.every * (indices + 1)
        return Combination(image, members, int(last[0]) - 1, (_note(last),))

    def _folds(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """The fold of each pixel, and whether it was measured in all channels, `[H, W]`."""
        key = image_key(self.seed, case.name)
        mask = jax.jit(informative_mask, static_argnums=2)(
            informative_key(key), case.problem, case.shape
        )
        is_known = np.asarray(mask).min(axis=-1) > 0
        return draw_folds(folds_key(key), is_known.shape, self.number), is_known


def _measures_pixels(case: Case) -> bool:
    """Whether a measured value is a pixel of the image with Gaussian noise, or without noise."""
    problem = case.problem
    is_copy = isinstance(problem.operator, Identity | Mask)
    return is_copy and problem.peak is None and problem.tolerance is None


def _noise_std(case: Case) -> float:
    return float(np.nan_to_num(float(case.problem.noise_std)))


def _on_host(function: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    """Calls a function with the host's CPU as the device, whose results are the same to the bit each time."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return function(*args)


def _predict(case: Case, estimates: np.ndarray) -> np.ndarray:
    """The measurements `[T, K, ...]` that the estimates predict."""
    if isinstance(case.problem.operator, Identity):
        return estimates
    predict = jax.jit(case.problem.operator)
    return np.stack([np.stack([np.asarray(predict(x)) for x in step]) for step in estimates])


def _note(steps: np.ndarray) -> str:
    """A sentence that states the steps of the channels."""
    unique = dict.fromkeys(int(step) for step in steps)
    if len(unique) == 1:
        return f"all networks were stopped at step {steps[0]}"
    colors = ", ".join(str(int(step)) for step in steps[1:])
    return f"all networks were stopped at step {steps[0]} for brightness and {colors} for color differences"

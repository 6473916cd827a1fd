"""Several networks of one image as one estimator: disjoint folds, guides, a combination, a final filter."""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Case, Result
from dip_jax.clipping import Limits
from dip_jax.ensemble.cross_validation import combine, stack
from dip_jax.ensemble.folds import block_centers, draw_folds, hide_fold
from dip_jax.ensemble.guide import guide_image
from dip_jax.ensemble.host_threads import map_on_host, one_thread_of_blas
from dip_jax.ensemble.similar_patches import MIN_SIDE, filter_with_pilot
from dip_jax.errors import InputError
from dip_jax.keys import folds_key, image_key, informative_key
from dip_jax.operators.basic import Identity, Mask
from dip_jax.problem import informative_mask, measure

_PROBE_SIDE = 48
"""Height and width of the corner whose filters are timed."""

_SHARED_NOISE_BLOCK = 3
"""Height and width of the blocks of a fold if neighbors share their noise; few cameras and files spread it further."""

_LEAST_JUDGED = 128
"""Number of pixels that judge the estimates, below which there are fewer folds than asked for."""


class Combination(NamedTuple):
    """One estimate from those of several networks."""

    image: np.ndarray
    """The estimate `[H, W, C]`."""
    members: np.ndarray
    """The combined estimates of each network `[K, H, W, C]`."""
    stop_step: int
    """Mean step of the estimates in the first channel of the basis, the brightness."""
    notes: tuple[str, ...]
    """Sentences for the user."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How the networks of an image share its measurement and become one estimate.

    Network k does not see fold k of the pixels. All networks run the same number of steps and keep
    their running averages at some of them (`stopping.keep`). When all have finished, the guides and the
    kept averages are combined with the weights that are best on unseen pixels (`cross_validation.stack`).

    The measurement must have rows, columns and channels. A guide and the final filter also need
    pixels of the image itself (`Identity` or `Mask`) and Gaussian noise; the filter needs its level.
    """

    number: int
    """Number of networks, at least 2."""
    every: int
    """Number of steps between two kept estimates."""
    num_folds: int | None = None
    """Number of folds, at least that of networks; None for that of networks. With more folds, each network sees more
    pixels, but fewer pixels judge the estimates: those that one of the networks has not seen. If they would be very few,
    there are fewer folds."""
    is_guided: bool = False
    """Give each network a guide (`guide.guide_image`) as `Problem.code_image`; see `codes.guided`."""
    code_depth: int | None = None
    """Number of channels of the code, of which a guide leaves at least one; None for any number."""
    is_filtered: bool = False
    """Filter the measurement by its similar patches, with the combination as pilot
    (`similar_patches.filter_with_pilot`), and average both."""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          InputError: If there are fewer folds than networks.
        """
        if self.num_folds is not None and self.num_folds < self.number:
            raise InputError(
                f"num_folds expects at least the number of networks, {self.number}, got {self.num_folds}."
            )

    def prepared(self, case: Case) -> Case:
        """Returns the case with a note if its guide or filter must be left out.

        Args:
          case: The case of the image.

        Raises:
          InputError: If the measurement has no rows, columns and channels, or is complex.
        """
        y = case.problem.measurement
        if y.ndim != 3 or jnp.iscomplexobj(y):
            raise InputError(
                f"{case.name}: networks that are stopped together (stop.rule=cross_validation) expect a real measurement "
                f"with rows, columns and channels, got {y.dtype} {list(y.shape)}; use another rule (--stop)."
            )
        parts = ["guide"] * (self.is_guided and not self._has_guide(case))
        parts += ["filter"] * (self.is_filtered and not _has_filter(case))
        note = (
            f"without {' and '.join(parts)}, which need pixels of the image with Gaussian noise of a known level, an "
            f"image of at least {MIN_SIDE} x {MIN_SIDE}, and fewer channels than the code (net.input_depth)"
        )
        return (
            case._replace(notes=(*case.notes, note)) if parts and note not in case.notes else case
        )

    def members(self, case: Case, seed: int = 0) -> Iterator[Case]:
        """Yields the case of each network.

        Args:
          case: The case of the image.
          seed: Seed of the run.
        """
        folds, is_known = self._folds(case, seed)
        problems = [hide_fold(case.problem, folds == index) for index in range(self.number)]
        if self.is_guided and self._has_guide(case):
            y, noise_std = np.asarray(case.problem.measurement), _noise_std(case)

            def guide(index: int) -> np.ndarray:
                return guide_image(y, is_known & (folds != index), noise_std, case.limits)

            problems = [
                problem._replace(code_image=jnp.asarray(image))
                for problem, image in zip(
                    problems, map_on_host(guide, range(self.number)), strict=True
                )
            ]
        for index, problem in enumerate(problems):
            yield case._replace(problem=problem, network_index=index)

    def combine(
        self, case: Case, members: Sequence[Case], results: Sequence[Result], seed: int = 0
    ) -> Combination | None:
        """Combines the results of the networks.

        Args:
          case: The case of the image.
          members: The cases of the networks, by their index.
          results: The results of those networks that count, with their kept estimates.
          seed: Seed of the run.

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
        estimates = np.stack([rows[:length] for rows in kept], axis=1)
        steps = self.every * np.arange(1, length + 1)
        if self.is_guided and self._has_guide(case):
            guides = [
                np.asarray(members[result.network_index].problem.code_image) for result in results
            ]
            estimates = np.concatenate([np.stack(guides)[None], estimates])
            steps = np.append(0, steps)
        folds, is_known = self._folds(case, seed)
        is_judged = is_known & block_centers(is_known.shape, _block(case))
        position = np.full(max(self.number, int(folds.max()) + 1), -1)
        position[[result.network_index for result in results]] = np.arange(len(results))
        y = np.asarray(case.problem.measurement)
        weights = stack(_predict(case, estimates), y, position[folds], is_judged).weights
        if weights.shape[1] != case.shape[2]:  # the measurement has other channels than the image
            weights = np.repeat(weights[:, :1], case.shape[2], axis=1)
        combined = combine(estimates, weights)
        image = combined.mean(axis=0)
        if self.is_filtered and _has_filter(case) and np.isfinite(combined).all():
            image = _filter(case, image, combined, position[folds], is_known, is_judged)
        stop_step = max(round(float(weights[:, 0] @ steps)) - 1, 0)
        return Combination(image, combined, stop_step, _notes(weights, steps))

    def seconds_on_host(self, case: Case) -> float:
        """Forecasts the seconds that guides and filters of an image take, from those of its upper left corner.

        Args:
          case: The case of the image, with its noise level.
        """
        if not _has_copy(case):
            return 0.0
        folds, is_known = self._folds(case, seed=0)
        corner = np.s_[:_PROBE_SIDE, :_PROBE_SIDE]
        y, is_visible = (
            np.asarray(case.problem.measurement)[corner],
            (is_known & (folds > 0))[corner],
        )
        noise_std, seconds, image = _noise_std(case), 0.0, y
        with one_thread_of_blas():  # as in the run
            if self.is_guided and self._has_guide(case):
                clock = time.perf_counter()
                image = guide_image(y, is_visible, noise_std, case.limits)
                seconds += self.number * (time.perf_counter() - clock)
            if self.is_filtered and _has_filter(case):
                clock = time.perf_counter()
                _filter_once(y, is_visible, image, noise_std, case.limits)
                seconds += (self.number + 1) * (time.perf_counter() - clock)
        pixels = is_known.size / is_visible.size
        return seconds * pixels / min(self.number, os.cpu_count() or 1)

    def _has_guide(self, case: Case) -> bool:
        """Whether the image can have a guide, which leaves channels of the code to the noise."""
        return _has_copy(case) and (self.code_depth is None or case.shape[2] < self.code_depth)

    def _folds(self, case: Case, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The fold of each pixel, and whether it was measured in all channels, `[H, W]`."""
        key = image_key(seed, case.name)
        mask = jax.jit(informative_mask, static_argnums=2)(
            informative_key(key), case.problem, case.shape
        )
        is_known = np.asarray(mask).min(axis=-1) > 0
        number = self.num_folds or self.number
        most = int(is_known.sum()) * self.number // _LEAST_JUDGED
        number = max(self.number, min(number, most))
        folds = draw_folds(folds_key(key), is_known.shape, number, block=_block(case))
        return folds, is_known


def _filter(
    case: Case,
    image: np.ndarray,
    members: np.ndarray,
    folds: np.ndarray,
    is_known: np.ndarray,
    is_judged: np.ndarray,
) -> np.ndarray:
    """Filters the measurement with the image as pilot, and averages both.

    The filter repeats structure that networks miss, but passes on some noise that they do not. So its weight follows
    from filters whose pilot and pixels are those of one network, by their errors on the pixels that it has not seen.
    """
    y, noise_std = np.asarray(case.problem.measurement), _noise_std(case)

    def filtered(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return _filter_once(y, *part, noise_std, case.limits)

    parts = [(is_known & (folds != k), pilot) for k, pilot in enumerate(members)]
    of_image, *of_members = map_on_host(filtered, [(is_known, image), *parts])
    weights = stack(np.stack([members, of_members]), y, folds, is_judged).weights
    return combine(np.stack([image, of_image]), weights)


def _filter_once(
    y: np.ndarray, is_visible: np.ndarray, pilot: np.ndarray, noise_std: float, limits: Limits
) -> np.ndarray:
    """Filters the visible pixels of a measurement; without noise, the others are filled."""
    if noise_std == 0:
        return guide_image(y, is_visible, noise_std, limits, pilot)
    noisy = np.where(is_visible[..., None], y, pilot)
    return filter_with_pilot(noisy, pilot, noise_std, limits)


def _has_copy(case: Case) -> bool:
    """Whether a measured value is a pixel of the image with Gaussian noise of a known level, which may be 0."""
    problem = case.problem
    is_copy = isinstance(problem.operator, Identity | Mask)
    is_gaussian = problem.peak is None and problem.tolerance is None
    is_large = min(case.shape[:2]) >= MIN_SIDE
    return is_copy and is_gaussian and is_large and not np.isnan(_noise_std(case))


def _has_filter(case: Case) -> bool:
    """Whether the guides could be filtered, and there is noise or a pixel that is not known."""
    is_clean_copy = _noise_std(case) == 0 and isinstance(case.problem.operator, Identity)
    return _has_copy(case) and not is_clean_copy


def _block(case: Case) -> int:
    """Height and width of the blocks of a fold."""
    return _SHARED_NOISE_BLOCK if case.shares_noise else 1


def _noise_std(case: Case) -> float:
    return float(case.problem.noise_std)


def _predict(case: Case, estimates: np.ndarray) -> np.ndarray:
    """The measurements `[T, K, ...]` that the estimates predict."""
    operator = case.problem.operator
    if isinstance(operator, Identity):
        return estimates
    # The operator is an argument, because one with arrays cannot be a constant of a compiled function.
    predict = jax.jit(lambda operator, image: measure(operator, image))
    return np.stack([[np.asarray(predict(operator, x)) for x in step] for step in estimates])


def _notes(weights: np.ndarray, steps: np.ndarray) -> tuple[str, ...]:
    """Sentences about the steps of the estimates that were combined."""
    brightness, *colors = (round(step) for step in weights.T @ steps)
    text = f"the networks were stopped together, on average at step {brightness}"
    if colors:
        found = str(colors[0]) if len(set(colors)) == 1 else f"{min(colors)} to {max(colors)}"
        text += f" for brightness and {found} for color differences"
    if steps[0] == 0 and weights[0, 0] > 0.5:
        text += " (step 0 is the guide)"
    if weights[-1, 0] > 0.5:
        return text, "brightness still improved at the last step; more steps may help (--num_steps)"
    return (text,)

"""How well the held-out pixels of a folder find one factor on its standard deviations: a table of docs/development/sampling.md.

    python -m benchmarks.folder_calibration

Errors and noise are drawn; no network is fitted. The root mean squared errors of the images vary about `FACTOR` times
the stated deviation.
"""

from typing import NamedTuple

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from dip_jax.posterior.conformal import conformal_factor, pooled_scale

FLAGS = flags.FLAGS

FACTOR = 1.3
"""Root of the mean of (squared error / stated variance)."""
SPREAD = 0.15
"""Standard deviation of the root mean squared error of an image, as a fraction, about."""
_NEW_IMAGES = 200


class Rates(NamedTuple):
    """How a folder is calibrated, over many draws."""

    told: float
    """Fraction of the draws in which the pooled factor is told."""
    covered: float
    """Fraction of the draws in which its range holds `FACTOR`."""
    factor_std: float
    """Standard deviation of the pooled factor."""
    bound: float
    """Mean bound on the error of a further image, in stated deviations."""
    exact_bound: float
    """The same if the errors of the images were known."""
    below: float
    """Fraction of further images whose error is below `bound`."""


def rates(
    num_images: int, num_values: int, deviation: float, noise_std: float, repeats: int
) -> Rates:
    """Returns how a folder is calibrated.

    The sum of n squared residuals of variance e^2 + noise_std^2 is that variance times a chi-square variable.

    Args:
      num_images: Number of images.
      num_values: Number of held-out values in each, all independent.
      deviation: Stated standard deviation, in [0, 1] units.
      noise_std: Standard deviation of the noise.
      repeats: Number of draws.
    """
    draw = np.random.default_rng(0)
    shape = 1 / (2 * SPREAD) ** 2
    stated = np.full(num_images, deviation**2)
    num = np.full(num_images, num_values)
    scales, bounds, exact, below = [], [], [], []
    for _ in range(repeats):
        ratios = FACTOR**2 * draw.gamma(shape, 1 / shape, num_images + _NEW_IMAGES)
        true, new = ratios[:num_images] * stated, ratios[num_images:]
        squares = draw.chisquare(num_values, num_images) / num_values
        v = (true + noise_std**2) * squares - noise_std**2
        scales.append(pooled_scale(v, stated, num))
        bounds.append(conformal_factor(v / stated))
        exact.append(conformal_factor(true / stated))
        below.append(np.mean(new <= bounds[-1]))
    return Rates(
        told=float(np.mean([scale.can_tell for scale in scales])),
        covered=float(np.mean([s.factor_low <= FACTOR <= s.factor_high for s in scales])),
        factor_std=float(np.nanstd([scale.factor for scale in scales])),
        bound=float(np.mean(np.sqrt(bounds))),
        exact_bound=float(np.mean(np.sqrt(exact))),
        below=float(np.mean(below)),
    )


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    columns = ("side", "hidden", "images", "told", "in range", "std", "bound", "exact", "below")
    table = Table(*columns, box=None)
    for side, fraction in ((64, 0.01), (64, 0.2), (128, 0.01), (256, 0.01), (256, 0.2)):
        for num_images in (5, 12, 30, 100):
            found = rates(
                num_images,
                3 * int(fraction * side**2),
                FLAGS.deviation / 255,
                FLAGS.noise_std / 255,
                FLAGS.repeats,
            )
            table.add_row(
                str(side),
                f"{fraction:.0%}",
                str(num_images),
                f"{found.told:.0%}",
                f"{found.covered:.0%}",
                f"{found.factor_std:.2f}",
                f"{found.bound:.2f}",
                f"{found.exact_bound:.2f}",
                f"{found.below:.0%}",
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    flags.DEFINE_float("deviation", 7.0, "Stated standard deviation in gray levels.")
    flags.DEFINE_float("noise_std", 25.0, "Standard deviation of the noise in gray levels.")
    flags.DEFINE_integer("repeats", 1000, "Number of draws for each row.")
    app.run(main)

"""How often the check of held-out pixels finds a wrong standard deviation: the table of docs/development/sampling.md.

    python -m benchmarks.predictive_check
    python -m benchmarks.predictive_check --clipped

Errors of a prediction and noise are drawn; no network is fitted. The stated standard deviation is that of the errors,
times a factor. With `--clipped`, predicted values are uniform in [0, 1] and noisy values are clipped to it.
"""

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from dip_jax.clipping import Limits
from dip_jax.posterior.prediction import check_prediction

FLAGS = flags.FLAGS

_ANSWERS = {
    "too small": "too small",
    "too large": "too large",
    "as predicted": "right",
    "too few": "cannot tell",
    "noise level is too high": "noise too high",
}
"""Answers by a part of their message."""


def answer(message: str) -> str:
    """Returns the answer that a message gives."""
    return next(name for part, name in _ANSWERS.items() if part in message)


def answers(
    num_pixels: int,
    factor: float,
    error: float,
    noise_std: float,
    repeats: int,
    *,
    is_clipped: bool = False,
) -> dict[str, float]:
    """Returns how often each answer is given, by its name.

    Args:
      num_pixels: Number of held-out pixels of three channels.
      factor: Stated standard deviation over the true one.
      error: Standard deviation of the errors, in [0, 1] units.
      noise_std: Standard deviation of the noise.
      repeats: Number of draws.
      is_clipped: Whether predicted values are uniform in [0, 1] and noisy values clipped to it.
    """
    limits = Limits(black=is_clipped, white=is_clipped)
    draw, found = np.random.default_rng(0), []
    is_hidden = np.ones((num_pixels, 1, 3), bool)
    for _ in range(repeats):
        y = draw.normal(0, error, is_hidden.shape) + draw.normal(0, noise_std, is_hidden.shape)
        mean = np.zeros_like(y)
        if is_clipped:
            mean = draw.uniform(size=y.shape)
            y = np.clip(mean + y, 0, 1)
        check = check_prediction(mean, factor * error, y, noise_std, is_hidden, limits)
        found.append(answer(check.message))
    return {name: found.count(name) / repeats for name in _ANSWERS.values()}


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    table = Table("side", "hidden", "factor", *_ANSWERS.values(), box=None)
    for side in (96, 128, 256):
        for fraction in (0.01, 0.2):
            for factor in (0.0, 0.5, 1.0, 2.0):
                rates = answers(
                    int(fraction * side**2),
                    factor,
                    FLAGS.error / 255,
                    FLAGS.noise_std / 255,
                    FLAGS.repeats,
                    is_clipped=FLAGS.clipped,
                )
                cells = [f"{rate:.0%}" for rate in rates.values()]
                table.add_row(str(side), f"{fraction:.0%}", f"{factor:g}", *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    flags.DEFINE_float("error", 7.0, "Standard deviation of the errors in gray levels.")
    flags.DEFINE_float("noise_std", 25.0, "Standard deviation of the noise in gray levels.")
    flags.DEFINE_integer("repeats", 1000, "Number of draws for each row.")
    flags.DEFINE_bool("clipped", False, "Values in [0, 1] with clipped noise.")
    app.run(main)

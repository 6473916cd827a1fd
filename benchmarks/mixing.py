"""Do the chains of a sampler agree, and does the length of its step change its law? The tables of docs/development/sampling.md.

    python -m benchmarks.mixing --sampler=underdamped --sampler="psgld step_size=0.01"
    python -m benchmarks.mixing --sampler=underdamped --sampler="underdamped step_size=0.08" --chains=1
    python -m benchmarks.mixing --sampler=underdamped --sampler="mclmc step=20"

Each picture is a crop with noise of 25 gray levels; the network has 32 channels and four scales. All chains of all samplers
have the same number of gradients, one for each step; a step of `mclmc` takes two (see `benchmarks.mclmc`). R-hat and
the effective sample sizes are those of the means of blocks of 8 x 8 pixels and of 64 single pixels. A row for each
picture and sampler is appended to `--json`.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import environment, mclmc
from benchmarks.pictures import HALVES, clean_crop
from benchmarks.records import append_row, psnr
from dip_jax.base import Case, Posterior
from dip_jax.config import Config
from dip_jax.engine.restore import restore
from dip_jax.keys import image_key, simulation_key
from dip_jax.posterior.convergence import Diagnosis, diagnose
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

Curve = dict[str, np.ndarray]
"""Values of each step, or of each sample."""
_BLOCK = 8
_KEPT = 1000
"""Samples of each chain whose blocks are compared, at most."""


def config_of(sampler: str, *, num_steps: int, chains: int, overrides: list[str]) -> Config:
    """Returns the config of a sampler.

    Args:
      sampler: Its name, and settings of the section `sgld`: 'NAME FIELD=VALUE ...'.
      num_steps: Number of steps.
      chains: Number of chains.
      overrides: Further settings, FIELD=VALUE.
    """
    name, *fields = sampler.split()
    settings = [
        "fit.method=sgld",
        f"fit.num_steps={num_steps}",
        f"sgld.sampler={name}",
        f"sgld.num_chains={chains}",
        f"sgld.keep_samples={_KEPT}",
        "sgld.point_estimate=False",
        *overrides,
        *(f"sgld.{field}" for field in fields),
    ]
    return build_config("denoise_single", overrides=settings)


def of_blocks(posterior: Posterior) -> Diagnosis:
    """Returns the convergence of the means of blocks.

    Args:
      posterior: The pooled chains, with kept samples.
    """
    chains, samples = len(posterior.chain_means), posterior.samples
    rows, columns = (size // _BLOCK for size in samples.shape[1:3])
    cut = samples[:, : rows * _BLOCK, : columns * _BLOCK]
    means = cut.reshape(len(cut), rows, _BLOCK, columns, _BLOCK, -1).mean(axis=(2, 4))
    traces = means.reshape(chains, len(cut) // chains, -1)
    return diagnose(traces, [f"block {i}" for i in range(traces.shape[2])])


def sample(case: Case, sampler: str, **settings: Any) -> tuple[Posterior, Sequence[Curve], float]:
    """Returns the pooled chains of a sampler, the curve of each, and the seconds.

    Args:
      case: The image to restore, with a reference.
      sampler: The sampler with its settings, see `config_of`; or `mclmc` with those of `mclmc.Settings`.
      **settings: The arguments of `config_of`.
    """
    name, *fields = sampler.split()
    if name == "mclmc":
        return mclmc.sample(case, config_of("underdamped", **settings), mclmc.settings_of(fields))
    (result,) = restore([case], config_of(sampler, **settings))
    assert result.posterior is not None
    return result.posterior, result.network_curves or (result.curve,), result.seconds


def row_of(
    posterior: Posterior,
    curves: Sequence[Curve],
    reference: np.ndarray,
    noise_std: float,
    num_steps: int,
) -> dict[str, Any]:
    """Returns the figures of a sampler on one picture.

    Args:
      posterior: The pooled chains, with kept samples.
      curves: The curve of each chain.
      reference: The clean image.
      noise_std: Standard deviation of the noise.
      num_steps: Number of gradients of each chain.
    """
    pixels = diagnose(posterior.traces, posterior.trace_names)
    blocks = of_blocks(posterior)
    sampled = [curve["sampled"] > 0 for curve in curves]
    gradients = num_steps * len(curves) / 1000

    def mean_of(name: str, average: Callable[[np.ndarray], Any] = np.mean) -> float | None:
        if name not in curves[0]:
            return None
        return float(np.mean([average(c[name][s]) for c, s in zip(curves, sampled, strict=True)]))

    return {
        "rhat_blocks": float(np.median(blocks.rhat)),
        "rhat_blocks_max": blocks.rhat_max,
        "rhat_pixels": float(np.median(pixels.rhat)),
        "rhat_pixels_max": pixels.rhat_max,
        "ess_blocks": float(np.median(blocks.ess_bulk)) / gradients,
        "ess_pixels": float(np.median(pixels.ess_bulk)) / gradients,
        "ess_pixels_min": pixels.ess_min / gradients,
        "misfit": mean_of("loss") / noise_std**2,
        "temperature": mean_of("temperature"),
        "virial": mean_of("virial"),
        "step_size": mean_of("step_size"),
        "energy_var": mean_of("energy_var"),
        "energy_var_median": mean_of("energy_var", np.median),
        "std": 255 * float(np.sqrt(np.mean(posterior.std**2))),
        "psnr_sample": mean_of("psnr"),
        "psnr_chains": [psnr(mean, reference) for mean in posterior.chain_means],
        "psnr": psnr(posterior.mean, reference),
    }


def main(argv: list[str]) -> None:
    """Samples, appends the rows and prints a table."""
    del argv
    flag = flags.FLAGS
    names = "picture sampler blocks max pixels max ESS/1000 pixels misfit temp virial step dE^2/D median std dB"
    table = Table(*names.split(), box=None)
    for name in flag.pictures:
        pictures = {**HALVES["development"], **HALVES["test"]}
        reference = clean_crop(pictures[name], flag.side)
        for sampler in flag.sampler:
            overrides = [*flag.set, f"run.seed={flag.seed}"]
            settings = {"num_steps": flag.num_steps, "chains": flag.chains, "overrides": overrides}
            task = config_of("underdamped", **settings).task
            case = simulate_case(simulation_key(image_key(flag.seed, name)), task, name, reference)
            posterior, curves, seconds = sample(case, sampler, **settings)
            noise_std = float(case.problem.noise_std)
            row = row_of(posterior, curves, reference, noise_std, flag.num_steps)
            row["seconds"] = seconds
            head = {"command": " ".join(sys.argv), **environment(), "picture": name}
            append_row(Path(flag.json), {**head, "sampler": sampler, "settings": flag.set, **row})
            errors = (row[key] for key in ("energy_var", "energy_var_median"))
            optional = (row[key] for key in ("temperature", "virial", "step_size"))
            table.add_row(
                name,
                sampler,
                *(f"{row[key]:.3f}" for key in ("rhat_blocks", "rhat_blocks_max")),
                *(f"{row[key]:.3f}" for key in ("rhat_pixels", "rhat_pixels_max")),
                *(f"{row[key]:.1f}" for key in ("ess_blocks", "ess_pixels")),
                f"{row['misfit']:.4f}",
                *("" if value is None else f"{value:.4f}" for value in optional),
                *("" if value is None else f"{value:.1e}" for value in errors),
                f"{row['std']:.1f}",
                f"{row['psnr']:.2f}",
            )
            Console(width=150).print(table)


_SMALL = [
    "net.channels_down=32,32,32,32",
    "net.channels_up=32,32,32,32",
    "net.channels_skip=4,4,4,4",
    "sgld.held_out_fraction=0",
]

if __name__ == "__main__":
    flags.DEFINE_list("pictures", ["ihc", "china", "hopper"], "Names of pictures.")
    flags.DEFINE_multi_string(
        "sampler", ["underdamped", "psgld"], "Samplers with settings, 'NAME FIELD=VALUE ...'."
    )
    flags.DEFINE_integer("side", 64, "Height and width.")
    flags.DEFINE_integer("num_steps", 10_000, "Steps of each chain.")
    flags.DEFINE_integer("chains", 2, "Number of chains.")
    flags.DEFINE_integer("seed", 0, "Seed of noise, code, weights and chains.")
    flags.DEFINE_multi_string("set", _SMALL, "Config overrides, FIELD=VALUE.")
    flags.DEFINE_string("json", "mixing.jsonl", "File to which rows are appended.")
    app.run(main)

"""The posterior of a signal: Langevin sampling of the weights of a network, and a Gaussian process.

    python -m examples.posterior_1d --output=out/gp_posterior_1d.png

About a tenth of the 128 points of 0.3 sin(8 pi x) + 0.1 sin(32 pi x) are known, without noise. The
example draws three posteriors, mean and two standard deviations, for a shallow network with a fine
code and a deep network with a smooth code:

* the closed form for infinitely wide networks, a Gaussian process, with a likelihood of standard
  deviation `--noise_std`;
* Langevin dynamics at temperature 1 with the same likelihood and the prior of the weights, in
  networks of `--width` channels. It differs from the closed form by the finite width, the single
  fixed code and the step size;
* the 2019 code (`sampler="paper"`): Adam on the sum of squared errors, with noise of standard
  deviation 2 learning_rate on the kernels, for 8000 steps. Its band is not that of the posterior.

It takes about three minutes on two cores. The deep network of 32 channels is not yet in the limit:
its mean is 0.056 from the closed form. With `--width=128 --chains=2` (six minutes) it is 0.020.

References:
  Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from dip_jax.base import Array, Net, Params
from dip_jax.config import SgldConfig
from dip_jax.engine.from_config import sampler_from_config
from dip_jax.posterior import gaussian_process as gp
from dip_jax.report.png import save_png

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "out/gp_posterior_1d.png", "Output file of the figure.")
flags.DEFINE_integer("seed", 0, "Seed of codes, weights and sampling.")
flags.DEFINE_integer("width", 32, "Channels of the networks.")
flags.DEFINE_integer("chains", 4, "Number of chains at temperature 1.")
flags.DEFINE_integer("steps", 30000, "Steps of each chain; the first quarter is the burn-in.")
flags.DEFINE_float("step_size", 5e-4, "Step size of the chains.")
flags.DEFINE_float("noise_std", 0.05, "Standard deviation of the likelihood.")

POINTS = 128
SETTINGS = ((2, 1), (15, 4))  # smoothing of the code (standard deviation), rectified layers
_KNOWN_SEED = 1000

PRIOR_STD = 0.05**0.5  # of the outputs at random weights; the root mean square of the signal

Moments = tuple[np.ndarray, np.ndarray]  # mean and standard deviation of each point


def build_signal() -> tuple[np.ndarray, np.ndarray]:
    """Returns the signal, and a mask of its known points, about one in ten."""
    x = np.arange(POINTS) / POINTS
    known = np.random.default_rng(_KNOWN_SEED).random(POINTS) > 0.9
    return 0.3 * np.sin(8 * np.pi * x) + 0.1 * np.sin(32 * np.pi * x), known


def gaussian_posterior(
    signal: np.ndarray, known: np.ndarray, *, depth: int, input_std: float, noise_std: float
) -> Moments:
    """Returns the posterior of infinitely wide networks, in closed form."""
    lags = np.arange(POINTS)
    kernel = PRIOR_STD**2 * gp.network_kernel(lags, depth, input_std)[None]
    positions = np.stack([np.zeros_like(lags), lags], axis=-1)
    matrix = gp.covariance_matrix(kernel, positions)
    return gp.posterior(matrix, known, signal[known], noise_std=noise_std)


def sample(
    key: Array,
    net: Net,
    code: Array,
    loss_fn: Callable[[Array], Array],
    config: SgldConfig,
    *,
    learning_rate: float,
    num_steps: int,
    scale: float = 1.0,
) -> Array:
    """Samples outputs of a network by a sampler of `dip_jax.sgld`.

    Args:
      key: Random key, consumed.
      net: The network whose params are sampled, from its random initial params.
      code: Code of the network.
      loss_fn: `loss_fn(output) -> loss`.
      config: Settings of the sampler.
      learning_rate: Learning rate or step size; see `sampler_from_config`.
      num_steps: Number of steps.
      scale: Factor between the loss and the negative log likelihood.

    Returns:
      Outputs after the burn-in, every `thin`-th step `[S, W]`.
    """
    sampler = sampler_from_config(config, learning_rate, num_steps)
    key_start, key_steps = jax.random.split(key)
    params = net.init(key_start)

    def step(carry: tuple[Params, Params], i: Array) -> tuple[tuple[Params, Params], None]:
        params, state = carry
        grads = jax.grad(lambda w: loss_fn(net.apply(w, code)))(params)
        updates, state = sampler.update(
            grads, state, params, key=jax.random.fold_in(key_steps, i), scale=scale
        )
        return (jax.tree.map(jnp.add, params, updates), state), None

    def sweep(carry: tuple[Params, Params], first: Array):
        carry, _ = jax.lax.scan(step, carry, first + jnp.arange(config.thin))
        return carry, net.apply(carry[0], code)[0, :, 0]

    firsts = np.arange(0, num_steps, config.thin)
    _, outputs = jax.lax.scan(sweep, (params, sampler.init(params)), firsts)
    _, burn_in = config.phases(num_steps)
    return outputs[firsts >= burn_in]


def unit_weights(net: Net) -> Net:
    """Returns the network with weights in units of their standard deviation, so w ~ N(0, 1)."""

    def std(w: Array) -> float:
        return (3 * w.shape[2]) ** -0.5

    return net._replace(
        init=lambda key: jax.tree.map(lambda w: w / std(w), net.init(key)),
        apply=lambda params, code: net.apply(jax.tree.map(lambda w: w * std(w), params), code),
    )


def langevin_posterior(
    key: Array, signal: np.ndarray, known: np.ndarray, *, depth: int, input_std: float
) -> Moments:
    """Samples the posterior of networks of finite width by Langevin dynamics at temperature 1."""
    net = unit_weights(gp.conv_relu_net(POINTS, depth=depth, width=FLAGS.width))
    config = SgldConfig(
        sampler="sgld",
        step_size=FLAGS.step_size,
        prior_precision=1.0,
        burn_in=FLAGS.steps // 4,
        warm_up=0,
        thin=50,
    )
    target, weights = jnp.asarray(signal, jnp.float32), jnp.asarray(known, jnp.float32)

    def chain(key: Array) -> Array:
        key_code, key_chain = jax.random.split(key)
        # Each rectifier halves the variance, which starts with that of the code.
        code_std = PRIOR_STD * 2 ** (depth / 2)
        code = code_std * gp.smooth_code(key_code, net.code_shape, input_std)
        # U = sum of squared errors / (2 noise_std^2) + |w|^2 / 2
        return sample(
            key_chain,
            net,
            code,
            lambda x: jnp.sum(weights * (x[0, :, 0] - target) ** 2),
            config,
            learning_rate=FLAGS.step_size,
            num_steps=FLAGS.steps,
            scale=0.5 / FLAGS.noise_std**2,
        )

    samples = jax.jit(lambda keys: jax.lax.map(chain, keys))(jax.random.split(key, FLAGS.chains))
    samples = np.asarray(samples).reshape(-1, POINTS)
    return samples.mean(axis=0), samples.std(axis=0)


def paper_posterior(
    key: Array, signal: np.ndarray, known: np.ndarray, *, depth: int, input_std: float
) -> Moments:
    """Samples as the 2019 code does: 8000 steps, of which every 20th after 5000 is a sample."""
    net = gp.conv_relu_net(POINTS, depth=depth, width=32)
    config = SgldConfig(sampler="paper", burn_in=5000, thin=20, weight_decay=1e-5)
    target, weights = jnp.asarray(signal, jnp.float32), jnp.asarray(known, jnp.float32)
    key_code, key_chain = jax.random.split(key)
    # The weights of the Gaussian in that code sum to one, so its noise has this standard deviation.
    code_std = (4 * np.pi * input_std**2) ** -0.25
    code = code_std * gp.smooth_code(key_code, net.code_shape, input_std)
    run = jax.jit(
        lambda key: sample(
            key,
            net,
            code,
            lambda x: jnp.sum(weights * (x[0, :, 0] - target) ** 2),
            config,
            learning_rate=1e-3,
            num_steps=8000,
        )
    )
    samples = np.asarray(run(key_chain))
    return samples.mean(axis=0), samples.std(axis=0)


def draw(path: Path, signal: np.ndarray, known: np.ndarray, rows: list[list[Moments]]) -> None:
    """Draws a row for each setting and a column for each posterior."""
    titles = (
        "Gaussian process, closed form",
        f"Langevin, T = 1, {FLAGS.width} channels",
        "2019 code: Adam and noise",
    )
    figure = Figure(figsize=(11, 5))
    axes = figure.subplots(len(rows), len(titles), sharex=True, sharey="row")
    x = np.arange(POINTS) / POINTS
    for (input_std, depth), row, moments in zip(SETTINGS, axes, rows, strict=True):
        for axis, (mean, std) in zip(row, moments, strict=True):
            axis.fill_between(x, mean - 2 * std, mean + 2 * std, color="C0", alpha=0.25, lw=0)
            axis.plot(x, signal, color="0.4", lw=0.8, ls="--", label="signal")
            axis.plot(x, mean, color="C0", lw=1.3, label="mean, +- 2 std")
            axis.plot(x[known], signal[known], "k.", ms=5, label="known")
            axis.spines[["top", "right"]].set_visible(False)
        layers = "layer" if depth == 1 else "layers"
        row[0].set_ylabel(f"code smoothed by {input_std},\n{depth} rectified {layers}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    axes[0, 0].legend(loc="upper right", fontsize=7, frameon=False)
    figure.tight_layout()
    save_png(path, figure)


def main(argv: list[str]) -> None:
    """Samples, prints how far the posteriors are from the closed form, and draws them."""
    del argv
    signal, known = build_signal()
    print(f"{known.sum()} of {POINTS} points known, seed {FLAGS.seed}")
    rows = []
    for i, (input_std, depth) in enumerate(SETTINGS):
        network = {"depth": depth, "input_std": input_std}
        keys = jax.random.split(jax.random.fold_in(jax.random.key(FLAGS.seed), i))
        exact = gaussian_posterior(signal, known, **network, noise_std=FLAGS.noise_std)
        langevin = langevin_posterior(keys[0], signal, known, **network)
        paper = paper_posterior(keys[1], signal, known, **network)
        rows.append([exact, langevin, paper])
        print(f"code smoothed by {input_std}, {depth} rectified layers")
        for name, (mean, std) in zip(
            ("closed form", "Langevin", "2019 code"), rows[-1], strict=True
        ):
            error = np.sqrt(np.mean((mean - signal)[~known] ** 2))
            coverage = np.mean(np.abs(mean - signal)[~known] <= 2 * std[~known])
            distance = np.sqrt(np.mean((mean - exact[0]) ** 2))
            print(
                f"  {name:12} error of the mean {error:.3f}, mean std {std[~known].mean():.3f}, "
                f"within 2 std {100 * coverage:.0f} %, distance from the closed form {distance:.3f}"
            )
    path = Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(path, signal, known, rows)


if __name__ == "__main__":
    app.run(main)

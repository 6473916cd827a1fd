"""MCLMC of blackjax on the posterior of the network, as a control of the samplers of the package.

Microcanonical Langevin dynamics move with a constant speed |u| = 1 along

    dx = u dt,   du = (1 - u u^T) (-grad U(x) / (D - 1) dt + noise),

whose stationary density is exp(-U(x)). Here x = M^(1/2) w for the weights w, with the Fisher mass M that `underdamped`
has found: a chain makes the burn-in of `underdamped`, Adam included, and then steps of blackjax. So both differ in the
dynamics alone. A weight that `underdamped` keeps constant is constant here too; a normal variable takes its place in x.

A step of the integrator of McLachlan (`mclachlan`, the default of blackjax) takes two gradients, one of velocity Verlet
(`verlet`) a single one. Chains of both have as many gradients as those of the other samplers. The image of a sample is
one more evaluation of the network, which is not counted.

References:
  Robnik, De Luca, Silverstein and Seljak, Microcanonical Hamiltonian Monte Carlo, 2023.
  Robnik and Seljak, Fluctuation without dissipation: Microcanonical Langevin Monte Carlo, 2024.
"""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from dip_jax.base import Array, Case, Info, Posterior, Problem
from dip_jax.config import Config
from dip_jax.engine.from_config import algorithm_from_config, sampled_loss
from dip_jax.errors import InputError
from dip_jax.keys import image_key
from dip_jax.losses import mean_loss, nll_scale
from dip_jax.metrics import psnr
from dip_jax.nets import ConfiguredNet
from dip_jax.posterior.moments import trace_names, trace_values
from dip_jax.posterior.pooling import pool_chains
from dip_jax.scale_invariance import find_invariance
from dip_jax.underdamped import UnderdampedState

GRADIENTS = {"mclachlan": 2, "verlet": 1}
"""Gradients of a step of each integrator."""


class Settings(NamedTuple):
    """Settings of MCLMC."""

    step: float = 20.0
    """Length of a step in x. On one crop (table in docs/development/sampling.md) the effective sample size grows with it, but so does
    the misfit: by 0.3, 1.3 and 2.7 % from 5 to 10, 20 and 40, where that of a single sample deviates by 1.3 %. At 40
    the mean square error of the energy is 77 for each of the D weights."""
    length: float | None = None
    """Length L after which the direction is forgotten; None for D^(1/2), which is 349 for the network of `mixing`."""
    integrator: str = "mclachlan"
    """`mclachlan` or `verlet`."""


def settings_of(fields: list[str]) -> Settings:
    """Returns the settings of a list of FIELD=VALUE; raises an `InputError` for another field or integrator."""
    values: dict[str, Any] = dict(field.split("=", 1) for field in fields)
    integrator = values.pop("integrator", "mclachlan")
    if integrator not in GRADIENTS or not set(values) <= {"step", "length"}:
        raise InputError(f"Expected step, length and integrator ({GRADIENTS}), got {fields}.")
    return Settings(**{name: float(value) for name, value in values.items()}, integrator=integrator)


class Energy:
    """The energy U(x) = k L(w) + (p / 2) |w|^2 after the burn-in, for x = M^(1/2) w `[D]`."""

    def __init__(self, state: Any, problem: Problem, config: Config):
        """Takes over the weights, the mass and the constant weights of a `SgldState` of `underdamped`."""
        warm_up = state.fit.opt_state
        (dynamics,) = (part for part in warm_up.sampler if isinstance(part, UnderdampedState))
        pairs = find_invariance(warm_up.sums, state.params).is_pair
        filled = jax.tree.map(lambda pair, w: jnp.broadcast_to(pair, w.shape), pairs, state.params)
        self.moves = ~ravel_pytree(filled)[0]
        self.first, self._unravel = ravel_pytree(state.params)
        self.root = jnp.sqrt(dynamics.mass + dynamics.precision)
        self._precision, self._code = dynamics.precision, state.variables["code"]
        self._problem, self._loss = problem, sampled_loss(config)
        self._net = ConfiguredNet(config.net)(state.average.shape)

    def output(self, x: Array) -> tuple[Array, Array]:
        """Returns the mean loss L and the image `[H, W, C]`."""
        w = jnp.where(self.moves, x / self.root, self.first)
        image = self._net.apply(self._unravel(w)["net"], self._code)
        return mean_loss(self._loss, self._problem.operator(image), self._problem), image

    def __call__(self, x: Array) -> Array:
        """Returns U, a scalar."""
        precision = jnp.where(self.moves, self._precision / self.root**2, 1)
        misfit, _ = self.output(x)
        return nll_scale(self._loss, self._problem) * misfit + jnp.sum(precision * x * x) / 2


def sample(case: Case, config: Config, settings: Settings) -> tuple[Posterior, list[Any], float]:
    """Samples the posterior of an image by MCLMC.

    Args:
      case: The image, with a reference.
      config: Settings of the sampler `underdamped`, with `fit.num_steps` as the number of gradients of a chain.
      settings: Those of MCLMC.

    Returns:
      The pooled chains, with all samples; the curve of each chain, with a value for each sample; and the seconds.

    Raises:
      InputError: If measurements are held out, or the temperature is not 1.
    """
    if config.sgld.held_out_fraction or config.sgld.temperature != 1:
        raise InputError("MCLMC expects sgld.held_out_fraction=0 and sgld.temperature=1.")
    chain = jax.jit(functools.partial(_chain, config=config, settings=settings, shape=case.shape))
    begin, posteriors, curves = time.perf_counter(), [], []
    for index in range(config.sgld.num_chains):
        key = image_key(config.run.seed, case.name, network_index=index)
        found = chain(key, case.problem, case.reference, jnp.float32(settings.step))
        images, traces, curve = jax.tree.map(np.asarray, found)
        mean, std = images.mean(axis=0), images.std(axis=0, ddof=1)
        names = trace_names(case.shape)
        posteriors.append(
            Posterior(mean, std, mean[None], len(images), traces[None], names, images)
        )
        curves.append(curve)
    return pool_chains(posteriors), curves, time.perf_counter() - begin


def _chain(
    key: Array,
    problem: Problem,
    reference: Array,
    step: Array,
    *,
    config: Config,
    settings: Settings,
    shape: tuple[int, int, int],
) -> tuple[Array, Array, dict[str, Array]]:
    """The images `[S, H, W, C]`, traces `[S, Q]` and other values `[S]` of a chain; an argument `step` saves programs."""
    # Not at the top: importing blackjax creates arrays, after which JAX cannot set up devices.
    import blackjax
    from blackjax.mcmc import integrators

    sgld = dataclasses.replace(config.sgld, keep_samples=0)
    config = dataclasses.replace(config, sgld=sgld)
    fit = algorithm_from_config(config, ConfiguredNet(config.net))
    _, burn_in = sgld.phases(config.fit.num_steps)
    state = fit.init(key, problem, shape)
    state = lax.fori_loop(0, burn_in, lambda _, state: fit.step(problem, state)[0], state)
    energy = Energy(state, problem, config)
    is_default = settings.integrator == "mclachlan"
    name = "isokinetic_mclachlan" if is_default else "isokinetic_velocity_verlet"
    length = jnp.sqrt(energy.first.size) if settings.length is None else settings.length
    sampler = blackjax.mclmc(
        lambda x: -energy(x), L=length, step_size=step, integrator=getattr(integrators, name)
    )

    def to_sample(state: Any, keys: Array) -> tuple[Any, Any]:
        state, info = lax.scan(lambda state, key: sampler.step(key, state), state, keys)
        x = state.position
        loss, image = energy.output(x)
        virial = -jnp.sum(jnp.where(energy.moves, x * state.logdensity_grad, 0))
        values = {
            "sampled": jnp.float32(1),
            "loss": loss,
            "psnr": psnr(image, reference),
            "virial": virial / jnp.sum(energy.moves),
            "step_size": step,
            "energy_var": jnp.mean(jnp.square(info.energy_change)) / x.size,
        }
        return state, (image, trace_values(Info(loss, image, image, jnp.bool_(True))), values)

    cost = GRADIENTS[settings.integrator]
    per_sample = max(sgld.thin // cost, 1)
    num_samples = (config.fit.num_steps - burn_in) // (cost * per_sample)
    # Keys of steps that the fit has not made.
    first_key, key = jax.random.split(
        jax.random.fold_in(jax.random.wrap_key_data(state.fit.key), burn_in)
    )
    keys = jax.random.split(key, (num_samples, per_sample))
    return lax.scan(to_sample, sampler.init(energy.root * energy.first, first_key), keys)[1]

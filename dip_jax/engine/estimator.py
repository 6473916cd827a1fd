"""The algorithm and the stopping rule of a config."""

import dataclasses

from dip_jax.base import Algorithm, Net, Operator, Stopper
from dip_jax.config import Config
from dip_jax.fit import average_lag, build_fit
from dip_jax.losses import build_likelihood
from dip_jax.operators.pixelwise import is_pixelwise
from dip_jax.sgld import build_sampler, build_sgld, sampler_args
from dip_jax.stopping.fixed import fixed
from dip_jax.stopping.held_out import hold_out_from_sampler
from dip_jax.stopping.rules import build_stopper


def build_algorithm(config: Config, net: Net) -> Algorithm:
    """Returns the algorithm of a config: a fit, or a fit whose optimizer is a sampler."""
    fit, sgld, num_steps = config.fit, config.sgld, config.fit.num_steps
    if fit.method == "fit":
        return build_fit(fit, net)
    if sgld.sampler != "paper":
        fit = dataclasses.replace(fit, perturbation=sgld.perturbation)
    sampler = build_sampler(sgld, learning_rate=fit.learning_rate, num_steps=num_steps)
    arguments = sampler_args(fit.likelihood)
    inner = build_fit(fit, net, optimizer=sampler, extra_args=arguments)
    return build_sgld(sgld, inner, num_steps=num_steps)


def choose_stopper(config: Config, algorithm: Algorithm, operator: Operator) -> Stopper:
    """Returns the stopping rule of a config.

    Sampling needs no rule, but some measurements may be held out to check its predictions.
    """
    if config.fit.method == "sgld":
        holds_out = config.sgld.held_out_fraction and is_pixelwise(operator)
        return hold_out_from_sampler(config.sgld.held_out_fraction) if holds_out else fixed()
    return build_stopper(
        config.stop,
        lag=average_lag(config.fit),
        algorithm=algorithm,
        loss=build_likelihood(config.fit.likelihood, interval_pull=config.fit.interval_pull),
    )

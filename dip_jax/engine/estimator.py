"""From a config to the estimator and the stopping rule of an image."""

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
    """The estimator of a config: a fit, or one whose optimizer is a sampler."""
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
    """The stopping rule; samples need none, but some measurements may be kept from them to check them by."""
    if config.fit.method == "sgld":
        hides = config.sgld.held_out_fraction and is_pixelwise(operator)
        return hold_out_from_sampler(config.sgld.held_out_fraction) if hides else fixed()
    return build_stopper(
        config.stop,
        lag=average_lag(config.fit),
        algorithm=algorithm,
        loss=build_likelihood(config.fit.likelihood, interval_pull=config.fit.interval_pull),
    )

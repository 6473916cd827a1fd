"""The estimator of a config: the only place where names become objects."""

import dataclasses
import functools
from collections.abc import Callable

import optax

from dip_jax import codes, langevin, losses, preconditioners, schedules
from dip_jax.base import Algorithm, Array, CodeBuilder, Loss, NetBuilder, Stopper
from dip_jax.config import (
    DEFAULT_LEARNING_RATE,
    Config,
    FitConfig,
    RunConfig,
    SgldConfig,
    StopConfig,
    to_json,
)
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.intervals import Intervals
from dip_jax.ensemble.ensemble import Ensemble
from dip_jax.ensemble.jpeg_guide import JpegGuide
from dip_jax.fields import require_choice
from dip_jax.fit import Average, ExtraArgs, Guard, build_fit
from dip_jax.nets import ConfiguredNet
from dip_jax.optimizers import Optimizer, build_optimizer
from dip_jax.regularizers import tv
from dip_jax.sgld import NoisePrior, build_sgld, paper, psgld, sampler_args, sgld, underdamped
from dip_jax.stopping.compare import compare_rules
from dip_jax.stopping.discrepancy import discrepancy
from dip_jax.stopping.emv import emv
from dip_jax.stopping.fixed import fixed
from dip_jax.stopping.held_out import held_out, hold_out_from_sampler
from dip_jax.stopping.keep import keep
from dip_jax.stopping.sure import sure
from dip_jax.stopping.wmv import wmv
from dip_jax.tasks.noise_level import resolve_noise, samples_clipped_noise
from dip_jax.underdamped import DEFAULT_STEP_SIZE


def estimator_from_config(config: Config) -> Estimator:
    """Returns the estimator of a config.

    Args:
      config: The settings.

    Example:
      >>> estimator = estimator_from_config(Config())
      >>> estimator.num_steps, estimator.num_networks, estimator.is_sampler
      (3000, 1, False)
    """
    samples = config.fit.method == "sgld"
    algorithm = algorithm_from_config(config, ConfiguredNet(config.net))
    stopper = (
        hold_out_from_sampler(config.sgld.held_out_fraction)
        if samples
        else stopper_from_config(config.stop, algorithm, config.fit.num_steps)
    )
    return Estimator(
        algorithm,
        stopper,
        num_steps=config.fit.num_steps,
        num_networks=config.num_networks,
        chains_per_start=config.sgld.chains_per_start if samples else 1,
        ensemble=ensemble_from_config(config),
        guide=guide_from_config(config),
        sides_per_octave=config.net.sides_per_octave,
        intervals=intervals_from_config(config),
        comparison=_comparison(config) if samples and config.sgld.point_estimate else None,
        low_memory=_low_memory(config),
        prepare=functools.partial(resolve_noise, config=config),
        # The settings of the run do not determine the algorithm.
        program_key=to_json(dataclasses.replace(config, run=RunConfig())),
    )


def _comparison(config: Config) -> Estimator:
    """The fit with as many steps as a sampler."""
    fit = dataclasses.replace(config.fit, method="fit", num_seeds=1)
    return estimator_from_config(
        dataclasses.replace(config, fit=fit, stop=StopConfig(rule="fixed"))
    )


def _low_memory(config: Config) -> Estimator | None:
    """The estimator with rematerialization, if the config leaves the choice."""
    if config.net.remat != "auto" or config.net.kind != "skip":
        return None
    net = dataclasses.replace(config.net, remat="on")
    return estimator_from_config(dataclasses.replace(config, net=net))


def algorithm_from_config(config: Config, net: NetBuilder) -> Algorithm:
    """Returns the fit of a config, or the fit whose optimizer is the sampler of the config.

    Args:
      config: The settings.
      net: The network.
    """
    fit, settings, num_steps = config.fit, config.sgld, config.fit.num_steps
    if fit.method == "fit":
        return fit_from_config(fit, net)
    if settings.sampler != "paper":
        fit = dataclasses.replace(fit, perturbation=settings.perturbation)
    is_sampled = settings.noise == "sampled"
    prior = NoisePrior(settings.noise_shape, settings.noise_rate) if is_sampled else None
    loss = sampled_loss(config)
    inner = fit_from_config(
        fit,
        net,
        loss=loss,
        optimizer=sampler_from_config(
            settings, fit.learning_rate or DEFAULT_LEARNING_RATE, num_steps
        ),
        extra_args=sampler_args(loss, noise_prior=prior),
        guarded_steps=None if settings.sampler == "paper" else settings.phases(num_steps)[0],
    )
    samples = settings.samples(num_steps)
    return build_sgld(inner, samples=samples, keep_samples=settings.keep_samples)


def fit_from_config(
    config: FitConfig,
    net: NetBuilder,
    *,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    extra_args: ExtraArgs | None = None,
    guarded_steps: int | None = None,
) -> Algorithm:
    """Returns the fit of a config.

    Args:
      config: The settings.
      net: The network.
      loss: Replaces the loss of the config.
      optimizer: Replaces the optimizer of the config.
      extra_args: See `build_fit`.
      guarded_steps: See `Guard.num_steps`.
    """
    chosen = Optimizer(optimizer, None) if optimizer else optimizer_from_config(config)
    decay = 0.0 if config.average == "none" else config.average_decay
    return build_fit(
        net,
        loss=loss_from_config(config) if loss is None else loss,
        optimizer=chosen.transformation,
        eval_params=chosen.eval_params,
        extra_args=extra_args,
        regularizer=tv(config.tv_weight, form=config.tv_form) if config.tv_weight else None,
        code=code_from_config(config),
        fits_net=config.optimize != "code",
        fits_code=config.optimize != "net",
        perturbation=config.perturbation,
        average=Average(decay, is_corrected=config.average == "corrected"),
        guard=Guard(
            config.guard_ratio, config.guard_every, config.guard_limit, num_steps=guarded_steps
        ),
    )


def optimizer_from_config(config: FitConfig) -> Optimizer:
    """Returns the optimizer of a config.

    Args:
      config: The settings `optimizer`, `learning_rate`, `b2`, `schedule` and `warm_up_steps`.

    Raises:
      InputError: If the name is unknown, or a setting does not belong to the optimizer.
    """
    return build_optimizer(
        config.optimizer,
        learning_rate=config.learning_rate,
        b2=config.b2,
        schedule=config.schedule,
        num_steps=config.num_steps,
        warm_up_steps=config.warm_up_steps,
    )


def loss_from_config(config: FitConfig) -> Loss:
    """Returns the loss of a config.

    Args:
      config: The settings `likelihood` and `interval_pull`.
    """
    if config.likelihood == "interval":
        return losses.interval(pull=config.interval_pull)
    return {
        "gaussian": losses.gaussian,
        "tobit": losses.tobit,
        "laplace": losses.laplace,
        "poisson": losses.poisson,
        "poisson_gauss": losses.poisson_gauss,
    }[config.likelihood]


def sampled_loss(config: Config) -> Loss:
    """Returns the loss whose likelihood is sampled.

    It is that of the fit, but takes much clipped noise into account, as the correction of a stopped fit does.

    Args:
      config: The settings.
    """
    return (
        losses.gaussian_or_tobit if samples_clipped_noise(config) else loss_from_config(config.fit)
    )


def code_from_config(config: FitConfig) -> CodeBuilder:
    """Returns the code of a config.

    Args:
      config: The settings `code`, `code_scale`, `guide_scale` and `fourier_std`.
    """
    builders: dict[str, Callable[[], CodeBuilder]] = {
        "uniform": lambda: codes.uniform(config.code_scale),
        "normal": lambda: codes.normal(config.code_scale),
        "meshgrid": codes.meshgrid,
        "fourier": lambda: codes.fourier(config.fourier_std),
        "image": codes.image,
        "guided": lambda: codes.guided(config.code_scale, guide_scale=config.guide_scale),
    }
    return builders[config.code]()


def sampler_from_config(
    config: SgldConfig, learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
    """Returns the sampler of a config.

    Args:
      config: The settings.
      learning_rate: `fit.learning_rate`, which is e in the warm-up of `psgld` and in `csgld`, and the learning rate
        of Adam in `paper` and in the warm-up of `underdamped`.
      num_steps: Steps in total, for the schedules.
    """
    if config.sampler == "paper":
        return paper(
            learning_rate, temperature=config.temperature, weight_decay=config.weight_decay
        )
    if config.sampler == "underdamped":
        warm_up, burn_in = config.phases(num_steps)
        return underdamped(
            config.step_size or DEFAULT_STEP_SIZE,
            warm_up=warm_up,
            burn_in=burn_in,
            friction=config.friction,
            temperature=config.temperature,
            prior_precision=config.prior_precision,
            optimizer=optax.flatten(optax.adam(learning_rate)),
        )
    schedule = schedule_from_config(config, learning_rate, num_steps)
    prior_precision = 1.0 if config.prior_precision is None else config.prior_precision
    sampler = (
        sgld(schedule, prior_precision=prior_precision)
        if config.sampler == "sgld"
        else psgld(
            schedule,
            _preconditioner(config, schedule, num_steps),
            prior_precision=prior_precision,
        )
    )
    return langevin.constrain_norm(sampler) if config.constrain_norm else sampler


def schedule_from_config(
    config: SgldConfig, learning_rate: float, num_steps: int
) -> langevin.Schedule:
    """Returns step size and temperature of a sampler.

    `psgld` has the step size `learning_rate` in the warm-up, and by default a quarter of it afterwards; `sgld`
    has 1 / k by default, at all steps.

    Args:
      config: The settings.
      learning_rate: `fit.learning_rate`.
      num_steps: Steps in total.
    """
    warm_up, burn_in = config.phases(num_steps)
    if config.sampler == "csgld":
        return schedules.cyclical(
            learning_rate,
            num_steps=num_steps,
            num_cycles=config.num_cycles,
            explore_fraction=config.explore_fraction,
            warm_up=warm_up,
            temperature=config.temperature,
        )
    is_plain = config.sampler == "sgld"
    step_size = config.step_size
    if step_size is None and not is_plain:
        step_size = (
            learning_rate / 4
        )  # at `learning_rate` itself, the misfit of samples is several percent too large
    return schedules.decaying(
        step_size,
        burn_in=burn_in,
        decay=config.step_decay,
        warm_up=warm_up,
        warm_up_step_size=None if is_plain else learning_rate,
        temperature=config.temperature,
    )


def _preconditioner(
    config: SgldConfig, schedule: langevin.Schedule, num_steps: int
) -> preconditioners.Preconditioner:
    warm_up, burn_in = config.phases(num_steps)

    def is_sampling(step: Array) -> Array:
        """Whether the gradients of a step are those of the posterior, or of the warm-up, before there are any."""
        return (step < warm_up) | (schedule(step, 1.0)[1] > 0)

    return preconditioners.frozen_rms(
        burn_in,
        decay=config.decay,
        damping=config.damping,
        per_kernel=config.constrain_norm,
        adapts=is_sampling if config.sampler == "csgld" else None,
    )


def ensemble_from_config(config: Config) -> Ensemble | None:
    """Returns how the networks of an image are combined; None if they stop by themselves.

    Args:
      config: The settings.
    """
    if config.fit.method != "fit" or config.stop.rule != "cross_validation":
        return None
    return Ensemble(
        config.fit.num_seeds,
        config.stop.keep_every,
        num_folds=config.stop.num_folds,
        is_guided=config.fit.code == "guided",
        code_depth=config.net.input_depth,
        is_filtered=config.fit.filter == "nonlocal",
    )


def intervals_from_config(config: Config) -> Intervals | None:
    """Returns how the error of a fit is estimated; None for not at all, or for a sampler.

    Args:
      config: The settings.
    """
    fit = config.fit
    if fit.method != "fit" or fit.intervals == "none":
        return None
    return Intervals(fit.intervals, fit.num_replicates, config.sgld.prior_precision)


def guide_from_config(config: Config) -> JpegGuide | None:
    """Returns how the case of a JPEG file gets a guide; None if it needs none, or an ensemble makes it.

    Args:
      config: The settings.
    """
    if config.fit.code != "guided" or config.stop.rule == "cross_validation":
        return None
    return JpegGuide(config.net.input_depth)


def stopper_from_config(
    config: StopConfig, algorithm: Algorithm, num_steps: int = FitConfig().num_steps
) -> Stopper:
    """Returns the stopping rule of a config.

    Args:
      config: The rule and its settings.
      algorithm: The fit.
      num_steps: Maximum number of steps.

    Raises:
      InputError: If the rule is unknown.
    """
    window, patience = config.window, config.patience
    rules: dict[str, Callable[[], Stopper]] = {
        "fixed": fixed,
        "wmv": lambda: wmv(
            algorithm, window=window, num_pixels=config.num_pixels, patience=patience
        ),
        "emv": lambda: emv(algorithm, rate=config.emv_rate, window=window, patience=patience),
        "discrepancy": lambda: discrepancy(factor=config.discrepancy_factor),
        "held_out": lambda: held_out(
            algorithm, fraction=config.held_out_fraction, window=window, patience=patience
        ),
        "sure": lambda: sure(
            algorithm, epsilon=config.sure_epsilon, window=window, patience=patience
        ),
    }
    if config.rule == "cross_validation":
        return keep(config.keep_every, num_steps)
    require_choice("stopping rule", config.rule, (*rules, "cross_validation", "all"))
    if config.rule == "all":
        return compare_rules(
            {name: build() for name, build in rules.items()}, returned=StopConfig().rule
        )
    return rules[config.rule]()

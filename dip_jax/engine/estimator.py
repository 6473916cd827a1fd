"""An estimator: everything that the engine needs to restore a case."""

import dataclasses
from collections.abc import Callable

from dip_jax.base import Algorithm, Case, Stopper
from dip_jax.engine.intervals import Intervals
from dip_jax.ensemble.ensemble import Ensemble
from dip_jax.ensemble.jpeg_guide import JpegGuide
from dip_jax.errors import InputError
from dip_jax.fields import shorten
from dip_jax.losses import Likelihood
from dip_jax.stopping.fixed import fixed
from dip_jax.tasks.noise_level import require_known_noise, require_noise_std


@dataclasses.dataclass(frozen=True, eq=False)
class Estimator:
    """A fit or a sampler with its stopping rule, for images of any shape.

    Example:
      >>> import optax
      >>> from dip_jax import build_fit, losses, nets, stopping
      >>> fit = build_fit(nets.skip(), loss=losses.laplace, optimizer=optax.adamw(0.01))
      >>> estimator = Estimator(fit, stopping.held_out(fit), num_steps=2000)
    """

    algorithm: Algorithm
    """The fit (`build_fit`) or sampler (`build_sgld`)."""
    stopper: Stopper = dataclasses.field(default_factory=fixed)
    """The stopping rule; by default all steps run."""
    num_steps: int = 3000
    """Maximum number of steps."""
    num_networks: int = 1
    """Networks of each image: chains of a sampler, or seeds of a fit, whose estimates are averaged or combined."""
    chains_per_start: int = 1
    """Number of consecutive chains of a sampler that start from the same weights and code, and differ in the random
    numbers of their steps only; see `posterior.nested_rhat`."""
    ensemble: Ensemble | None = None
    """How the networks of an image share its measurement and are combined, with the rule `stopping.keep`; None for
    networks that stop by themselves and are averaged."""
    guide: JpegGuide | None = None
    """How the case of a JPEG file gets a guide, for the code `codes.guided`; None for none. An ensemble
    makes its own."""
    sides_per_octave: int = 0
    """Canvas sides per octave, to which the sides of images with a pixelwise operator are rounded up so that images
    of similar sizes share a program; 0 turns rounding off."""
    intervals: Intervals | None = None
    """How the error of a fit is estimated; None for not at all. Chains need none."""
    comparison: "Estimator | None" = None
    """A fit that follows the chains if the reference is known, for comparison."""
    low_memory: "Estimator | None" = None
    """An estimator with the same results that needs less memory, for images that do not fit otherwise."""
    prepare: Callable[[Case], Case] | None = None
    """Completes a case before it is restored. By default the noise level is estimated if a sampler needs it."""
    program_key: str | None = None
    """Text that determines the estimator, under which its compiled program may be cached. None for objects of the
    user, whose source may change."""

    def __post_init__(self) -> None:
        """Checks the parts.

        Raises:
          InputError: If a part has another type, a number is less than 1, or the samples are planned for another
            number of steps.
        """
        for name, kind, hint in (
            ("algorithm", Algorithm, "build_fit(...) or build_sgld(...)"),
            ("stopper", Stopper, "a rule such as stopping.held_out(fit)"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} expects {hint}, got {shorten(getattr(self, name))}.")
        for name in ("num_steps", "num_networks"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")

        if self.ensemble is not None and self.ensemble.number != self.num_networks:
            raise InputError(
                f"The ensemble has {self.ensemble.number} networks, got num_networks={self.num_networks}; state the same "
                "number in both."
            )

        samples = self.algorithm.samples
        if samples is not None and self.intervals is not None:
            raise InputError("A sampler states intervals itself: expected intervals=None.")
        needs_network = self.intervals is not None and self.intervals.needs_network
        if needs_network and self.num_networks > 1:
            raise InputError(
                f"Linearized intervals expect a single network, got num_networks={self.num_networks}; use the bootstrap."
            )
        shared = self.chains_per_start
        if shared != 1 and (samples is None or shared < 1 or self.num_networks % shared):
            raise InputError(
                f"chains_per_start expects a divisor of num_networks={self.num_networks} and a sampler, or 1, got {shared}."
            )
        if samples is not None and samples.num_steps != self.num_steps:
            raise InputError(
                f"The samples are planned for {samples.num_steps} steps, got num_steps={self.num_steps}; state the same "
                "number in both."
            )

    @property
    def is_sampler(self) -> bool:
        """Whether the outputs of some steps are samples."""
        return self.algorithm.samples is not None

    def prepared(self, case: Case) -> Case:
        """Returns a case with everything that the estimator needs.

        Args:
          case: The case.

        Raises:
          InputError: If a sampler or a likelihood needs a noise level that is neither known nor can be estimated.
        """
        if self.prepare is not None:
            case = self.prepare(case)
        if self.ensemble is not None:
            case = self.ensemble.prepared(case)
        if self.guide is not None:
            case = self.guide.added(case)
        if self.intervals is not None:
            require_known_noise(case)
        if self.prepare is not None:
            return case
        loss = self.algorithm.loss
        if not isinstance(loss, Likelihood):
            return case
        if loss.models_clipping:
            return require_noise_std(case, before_clipping=True)
        return require_noise_std(case) if self.is_sampler and loss.needs_noise_std else case

    def seconds_on_host(self, case: Case) -> float:
        """Forecasts the seconds that the host takes for an image beside its fits: guides and filters.

        Args:
          case: The case, with its noise level.
        """
        makers = (self.ensemble, self.guide)
        return sum(maker.seconds_on_host(case) for maker in makers if maker is not None)

"""Conventions and types of the package.

An image is `float32 [H, W, C]` in [0, 1], channels last; a batch adds one leading axis. Functions
are pure: everything that they need is an argument. Random keys come first and are consumed.

| name | symbol | meaning |
|---|---|---|
| `image` | x | estimate of the network, `[H, W, C]` |
| `measurement` | y | data, y = A x + noise |
| `operator` | A | forward model |
| `code` | z | input of the network, `[Hc, Wc, C_in]` |
| `params` | w | weights of the network |
| `reference` | | ground truth, which no estimator sees |
| `noise_std` | | standard deviation of the noise, in [0, 1] units |
| `step` | t | number of a step, from 0 to `num_steps - 1` |
"""

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dip_jax.clipping import Limits
from dip_jax.errors import InputError
from dip_jax.sample_schedule import SampleSchedule

Array = jax.Array
Params = Any
"""A pytree of arrays."""
Shape = tuple[int, int, int]
"""Height, width and channels."""


def network_label(name: str, network_index: int) -> str:
    """Returns the label of one of several networks for the image `name`.

    Example:
      >>> network_label("cat", 0), network_label("cat", 1)
      ('cat', 'cat, network 2')
    """
    return f"{name}, network {network_index + 1}" if network_index else name


class Operator(Protocol):
    """A forward model A: a callable pytree that maps an image `[H, W, C]` to a measurement.

    Its leaves are arrays and its sizes are static, so an operator can be jitted, stacked over a
    batch and sharded.

    An operator whose value at a pixel depends on that pixel alone may also have the attribute
    `is_pixelwise = True` and the method `pad(height, width)`; see `operators.pixelwise`. Its images
    then share canvases, and sampling holds out some measurements to check predictions.
    """

    @property
    def is_linear(self) -> bool:
        """Whether A(x + x') = A x + A x'; a constant of the class or of the object."""
        ...

    def __call__(self, image: Array) -> Array:
        """Returns A x for the image x."""
        ...


class Problem(NamedTuple):
    """Everything that an estimator may know about an image: y = A x + noise.

    The ground truth is not part of it; see `Case`.
    """

    operator: Operator
    """Forward model A."""
    measurement: Array
    """Data y. Most operators make `[H, W, C]`; the others document their shape."""
    noise_std: Array | float
    """Standard deviation of the noise in [0, 1] units. 0 means no noise, NaN unknown noise."""
    code_image: Array | None = None
    """Image `[H, W, C]` that serves as the code in place of noise. None means no such image."""
    region: Array | None = None
    """Canvas mask `[H, W, 1]`: 1 = image, 0 = margin. None means that there is no margin."""
    weights: Array | None = None
    """Weights, same shape as `measurement`: 1 = used, 0 = ignored. None means all ones."""
    tolerance: Array | None = None
    """Half widths, same shape as `measurement`: A x lies within `measurement +- tolerance`. None
    means that no such bound is known."""
    peak: Array | float | None = None
    """Mean number of photons at a value of 1, for Poisson noise. None means no Poisson noise."""


class Case(NamedTuple):
    """One image to restore: its `Problem`, and additional information for reports."""

    name: str
    """Name of the image; its random numbers follow from the last part of it."""
    problem: Problem
    """Everything that the estimator may know."""
    shape: Shape
    """Height, width and channels of the image to restore."""
    reference: np.ndarray | None = None
    """Ground truth `[H, W, C]`. None means unknown."""
    notes: tuple[str, ...] = ()
    """Plain sentences for the user."""
    preview: np.ndarray | None = None
    """Estimate of a classical method `[H, W, C]`. None means the measurement itself."""
    preview_name: str = "degraded"
    """Label of the preview, or of the measurement."""
    jpeg: Any = None
    """`images.jpeg_file.JpegFile` whose coefficients were measured. None means no such file."""
    network_index: int = 0
    """Index of the network, if several networks (chains or seeds) serve the image."""
    value_range: tuple[float, float] | None = (0.0, 255.0)
    """Values of the pixels 0 and 1 in the file of the image, for reports; None if they differ between bands."""
    paste_known: bool = True
    """Restore values of the estimate that are known exactly; see `tasks.restore_known_values`."""
    limits: Limits = Limits()
    """The limits at which the noise was clipped; the estimate is corrected for it (`tasks.clipped_noise`)."""
    is_stored_level: bool = False
    """True if `problem.noise_std` was estimated from values that may be clipped, so it is the level of the stored noise
    and not that before clipping; see `tasks.noise_level.clipped_noise_of`."""
    shares_noise: bool = False
    """True if neighboring pixels share their noise; a pixel then reveals the noise of a hidden neighbor."""


class NetInit(Protocol):
    """Draws the initial weights of a network."""

    def __call__(self, key: Array, /) -> Params:
        """Returns the initial `params`.

        Args:
          key: Random key, consumed.
        """
        ...


class NetApply(Protocol):
    """Evaluates a network."""

    def __call__(self, params: Params, code: Array, /) -> Array:
        """Returns the image `[H, W, C]` that the network makes of a code.

        Args:
          params: The weights.
          code: The code, `[Hc, Wc, C_in]`.
        """
        ...


class Net(NamedTuple):
    """A network for images of one shape, as two pure functions.

    Called with its own image shape it returns itself, so it also serves as a `NetBuilder`.

    Example:
      The simplest network has no weights, and its code is the image:

      >>> import jax
      >>> net = Net(lambda key: {}, lambda params, code: code, (4, 4, 3), (4, 4, 3))
      >>> params = net.init(jax.random.key(0))
      >>> net.apply(params, jax.numpy.ones(net.code_shape)).shape
      (4, 4, 3)
    """

    init: NetInit
    """`init(key) -> params`."""
    apply: NetApply
    """`apply(params, code) -> image`."""
    code_shape: Shape
    """Shape of the code, `(Hc, Wc, C_in)`."""
    image_shape: Shape
    """Shape of the image, `(H, W, C)`."""

    def __call__(self, shape: Shape, /) -> "Net":
        """Returns this network.

        Args:
          shape: Shape of the image, `(H, W, C)`.

        Raises:
          InputError: If the network makes images of another shape.
        """
        if tuple(shape) != tuple(self.image_shape):
            raise InputError(
                f"Expected images of shape {tuple(self.image_shape)}, for which the network was built, got "
                f"{tuple(shape)}; pass a builder such as nets.skip(), which serves all shapes."
            )
        return self


class NetBuilder(Protocol):
    """A network for images of any shape, such as `nets.skip()`."""

    def __call__(self, shape: Shape, /) -> Net:
        """Returns the network for images of one shape.

        Args:
          shape: Shape of the image, `(H, W, C)`.
        """
        ...


class Loss(Protocol):
    """The misfit of a prediction, which a fit minimizes; see `losses`."""

    def __call__(self, prediction: Array, problem: Problem, /) -> Array:
        """Returns the loss of each measured value, or a scalar.

        Losses of single values, of the shape of the measurement, are averaged over the values with weight 1. A
        scalar is taken as it is; values with weight 0 are then 0 in both the prediction and the measurement. A loss
        must not be negative, because the guard compares losses by their ratio.

        Args:
          prediction: p = A x, same shape as the measurement.
          problem: The problem, with the measurement y.
        """
        ...


class Regularizer(Protocol):
    """A term that is added to the loss of a fit; see `regularizers`."""

    def __call__(self, image: Array, params: Params, problem: Problem, /) -> Array:
        """Returns the term, a scalar.

        Args:
          image: Output of the network `[H, W, C]`; 0 on the margin of a canvas.
          params: Weights of the network.
          problem: The problem.
        """
        ...


class CodeBuilder(Protocol):
    """The code of a network for an image; see `codes`."""

    def __call__(self, key: Array, shape: Shape, problem: Problem, /) -> Array:
        """Returns the code, of the given shape.

        Args:
          key: Random key, consumed.
          shape: Shape of the code, `(Hc, Wc, C_in)`.
          problem: The problem.
        """
        ...


class Info(NamedTuple):
    """Information about one step. It belongs to the weights *before* the step."""

    loss: Array
    """Loss, a scalar; by default the mean of |A x - y|^2."""
    image: Array
    """Output of the network `[H, W, C]` for the perturbed code of this step."""
    average: Array
    """Running average of the outputs `[H, W, C]`."""
    accepted: Array
    """Whether the guard accepted the step. False means a rollback."""
    mean: Array | None = None
    """Mean of the samples so far `[H, W, C]`; `average` before the first sample. None for a fit."""
    sampled: Array | None = None
    """Whether the output of this step is a sample. None for a fit."""
    monitors: Mapping[str, Array] | None = None
    """Quantities that a sampler states about its last step, scalars by name; see `sgld.monitors_of`."""

    @property
    def estimate(self) -> Array:
        """Image that would be returned now `[H, W, C]`: mean of the samples, or running average."""
        return self.average if self.mean is None else self.mean


class AlgorithmInit(Protocol):
    """Starts an estimator."""

    def __call__(self, key: Array, problem: Problem, shape: Shape, /) -> Any:
        """Returns the first state, a pytree of arrays.

        The state has the fields `step` (steps made so far), `params`, `average`, `num_rollbacks`
        and `diverged`.

        Args:
          key: Random key, consumed.
          problem: The problem.
          shape: Shape of the image, `(H, W, C)`.
        """
        ...


class AlgorithmStep(Protocol):
    """Makes one step of an estimator."""

    def __call__(self, problem: Problem, state: Any, /) -> tuple[Any, Info]:
        """Returns the next state, and information about the weights before the step.

        Args:
          problem: The problem, the same in each step.
          state: The state from `init` or from the last step.
        """
        ...


class Algorithm(NamedTuple):
    """A fit (`build_fit`) or a sampler (`build_sgld`) as two pure functions, for images of any shape."""

    init: AlgorithmInit
    """`init(key, problem, shape) -> state`."""
    step: AlgorithmStep
    """`step(problem, state) -> (state, info)`."""
    lag: int = 0
    """Mean age of the outputs in the running average, in steps."""
    loss: Loss | None = None
    """The loss that is minimized. None means unknown."""
    net: NetBuilder | None = None
    """The network. None means unknown."""
    samples: SampleSchedule | None = None
    """The steps that give samples. None for a fit."""


class RuleReport(NamedTuple):
    """State of a stopping rule after a step."""

    signal: Array
    """Monitored value, whose minimum or threshold stops the fit. NaN means none in this step."""
    estimate_step: Array
    """Step whose estimate the rule returns."""
    done: Array
    """Whether the rule has fired."""


class StopperInit(Protocol):
    """Starts a stopping rule."""

    def __call__(self, key: Array, problem: Problem, shape: Shape, /) -> Any:
        """Returns the first state, a pytree of arrays with the field `done`.

        Args:
          key: The random key that `Algorithm.init` gets.
          problem: The whole problem.
          shape: Shape of the image, `(H, W, C)`.
        """
        ...


class StopperView(Protocol):
    """Hides measurements from the estimator."""

    def __call__(self, state: Any, problem: Problem, /) -> Problem:
        """Returns the part of the problem that the estimator may see.

        Args:
          state: The state of the rule.
          problem: The whole problem.
        """
        ...


class StopperUpdate(Protocol):
    """Decides after each step."""

    def __call__(
        self, state: Any, problem: Problem, step: Array, info: Info, /
    ) -> tuple[Any, Array]:
        """Returns the next state, and whether the estimate of this step is the best so far.

        Args:
          state: The state of the rule.
          problem: The whole problem.
          step: Number of the step.
          info: Information that the estimator returned for the step.
        """
        ...


class StopperReports(Protocol):
    """Reports on each rule."""

    def __call__(self, state: Any, /) -> dict[str, RuleReport]:
        """Returns a report by the name of the rule; several if rules are compared.

        Args:
          state: The state of the rule.
        """
        ...


class Stopper(NamedTuple):
    """A stopping rule as pure functions, composed with an `Algorithm` from outside."""

    init: StopperInit
    """`init(key, problem, image_shape) -> state`; the state has the field `done`."""
    view: StopperView
    """`view(state, problem) -> problem`, as the estimator may see it."""
    update: StopperUpdate
    """`update(state, problem, step, info) -> (state, improved)`; `improved` keeps the estimate of
    the step."""
    reports: StopperReports
    """`reports(state) -> {rule: report}`."""
    needs_start: bool = False
    """Whether the rule must watch the fit from its first step, so it cannot be started later."""


class PosteriorKind(enum.StrEnum):
    """Origin of the estimates whose spread a `Posterior` states. A member equals its string, as in JSON."""

    SAMPLES = "samples"
    """Samples of Markov chains."""
    SEEDS = "seeds"
    """Fits of several networks to the same measurement."""
    BOOTSTRAP = "bootstrap"
    """Restored replicates of the case; `std` is their distance from the estimate."""
    LINEARIZED = "linearized"
    """Samples of the linearized network, around the estimate."""


class Posterior(NamedTuple):
    """Samples of the posterior of one image, or other estimates whose spread states its error, as NumPy arrays."""

    mean: np.ndarray
    """Mean of the samples of all chains `[H, W, C]`."""
    std: np.ndarray
    """Standard deviation of the samples `[H, W, C]`, within and between chains; see `posterior.pool_chains`."""
    chain_means: np.ndarray
    """Mean of the samples of each chain `[M, H, W, C]`."""
    num_samples: int
    """Number of samples of all chains."""
    traces: np.ndarray
    """Traced quantities of each sample `[M, S, Q]`, for S samples in each of M chains."""
    trace_names: tuple[str, ...]
    """Names of the Q traced quantities: pixels `x[row,column,channel]`, then summaries."""
    samples: np.ndarray
    """Stored samples `[K, H, W, C]`; K = 0 by default."""
    kind: PosteriorKind = PosteriorKind.SAMPLES
    """Origin of the estimates."""
    rhat_max: float | None = None
    """Largest R-hat of the traced quantities, infinite if a chain is constant; None for other kinds than samples, NaN
    for too few of them."""
    ess_min: float | None = None
    """Smallest effective sample size of the traced quantities; None for other kinds than samples."""
    converged: bool | None = None
    """Whether both meet the limits of `posterior.diagnose`; None if one chain meets them, and for other kinds."""
    chains_per_start: int = 1
    """Number of consecutive chains that started from the same weights and code."""
    num_kept: tuple[int, ...] = ()
    """Number of stored samples of each chain; empty if every chain stored equally many."""


class Status(enum.StrEnum):
    """How a restoration ended. A member equals its string, as in JSON."""

    DONE = "done"
    """All steps were run."""
    STOPPED = "stopped"
    """The stopping rule fired."""
    INTERRUPTED = "interrupted"
    """The run ended early; the estimate up to then was kept."""
    DIVERGED = "diverged"
    """The guard gave up: rollbacks to one snapshot did not help."""
    FAILED = "failed"
    """An error prevented the restoration; there is no image."""

    @property
    def is_finished(self) -> bool:
        """Whether a resumed run keeps the result: `done`, `stopped` and `diverged`."""
        return self in (Status.DONE, Status.STOPPED, Status.DIVERGED)


class Result(NamedTuple):
    """Restoration of one image, as NumPy arrays."""

    name: str
    """Name of the case."""
    status: Status
    """How the restoration ended."""
    image: np.ndarray
    """Restored image `[H, W, C]`, float32; empty if the status is `failed`."""
    raw: np.ndarray
    """Estimate before known values were restored; the same array as `image` if there are none."""
    num_steps: int
    """Number of steps that were run."""
    stop_step: int
    """Step whose estimate was returned; the mean step, in brightness, if estimates were combined."""
    num_rollbacks: int
    """Number of rollbacks by the guard."""
    num_params: int
    """Number of weights of the network."""
    curve: dict[str, np.ndarray]
    """Values of each step: `step`, `loss`, `psnr` (output), `psnr_average` (running average), for
    samplers `psnr_mean` (mean of the samples), and `signal_RULE` for each stopping rule. PSNRs are
    NaN without a reference."""
    seconds: float
    """Wall time from start to end, also if other images used the device; the sum over networks."""
    compile_seconds: float
    """Wall time of compiling the program."""
    error: Exception | None = None
    """Error that prevented the restoration. None unless the status is `failed`."""
    notes: tuple[str, ...] = ()
    """Plain sentences about the result for the user."""
    posterior: Posterior | None = None
    """Samples, or the spread of several seeds. None for a single fit."""
    kept: np.ndarray | None = None
    """Running averages after every so many steps `[T, H, W, C]`, for networks that are stopped together; None for
    others, and in a merged result."""
    held_out: np.ndarray | None = None
    """Measurements that no chain has seen, same shape as the measurement, boolean. None for fits
    and for operators that are not pixelwise."""
    network_curves: tuple[dict[str, np.ndarray], ...] = ()
    """Curve of each network, if several networks serve the image; `curve` is that of the first."""
    network_index: int = 0
    """Index of the network, until the results of several networks are pooled."""
    point_estimate: "Result | None" = None
    """Result of a fit with as many steps, for comparison with samples. None if there is none."""
    stops: dict[str, tuple[int, bool]] | None = None
    """For each stopping rule, the step of its estimate and whether it has fired."""
    net: Net | None = None
    """The network, cropped to the image. None unless networks are kept."""
    networks: tuple[Any, ...] = ()
    """The whole state of each network after its last step, as `engine.active_network.SavedNetwork`; from them
    `restore(..., start=[result])` continues. Empty unless networks are kept."""

    @property
    def samples_posterior(self) -> bool:
        """Whether the result is of a sampler."""
        return self.posterior is not None and self.posterior.kind == PosteriorKind.SAMPLES

    @property
    def params(self) -> Params | None:
        """Weights of the first network after its last step, at which it is trained. None unless networks are kept."""
        return self._variables.get("net")

    @property
    def code(self) -> np.ndarray | None:
        """Code of the first network `[Hc, Wc, C_in]`. None unless networks are kept."""
        return self._variables.get("code")

    @property
    def _variables(self) -> dict[str, Params]:
        if not self.networks:
            return {}
        state = self.networks[0].slot.state
        return getattr(state, "variables", {"net": state.params})

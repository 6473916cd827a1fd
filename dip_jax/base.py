"""The conventions of the package and the types that flow through it.

An image is `float32 [H, W, C]` in [0, 1], channel last; a batch adds one leading axis. Everything a
function needs is an argument; random keys come first and are consumed.

The names: `image` (the estimate, x), `measurement` (the data, y), `operator` (the forward model, A),
`code` (the network's input, z), `params` (its weights), `reference` (the ground truth, which no
estimator ever sees), `noise_std` (in [0, 1] units), `step` of `num_steps`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dip_jax.errors import InputError as InputError

Array = jax.Array
Params = Any  # a pytree of arrays


def network_label(name: str, network_index: int) -> str:
    """What to call one of several networks for the picture `name`."""
    return f"{name}, network {network_index + 1}" if network_index else name


class Operator(Protocol):
    """A measurement operator A: a callable pytree, image `[H, W, C]` -> measurement.

    Arrays are its leaves and sizes are static, so it can be jitted, stacked over a batch and
    sharded as it is.
    """

    @property
    def is_linear(self) -> bool:
        """Whether A(x + x') = A x + A x'; a constant of the class, or of the object."""
        ...

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        ...


class Problem(NamedTuple):
    """All that an estimator may know of a picture: y = A x + noise.

    The ground truth is deliberately not here; see `Case`.
    """

    operator: Operator
    """The forward model A."""
    measurement: Array
    """y, what was observed; for the operators of this package `[H, W, C]`."""
    noise_std: Array | float
    """Standard deviation of the noise in [0, 1] units; 0 for none, NaN for unknown."""
    code_image: Array | None = None
    """A picture `[H, W, C]` that serves as the network's input in place of noise, or None."""
    region: Array | None = None
    """`[H, W, 1]`, 1 where the picture is and 0 where it was padded; None for 1 everywhere."""
    weights: Array | None = None
    """Of the measurement's shape: 1 where it counts, 0 where it says nothing; None for 1 everywhere."""
    tolerance: Array | None = None
    """Of the measurement's shape: the true value lies within `measurement +- tolerance`; None for unknown."""
    peak: Array | float | None = None
    """Photons that a value of 1 stands for (Poisson noise); None where there is no such thing."""


class Case(NamedTuple):
    """One picture to restore, with what a report may know beyond the `Problem`."""

    name: str
    problem: Problem
    shape: tuple[int, int, int]
    """Height, width and channels of the image to restore."""
    reference: np.ndarray | None = None
    """The ground truth `[H, W, C]`, or None."""
    notes: tuple[str, ...] = ()
    """Plain sentences that the user should be told."""
    preview: np.ndarray | None = None
    """What a classical method makes of the measurement, `[H, W, C]`; None where it is a picture of the
    image's size itself."""
    preview_name: str = "damaged"
    """What to call it."""
    jpeg: Any = None
    """The `jpeg.JpegFile` whose coefficients were measured, or None."""
    network_index: int = 0
    """Which of several networks for the same picture this is: a chain, or a seed."""


class Net(NamedTuple):
    """A network as two pure functions."""

    init: Callable[[Array], Params]
    """`init(key) -> params`."""
    apply: Callable[[Params, Array], Array]
    """`apply(params, code) -> image`, `[Hc, Wc, Cin] -> [H, W, C]`."""
    code_shape: tuple[int, int, int]
    """Shape of the code that `apply` takes."""
    image_shape: tuple[int, int, int]
    """Shape of the image that it makes."""


class Info(NamedTuple):
    """What a person wants to know of one step; all of it belongs to the params *before* the step."""

    loss: Array
    """What is minimized: by default the mean of |A f(z) - y|^2 over the measurement."""
    image: Array
    """The network's output `[H, W, C]` for this step's perturbed code."""
    average: Array
    """The running average of the outputs `[H, W, C]`."""
    accepted: Array
    """False where the guard rejected the step and went back."""
    mean: Array | None = None
    """Sampling: the mean of the samples so far `[H, W, C]` (of the latest outputs, until there is one); None for a point estimate."""
    sampled: Array | None = None
    """Sampling: whether this step's output is a sample."""

    @property
    def estimate(self) -> Array:
        """What would be handed out now: the mean of the samples, or the running average."""
        return self.average if self.mean is None else self.mean


class Algorithm(NamedTuple):
    """An estimator as two pure functions; `fit` and, later, samplers have this form."""

    init: Callable[[Array, Problem], Any]
    """`init(key, problem) -> state`."""
    step: Callable[[Problem, Any], tuple[Any, Info]]
    """`step(problem, state) -> (state, info)`."""


class RuleReport(NamedTuple):
    """What a stopping rule says at a step."""

    signal: Array
    """What it watches: its minimum, or a threshold, is where it stops. NaN while it has none."""
    estimate_step: Array
    """The step whose answer it would hand out."""
    done: Array
    """Whether it has fired."""


class Stopper(NamedTuple):
    """A stopping rule as pure functions, composed with an `Algorithm` from outside."""

    init: Callable[[Array, Problem, tuple[int, ...]], Any]
    """`init(key, problem, image_shape) -> state`; the state has the field `done`."""
    view: Callable[[Any, Problem], Problem]
    """`view(state, problem) -> problem`: what the estimator may see of the problem."""
    update: Callable[[Any, Problem, Array, Info], tuple[Any, Array]]
    """`update(state, problem, step, info) -> (state, improved)`: `improved` says to keep this step's answer."""
    reports: Callable[[Any], dict[str, RuleReport]]
    """`reports(state) -> {rule: verdict}`: of one rule, or of all that run side by side."""


class Posterior(NamedTuple):
    """What sampling, or several seeds, say about one picture beyond its answer: host-side numpy only."""

    mean: np.ndarray
    """Mean of all samples of all chains `[H, W, C]`."""
    std: np.ndarray
    """Their standard deviation `[H, W, C]`, that between the chains included."""
    chain_means: np.ndarray
    """Mean of each chain's samples `[M, H, W, C]`."""
    num_samples: int
    """Samples of all chains."""
    traces: np.ndarray
    """Quantities of each sample `[M, S, Q]`: S samples in each of M chains."""
    trace_names: tuple[str, ...]
    """Their Q names: pixels `x[row,column,channel]`, and summaries."""
    samples: np.ndarray
    """Kept samples `[K, H, W, C]`; none by default."""


class Result(NamedTuple):
    """What a run leaves for one picture: host-side numpy only."""

    name: str
    status: str
    """`done`, `stopped` (by its rule), `interrupted`, `diverged` or `failed`."""
    image: np.ndarray
    """The restored image `[H, W, C]`, float32; empty where the status is `failed`."""
    raw: np.ndarray
    """The answer before known pixels were put back; the same array where none were."""
    num_steps: int
    """Steps that were run."""
    stop_step: int
    """The step whose answer was kept."""
    num_rollbacks: int
    """How often the guard went back."""
    num_params: int
    """Weights of its network."""
    curve: dict[str, np.ndarray]
    """`step`, `loss`, `psnr`, `psnr_average` and, of samples, `psnr_mean` (NaN without a reference), and for each
    stopping rule `signal_RULE`, what it watches; one entry per step."""
    seconds: float
    """Wall time from its start to its end, also where images share a device; of several networks, of all together."""
    compile_seconds: float
    """Wall time of compiling the program that served it."""
    error: Exception | None = None
    """What went wrong, where the status is `failed`."""
    notes: tuple[str, ...] = ()
    """Plain sentences about the answer that the user should be told."""
    posterior: Posterior | None = None
    """What was sampled, where it was, or the spread of several seeds."""
    held_out: np.ndarray | None = None
    """Of samples, where the operator acts on each pixel alone: which measurements no chain saw."""
    network_curves: tuple[dict[str, np.ndarray], ...] = ()
    """The curves of several networks for the picture; `curve` is that of the first."""
    network_index: int = 0
    """Which of them this is, until they are put together."""
    point_estimate: "Result | None" = None
    """Of samples: what a fit made in as many steps."""
    stops: dict[str, tuple[int, bool]] | None = None
    """For each stopping rule, the step of its answer and whether it has fired."""

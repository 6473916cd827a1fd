"""The settings of a run: frozen dataclasses that validate themselves, overrides by name, and JSON.

A `Config` is complete: together with the input files and the versions of the packages, it
determines the result. A name in parentheses at the start of a field's description restricts the
field to these choices, e.g. "(skip, unet)". This file imports no JAX, so a wrong flag is answered
at once.
"""

import dataclasses
import json
import math
from typing import Any, Literal, get_args

from dip_jax.errors import InputError
from dip_jax.fields import Section, number, parse, require_choice, shorten
from dip_jax.sample_schedule import SampleSchedule, cycle_length, every_nth, late_in_cycles

TASKS: tuple[str, ...] = (
    "denoise",
    "inpaint",
    "dejpeg",
    "super_resolve",
    "flash",
    "deblur",
    "demosaic",
    "compressed_sensing",
    "ct",
    "invert_features",
    "maximize_activation",
    "custom",
)
"""The tasks of this package; `dip_jax.tasks` describes them."""
_added_tasks: list[str] = []

Noise = Literal["gaussian", "poisson", "poisson_gauss", "salt_and_pepper"]
Filter = Literal["lanczos2", "lanczos3", "box", "bicubic"]
Boundary = Literal["reflect", "circular"]
Pattern = Literal["RGGB", "BGGR", "GRBG", "GBRG"]
Layer = Literal[
    "stem",
    "block1",
    "block2",
    "block3",
    "block4",
    "block5",
    "block6",
    "block7",
    "block8",
    "block9",
    "block10",
    "block11",
    "block12",
    "block13",
    "block14",
    "block15",
    "block16",
    "head",
    "logits",
]

Kind = Literal["skip", "unet", "resnet", "texture", "conv_decoder", "deep_decoder", "identity"]
Downsampling = Literal["stride", "avg", "max", "lanczos2", "lanczos3"]
Upsampling = Literal["bilinear", "nearest", "deconv"]
Padding = Literal["reflect", "zero"]
Activation = Literal["leaky_relu", "swish", "elu", "relu", "none"]
Lowering = Literal["auto", "winograd", "patches", "xla"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]
Batching = Literal["auto", "grouped", "separate", "product"]

Likelihood = Literal["gaussian", "tobit", "poisson", "poisson_gauss", "laplace", "interval"]
LIKELIHOODS: tuple[Likelihood, ...] = get_args(Likelihood)
Variation = Literal["isotropic", "smooth"]
Schedule = Literal["constant", "cosine", "warmup_cosine"]
MAX_NETWORKS = 64
"""Largest number of networks of an image."""
DEFAULT_LEARNING_RATE = 0.01
"""Learning rate of samplers, and of optimizers that do not estimate the size of their steps."""


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks: those of this package, then those that were registered."""
    return (*TASKS, *_added_tasks)


def add_task_name(name: str) -> None:
    """Makes a name valid as `task.name`; `dip_jax.register_task` also registers the task itself."""
    if name not in _added_tasks:
        _added_tasks.append(name)


def parse_range(setting: str) -> tuple[float, float] | None:
    """Returns the two numbers of a range of values `LOW,HIGH`; None for `auto` and `container`.

    Raises:
      InputError: If the setting is neither a name nor two finite numbers in ascending order.

    Example:
      >>> parse_range("0,4095"), parse_range("auto")
      ((0.0, 4095.0), None)
    """
    if setting in ("auto", "container"):
        return None
    try:
        low, high = (float(part) for part in setting.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"The range of values is auto, container, or LOW,HIGH with LOW < HIGH, got {shorten(setting)}."
        )
    return low, high


@dataclasses.dataclass(frozen=True)
class TaskConfig(Section):
    """The degradation, and how a simulation applies it to a clean image."""

    SECTION = "task"

    name: str = "denoise"
    """Name of the task: one of `TASKS`, or of those that were registered (`dip_jax.register_task`)."""
    value_range: str = "auto"
    """Stored values of the pixels 0 and 1: `auto` (from the values, see `images.value_range`), `container` (the limits
    of an integer type, 0 and 1 for floats), or `LOW,HIGH`."""
    page: int | None = number(None, 1)
    """Page or frame to restore of each file, from 1; None for the first one, or for all pages of a stack."""
    noise_unit: Literal["gray", "file"] = "gray"
    """Unit of `noise_std`: `gray` means the range from pixel 0 to pixel 1, `file` the stored values of the file."""
    noise_std: float | None = number(None, 0)
    """Standard deviation of the noise in [0, 1] units; None if it is unknown. A simulation then
    uses 25/255 (denoise, flash), 2/255 (deblur) or 0 (other tasks)."""
    noise: Noise = "gaussian"
    """Noise model; a simulation adds this noise."""
    peak: float = number(30.0, 0, open_low=True)
    """(poisson, poisson_gauss) Mean number of photons at a value of 1."""
    salt_fraction: float = number(0.1, 0, 1)
    """(salt_and_pepper) Fraction of the pixels that a simulation turns black or white."""
    clipping: Literal["auto", "ignored"] = "auto"
    """Noise that was clipped at 0 and 1: `auto` corrects the estimate of a fit for it if the measurement has such values
    (pixels with Gaussian noise; not for `fit.likelihood=tobit`, which needs no correction), and samples of a noisy image
    with 5 % of such values or more have the likelihood `tobit`; `ignored` does neither."""
    saturation: float | None = number(None, 0, open_low=True)
    """Measured values of at least this are saturated and get weight 0; None for no limit."""
    known_fraction: float = number(0.5, 0, 1, open_low=True)
    """(inpaint, compressed_sensing) Fraction of the pixels or values that a simulation keeps."""
    paste_known: bool = True
    """(inpaint, demosaic, dejpeg) Restore exactly known values in the estimate."""
    factor: int = number(4, 2, 32)
    """(super_resolve) Factor by which each side of the image is reduced."""
    filter: Filter = "lanczos2"
    """(super_resolve) Filter of the reduction in the operator."""
    kernel: Literal["gaussian", "motion", "file"] = "gaussian"
    """(deblur) Blur kernel; `file` reads it from an image or a .npy file."""
    kernel_std: float = number(1.6, 0, open_low=True)
    """(deblur) Standard deviation of a Gaussian kernel in pixels."""
    kernel_length: float = number(9.0, 1)
    """(deblur) Length of a motion kernel in pixels."""
    kernel_angle: float = number(0.0, -360, 360)
    """(deblur) Direction of a motion kernel in degrees, counterclockwise from the right."""
    normalize_kernel: bool = False
    """(deblur) Scale a kernel from a file to sum 1 instead of raising an error."""
    kernel_center: tuple[int, ...] = number((), 0)
    """(deblur) Row and column of the center of a kernel from a file; empty for half of its sides."""
    boundary: Boundary = "reflect"
    """(deblur) Values beyond the border of the image."""
    jpeg: Literal["intervals", "decoded"] = "intervals"
    """(dejpeg) Fit the coefficients within their quantization intervals, or the decoded image as in
    2018."""
    quality: int = number(10, 1, 100)
    """(dejpeg) Quality of a simulated JPEG."""
    pattern: Pattern = "RGGB"
    """(demosaic) Color filters of the first two rows."""
    sensing: Literal["fourier", "gaussian"] = "fourier"
    """(compressed_sensing) Random frequencies, or a random matrix."""
    num_angles: int = number(32, 1)
    """(ct) Number of angles, evenly spaced in half a turn, unless `angles` lists them."""
    angles: tuple[float, ...] = ()
    """(ct) The angles in degrees, in any order and range."""
    circle: bool = False
    """(ct) The detector is as long as a side of the image, not as its diagonal: the image is zero
    outside a circle, as with `circle=True` in scikit-image."""
    detector_center: float | None = number(None, 0)
    """(ct) Index of the detector that sees the center of rotation; None for the middle."""
    frequencies: Literal["corner", "center"] = "corner"
    """(compressed_sensing) Position of frequency 0 in the measurement and in the mask: `corner` as
    `numpy.fft.fft2` returns it, `center` after `fftshift`."""
    image_shape: tuple[int, ...] = number((), 1)
    """(compressed_sensing, invert_features, maximize_activation, custom) Height, width and channels of the image; empty if
    the measurement or the classifier determines them."""
    layer: Layer = "logits"
    """(invert_features, maximize_activation) Layer of the classifier; see `classifiers.efficientnet_lite`."""
    unit: int | None = number(None, 0)
    """(maximize_activation) Channel of the layer; for `logits` the number of a class of ImageNet, from 0."""
    num_sizes: int = number(2, 1, 4)
    """(maximize_activation) Number of sizes at which the classifier sees the image: its own, half of it, ... The activation
    is the mean; with one size, as in 2018, fine patterns that show nothing suffice."""
    target: float = number(300.0, 0, open_low=True)
    """(maximize_activation) Activation that the fit approaches, as in 2018: more than any image should reach."""
    operator: str = ""
    """(custom) `path.py:function`, a JAX function from an image to a measurement."""
    plugins: tuple[str, ...] = ()
    """Files that registered tasks of the user, each as `path#sha256=CHECKSUM`; `--plugin` sets them."""

    def __post_init__(self) -> None:
        """Checks the fields together.

        Raises:
          InputError: If they contradict each other.
        """
        super().__post_init__()
        self._check_name()
        if len(self.image_shape) not in (0, 3):
            raise InputError(
                f"task.image_shape expects height, width and channels, got {shorten(self.image_shape)}."
            )
        if len(self.kernel_center) not in (0, 2):
            raise InputError(
                f"task.kernel_center expects a row and a column, got {shorten(self.kernel_center)}."
            )
        parse_range(self.value_range)
        if self.noise_unit == "gray" and (self.noise_std or 0) > 1:
            raise InputError(
                f"task.noise_std expects at most 1, the range of the image, got {self.noise_std}; for stored values "
                "set task.noise_unit=file."
            )

    def _check_name(self) -> None:
        try:
            require_choice("task", self.name, task_names())
        except InputError as error:
            if not self.plugins:
                raise
            flags = " ".join(f"--plugin={plugin.partition('#')[0]}" for plugin in self.plugins)
            raise InputError(f"{error} Its settings name plugins: add {shorten(flags)}.") from None


@dataclasses.dataclass(frozen=True)
class NetConfig(Section):
    """The network. Tuples have one value per scale, the finest first.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplement, figure 21 (`skip`).
    """

    SECTION = "net"

    kind: Kind = "skip"
    """Architecture; see `dip_jax.architectures`."""
    input_depth: int = number(32, 1)
    """Channels of the code."""
    channels_down: tuple[int, ...] = number((128,) * 5, 1)
    """(skip, unet) Channels of the encoder. The number of values is the number of halvings in
    `skip`, and one more in `unet`."""
    channels_up: tuple[int, ...] = number((128,) * 5, 1)
    """(skip) Channels of the decoder."""
    channels_skip: tuple[int, ...] = number((4,) * 5, 0)
    """(skip) Channels of the skip branches; 0 removes a branch."""
    width: int = number(32, 1)
    """(resnet, texture, conv_decoder, deep_decoder) Channels."""
    depth: int = number(8, 1, 16)
    """(resnet, texture, conv_decoder, deep_decoder) Number of residual blocks, of scales, or of
    doublings of the code."""
    extra_scales: int = number(0, 0, 4)
    """(unet) Additional scales, as wide as the coarsest one."""
    concat_input: bool = False
    """(unet) Append the reduced code to each scale of the encoder."""
    residual: bool = True
    """(resnet) Add the input of each block to its output."""
    normalization: Literal["batch", "instance", "none", "group"] = "batch"
    """Normalization of each channel by its mean and variance over the image, with learned scale and
    bias. `unet` also has `instance` (without scale and bias) and `none`, `skip` also has `group`
    (groups of channels together)."""
    num_groups: int = number(8, 1)
    """(group) Number of groups; C channels form gcd(C, num_groups) groups."""
    kernel_down: tuple[int, ...] = number((3,), 1, 7)
    """(skip) Kernel sides of the encoder (1, 3, 5 or 7); one for all scales, or one per scale."""
    kernel_up: tuple[int, ...] = number((3,), 1, 7)
    """(skip) Kernel sides of the decoder; one for all scales, or one per scale."""
    kernel_skip: int = number(1, 1, 7)
    """(skip) Kernel side of the skip branches."""
    conv1x1_up: bool = True
    """(skip) Append a 1x1 convolution to each scale of the decoder."""
    downsample: tuple[Downsampling, ...] = ("stride",)
    """(skip) Method that halves the image; one for all scales, or one per scale."""
    upsample: tuple[Upsampling, ...] = ("bilinear",)
    """(skip, unet, texture, conv_decoder, deep_decoder) Method that doubles the image; only `skip`
    takes one value per scale, and only `unet` has `deconv` (a transposed convolution)."""
    padding: Padding = "reflect"
    """Values beyond the border of the image in convolutions."""
    activation: Activation = "leaky_relu"
    """Activation function."""
    bias: bool = True
    """Biases in the convolutions; in front of a normalization they have no effect."""
    sigmoid: bool = True
    """A sigmoid at the end, which keeps the image in [0, 1]."""
    scale_init: Literal["uniform", "one"] = "uniform"
    """Initial scales of normalizations: U(0, 1), as in the PyTorch of 2018, or 1."""
    sides_per_octave: int = number(16, 0)
    """Canvas sides per octave, to which the sides of images are rounded up so that images of
    similar sizes share a program; 0 turns rounding off."""
    lowering: Lowering = "auto"
    """Algorithm of the convolutions; `auto` chooses by platform, see `layers.conv`."""
    precision: Precision = "auto"
    """Precision of the products in convolutions: `auto` is float32 on CPU and tf32 elsewhere. With
    `bfloat16`, feature maps are bfloat16, but weights, statistics, loss and optimizer float32."""
    remat: Literal["auto", "off", "on"] = "auto"
    """(skip) Rematerialization: the gradient keeps only the inputs of blocks and computes the rest
    again, which takes a fifth less memory and a quarter more time. `auto` turns it on if the image
    does not fit otherwise. It has no effect on CPU with jax 0.10."""
    batching: Batching = "auto"
    """Form of XLA's convolutions under `vmap`; see `layers.xla_conv`."""

    def __post_init__(self) -> None:
        """Checks the fields together.

        Raises:
          InputError: If they contradict each other.
        """
        super().__post_init__()
        num_scales = len(self.channels_down)
        if num_scales == 0:
            raise InputError("net.channels_down expects at least one value, got none.")
        for name, sides in (
            ("kernel_down", self.kernel_down),
            ("kernel_up", self.kernel_up),
            ("kernel_skip", (self.kernel_skip,)),
        ):
            for side in sides:
                if side % 2 == 0:
                    raise InputError(f"net.{name} expects 1, 3, 5 or 7, got {side}.")
        if "deconv" in self.upsample and self.kind != "unet":
            raise InputError(
                f"net.upsample=deconv expects net.kind=unet, got {self.kind}; use bilinear or "
                "nearest."
            )
        normalizations = {
            "unet": ("batch", "instance", "none"),
            "skip": ("batch", "group"),
        }.get(self.kind, ("batch",))
        if self.normalization not in normalizations:
            raise InputError(
                f"net.kind={self.kind} expects net.normalization={' or '.join(normalizations)}, "
                f"got {self.normalization}."
            )
        if self.kind == "unet" and num_scales < 2:
            raise InputError("net.kind=unet expects at least two net.channels_down, got one.")
        if self.kind != "skip":
            return
        for name in ("channels_up", "channels_skip"):
            count = len(getattr(self, name))
            if count != num_scales:
                raise InputError(
                    f"net.{name} expects {num_scales} values, as many as net.channels_down, got "
                    f"{count}."
                )
        for name in ("kernel_down", "kernel_up", "downsample", "upsample"):
            count = len(getattr(self, name))
            if count not in (1, num_scales):
                raise InputError(f"net.{name} expects 1 or {num_scales} values, got {count}.")

    @property
    def num_scales(self) -> int:
        """(skip) Number of times that the image is halved."""
        return len(self.channels_down)

    def per_scale(self, name: str) -> tuple[Any, ...]:
        """(skip) The field `name` with one value per scale."""
        values = getattr(self, name)
        return values * self.num_scales if len(values) == 1 else values


def num_iterated(num_replicates: int) -> int:
    """Returns the number of replicates of the first replicate, which calibrate the bootstrap.

    Example:
      >>> num_iterated(8), num_iterated(2)
      (4, 2)
    """
    return max(2, num_replicates // 2)


@dataclasses.dataclass(frozen=True)
class FitConfig(Section):
    """How the network is fitted to the measurement."""

    SECTION = "fit"

    method: Literal["fit", "sgld"] = "fit"
    """A point estimate (`dip_jax.fit`), or samples of the posterior (`dip_jax.sgld`)."""
    num_seeds: int = number(1, 1, MAX_NETWORKS)
    """(fit) Networks for each image; their estimates are averaged."""
    intervals: Literal["none", "bootstrap", "linearized"] = "none"
    """(fit) Estimate the error of each pixel: by fits to `fit.num_replicates` images whose truth is known, each as long
    as the fit itself, or by as many samples of the network linearized in its weights; see `docs/concepts/sampling.md`."""
    num_replicates: int = number(8, 2, 1000)
    """(bootstrap, linearized) Number of replicates, or of samples. Half as many again calibrate the replicates."""
    num_steps: int = number(3000, 1, 10_000_000)
    """Maximum number of steps; a stopping rule may end a fit earlier."""
    optimizer: str = "adam"
    """Name of an optimizer in `optax` or `optax.contrib`, see `optimizers`; a sampler takes its
    place."""
    learning_rate: float | None = number(None, 0, open_low=True)
    """Learning rate, the largest one if a schedule changes it. None is 1 for optimizers that
    estimate the size of their steps, such as `prodigy`, and 0.01 for all others."""
    schedule: Schedule = "constant"
    """Schedule of the learning rate: constant, a cosine that falls to 0 at `fit.num_steps`, or the
    same after a warm-up. A rule that ends the fit earlier also ends the schedule."""
    warm_up_steps: int | None = number(None, 0)
    """(warmup_cosine) Steps in which the learning rate rises from 0; None for a twentieth of
    `fit.num_steps`."""
    b2: float | None = number(None, 0, 0.99999)
    """Decay of the second moment in Adam and its variants; None for optax's default, 0.999."""
    optimize: Literal["net", "code", "both"] = "net"
    """Fitted variables: the weights of the network, its code, or both."""
    code: Literal["uniform", "normal", "meshgrid", "fourier", "image", "guided"] = "uniform"
    """Code: noise, coordinates, random waves, the guide image of task `flash`, or noise with a classical estimate as
    guide (with `stop.rule=cross_validation`, or of a JPEG file); see `codes`."""
    code_scale: float = number(0.1, 0, open_low=True)
    """(uniform, normal, guided) Factor of the noise, U(0, 1) or N(0, 1)."""
    guide_scale: float = number(1.0, 0, open_low=True)
    """(guided) Factor of the guide."""
    fourier_std: float = number(10.0, 0, open_low=True)
    """(fourier) Standard deviation of the frequencies, in waves per image."""
    likelihood: Likelihood = "gaussian"
    """Likelihood of the measurement; see `losses`."""
    interval_pull: float = number(0.3, 0)
    """(interval) Weight of the squared distance to the center of the interval."""
    tv_weight: float = number(0.0, 0)
    """Weight of the total variation in the loss."""
    tv_form: Variation = "isotropic"
    """Total variation as in 2018, or smoothed at zero; see `regularizers.total_variation`."""
    perturbation: float = number(1 / 30, 0)
    """Standard deviation of the fresh normal noise on the code in each step."""
    filter: Literal["none", "nonlocal"] = "none"
    """Final filter of networks that are stopped together (`stop.rule=cross_validation`): `nonlocal` combines similar
    patches of the measurement, with the combined estimate as pilot; see `ensemble.similar_patches`."""
    average: Literal["original", "corrected", "none"] = "corrected"
    """Running average of the outputs: as in 2018 (it starts at the first output), bias-corrected,
    or the latest output alone."""
    average_decay: float = number(0.99, 0, 0.999999)
    """Decay of the running average per step."""
    guard_ratio: float = number(10**0.5, 1, open_low=True)
    """The guard undoes a step whose loss is above this multiple of its running level (2018: 5 dB of
    a squared misfit)."""
    guard_every: int = number(20, 1)
    """Accepted steps in a row after which the guard takes a snapshot."""
    guard_limit: int = number(10, 1)
    """Rollbacks to one snapshot after which the fit has diverged."""


@dataclasses.dataclass(frozen=True)
class SgldConfig(Section):
    """How the posterior is sampled, with `fit.method=sgld`; see `dip_jax.sgld`."""

    SECTION = "sgld"

    sampler: Literal["underdamped", "psgld", "sgld", "csgld", "paper"] = "underdamped"
    """Underdamped, preconditioned, plain or cyclical Langevin dynamics, or the sampler of the 2019 code."""
    burn_in: int | None = number(None, 0)
    """Steps before the first sample; None for 35 % of all steps, as in 2019, and in `csgld` whole cycles."""
    thin: int = number(10, 1)
    """Every `thin`-th step after the burn-in gives a sample."""
    num_chains: int = number(2, 1, MAX_NETWORKS)
    """Number of chains, each with its own network."""
    chains_per_start: int = number(1, 1, MAX_NETWORKS)
    """Number of consecutive chains that start from the same weights and code, and differ in the random numbers of
    their steps; it divides `sgld.num_chains`. Above 1, convergence is judged by the nested R-hat."""
    temperature: float = number(1.0, 0)
    """Temperature T: 1 samples the posterior, 0 optimizes (not in `underdamped`)."""
    warm_up: int | None = number(None, 0)
    """First steps of the burn-in, at temperature 0 (in `underdamped` of Adam); None for a fifth of the burn-in."""
    step_size: float | None = number(None, 0, open_low=True)
    """(underdamped, sgld, psgld) Step size after the warm-up: s in `underdamped`, e in the others. None is 0.16 in
    `underdamped`, a quarter of `fit.learning_rate` in `psgld`, and in `sgld` 1 / k, with which a step follows the gradient of the mean
    loss."""
    friction: float = number(0.3, 0, open_low=True)
    """(underdamped) Friction per unit of time."""
    step_decay: float = number(0.0, 0, 1)
    """(sgld, psgld) Exponent of the decay of the step size after the burn-in; 0 for none."""
    decay: float = number(0.999, 0, 0.999999)
    """(psgld, csgld) Decay of the running mean of squared gradients."""
    damping: float = number(1e-3, 0, open_low=True)
    """(psgld, csgld) Constant added to the root of that mean, in units of the gradient of U."""
    num_cycles: int = number(4, 1)
    """(csgld) Number of cycles of the step size."""
    explore_fraction: float = number(0.5, 0, 1)
    """(csgld) First fraction of each cycle, which runs at temperature 0 and gives no samples."""
    prior_precision: float | None = number(None, 0)
    """(underdamped, sgld, psgld, csgld) Precision p (1 / variance) of the normal prior of each weight. None is a prior as wide as the
    initial weights in `underdamped`, and 1 in the others."""
    constrain_norm: bool = False
    """(sgld, psgld, csgld) Keep the norm of kernels in front of a normalization; it has no effect
    on the image, but a step rotates a kernel of large norm less."""
    noise: Literal["known", "sampled"] = "known"
    """Noise level: known or estimated before, or sampled too (Gaussian likelihood only)."""
    noise_shape: float = number(1.0, 0, open_low=True)
    """(sampled) Shape a of the inverse-gamma prior of the noise variance."""
    noise_rate: float = number(1e-3, 0, open_low=True)
    """(sampled) Scale b of that prior, a variance."""
    weight_decay: float = number(5e-8, 0)
    """(paper) Weight decay, relative to the mean loss."""
    perturbation: float = number(0.0, 0)
    """(underdamped, sgld, psgld, csgld) Replaces `fit.perturbation`. A perturbed code adds noise beyond the
    temperature."""
    held_out_fraction: float = number(0.01, 0, 0.5)
    """Fraction of the measurements that is hidden from all chains, to check their predictions
    (pixelwise operators only)."""
    keep_samples: int = number(0, 0, 1000)
    """Samples of each chain that are written to disk, evenly spread over the run."""
    point_estimate: bool = True
    """If the reference is known, also run a fit with as many steps, for comparison."""

    def phases(self, num_steps: int) -> tuple[int, int]:
        """Returns the steps of the warm-up, and of the burn-in that contains it.

        Example:
          >>> SgldConfig().phases(1000)
          (70, 350)
        """
        burn_in = round(0.35 * num_steps) if self.burn_in is None else self.burn_in
        if self.burn_in is None and self.sampler == "csgld" and self.num_cycles > 1:
            length = cycle_length(num_steps, self.num_cycles)
            burn_in = min(-(-burn_in // length), self.num_cycles - 1) * length
        return burn_in // 5 if self.warm_up is None else self.warm_up, burn_in

    def samples(self, num_steps: int) -> SampleSchedule:
        """Returns the steps that give samples.

        Args:
          num_steps: Steps in total.

        Example:
          >>> SgldConfig(burn_in=20, thin=10).samples(60).num_samples
          3
        """
        _, burn_in = self.phases(num_steps)
        if self.sampler != "csgld":
            return every_nth(self.thin, burn_in=burn_in, num_steps=num_steps)
        return late_in_cycles(
            self.thin,
            burn_in=burn_in,
            num_steps=num_steps,
            num_cycles=self.num_cycles,
            explore_fraction=self.explore_fraction,
        )


@dataclasses.dataclass(frozen=True)
class StopConfig(Section):
    """When a fit stops, judged without the reference; see `dip_jax.stopping`."""

    SECTION = "stop"

    rule: Literal[
        "held_out", "wmv", "emv", "discrepancy", "sure", "fixed", "cross_validation", "all"
    ] = "held_out"
    """Stopping rule.

    * `held_out`: minimum of the loss on measurements that are hidden from the fit.
    * `wmv`, `emv`: minimum of the windowed or exponential moving variance of the outputs.
    * `discrepancy`: the misfit falls to the noise level, which must be known.
    * `sure`: minimum of an unbiased risk estimate. It needs the noise level and a second fit (twice
      the time and memory).
    * `fixed`: runs all steps.
    * `cross_validation`: runs all steps; then the networks of the image (`fit.num_seeds`) are stopped together, at the
      least error on the pixels that are hidden from each; estimates of several steps are combined.
    * `all`: runs all steps, reports every rule and returns the estimate of the default one.
    """
    window: int = number(100, 2)
    """(wmv, emv, held_out, sure) Outputs in the window of `wmv`. The other rules measure waiting
    times in windows, see `stopping.minimum`."""
    patience: float = number(0.5, 0, open_low=True)
    """(wmv, emv, held_out, sure) A minimum is confirmed after this fraction of its step, but not
    before two windows and the lag of the average."""
    num_pixels: int = number(4096, 1)
    """(wmv) Pixels on which the variance is measured, a fixed random subset."""
    emv_rate: float = number(0.1, 0, 0.5, open_low=True)
    """(emv) Weight of the newest output in the moving mean and variance."""
    discrepancy_factor: float = number(0.9, 0, open_low=True)
    """(discrepancy) Multiple of the noise variance at whose mean squared misfit the rule fires."""
    held_out_fraction: float = number(0.03, 0, 0.5, open_low=True)
    """(held_out) Fraction of the measurements that is hidden from the fit."""
    keep_every: int = number(25, 1)
    """(cross_validation) Number of steps between two estimates that the rule combines."""
    num_folds: int | None = number(None, 2)
    """(cross_validation) Number of folds of the pixels, of which each network does not see one; None for the number of
    networks."""
    sure_epsilon: float = number(0.3, 0, open_low=True)
    """(sure) Difference of the second fit's measurement, in standard deviations of the noise."""


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """How a run uses the machine. Only `seed` changes the result."""

    SECTION = "run"

    seed: int = number(0, 0, 2**32 - 1)
    """Seed; every random number follows from it and from the name of the image."""
    chunk: int = number(100, 1)
    """Maximum number of steps per dispatch. The number adapts so that a dispatch lasts a few
    seconds on CPU and half a second elsewhere."""
    slot_mode: Literal["auto", "map", "vmap", "unroll"] = "auto"
    """How slots share a device: one after the other (`map`), in parallel (`vmap`), or each with its
    own code (`unroll`). `auto` is `map` on CPU and `vmap` elsewhere."""
    slots: int | None = number(None, 1)
    """Slots per device; None for 1 on CPU and 8 elsewhere, fewer if there are fewer networks or
    memory is short."""
    refill: bool = True
    """Give a free slot to the next image at once, instead of waiting until all slots are free."""
    checkpoint_every: float = number(5.0, 0)
    """Minutes between checkpoints of the images in progress."""
    checkpoint_keep: int = number(2, 1)
    """Number of latest checkpoints that are kept."""
    max_memory: float | None = number(None, 0, open_low=True)
    """Memory in GB that a run may use; None for all available memory."""
    log: Literal["none", "tensorboard", "wandb"] = "none"
    """Logs that a run with an output folder writes while it goes on; see `report.loggers`. They need the package
    tensorboardX or wandb."""
    log_every: int = number(100, 1)
    """Steps of a network between two entries of its log. A chunk ends there."""


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run, in sections.

    Example:
      >>> config = replace_fields(Config(), {"fit.num_steps": 1500})
      >>> config.fit.num_steps, config.task.name
      (1500, 'denoise')
    """

    task: TaskConfig = TaskConfig()
    net: NetConfig = NetConfig()
    fit: FitConfig = FitConfig()
    sgld: SgldConfig = SgldConfig()
    stop: StopConfig = StopConfig()
    run: RunConfig = RunConfig()

    @property
    def num_networks(self) -> int:
        """Networks of each image: chains of a sampler, or seeds of a fit."""
        return self.sgld.num_chains if self.fit.method == "sgld" else self.fit.num_seeds

    @property
    def num_fits(self) -> int:
        """Networks that are fitted for each image, those of its replicates included."""
        if self.fit.intervals != "bootstrap":
            return self.num_networks
        replicates = self.fit.num_replicates
        return self.num_networks * (1 + replicates + num_iterated(replicates))

    def __post_init__(self) -> None:
        """Checks the sections together; `dip_jax.tasks.settings` checks that they fit the task.

        Raises:
          InputError: If they contradict each other.
        """
        self._check_code()
        self._check_schedule()
        self._check_ensemble()
        if self.fit.method == "sgld":
            self._check_sampling()
        self._check_likelihood()
        if self.fit.intervals != "none":
            self._check_intervals()

    def _check_code(self) -> None:
        depth, code = self.net.input_depth, self.fit.code
        is_valid, expected = {
            "meshgrid": (depth == 2, "2"),
            "fourier": (depth % 2 == 0, "an even number"),
            "image": (depth == 3, "3"),
        }.get(code, (True, ""))
        if not is_valid:
            raise InputError(f"fit.code={code} expects net.input_depth={expected}, got {depth}.")
        if self.net.kind == "identity" and (
            self.fit.optimize != "code" or code not in ("uniform", "normal")
        ):
            raise InputError(
                "net.kind=identity has no weights, and its code is the image: expected "
                f"fit.optimize=code and fit.code=uniform or normal, got {self.fit.optimize} and "
                f"{code}."
            )

    def _check_schedule(self) -> None:
        fit = self.fit
        if fit.method == "sgld" and fit.schedule != "constant":
            raise InputError(
                "A sampler sets its own step sizes: expected fit.schedule=constant, got "
                f"{fit.schedule}."
            )
        warm_up = fit.warm_up_steps if fit.schedule == "warmup_cosine" else None
        if warm_up is not None and warm_up >= fit.num_steps:
            raise InputError(
                f"fit.warm_up_steps expects less than fit.num_steps={fit.num_steps}, got {warm_up}."
            )

    def _check_ensemble(self) -> None:
        fit, stop = self.fit, self.stop
        is_joint = fit.method == "fit" and stop.rule == "cross_validation"
        if fit.filter == "nonlocal" and not is_joint:
            raise InputError(
                "fit.filter=nonlocal expects networks that are stopped together, stop.rule=cross_validation, got "
                f"fit.method={fit.method} with the rule {stop.rule}; use a preset of a single network, such as "
                "denoise_single or inpaint_random_single."
            )
        # The guide of a JPEG file has seen all of it, so no hidden part can tell when to stop.
        is_jpeg = fit.likelihood == "interval" and (fit.method, stop.rule) == ("fit", "fixed")
        if fit.code == "guided" and not is_joint and not is_jpeg:
            raise InputError(
                "fit.code=guided expects networks that are stopped together (stop.rule=cross_validation), or JPEG "
                "files (fit.likelihood=interval) and all steps (stop.rule=fixed), got "
                f"fit.method={fit.method} with the rule {stop.rule} and the likelihood {fit.likelihood}; use a preset "
                "without guide, such as denoise_single, inpaint_random_single or dejpeg_unguided."
            )
        if fit.code == "guided" and self.net.kind in ("deep_decoder", "identity"):
            raise InputError(
                "fit.code=guided expects a network whose code is as large as the image and has more channels, got "
                f"net.kind={self.net.kind}."
            )
        if not is_joint:
            return
        uses_patches = fit.code == "guided" or fit.filter == "nonlocal"
        if uses_patches and (self.task.noise != "gaussian" or fit.likelihood != "gaussian"):
            raise InputError(
                "fit.code=guided and fit.filter=nonlocal expect task.noise=gaussian and fit.likelihood=gaussian, got "
                f"{self.task.noise} and {fit.likelihood}; use fit.code=uniform and fit.filter=none."
            )
        if fit.num_seeds < 2:
            raise InputError(
                "stop.rule=cross_validation expects at least two networks (fit.num_seeds), each of which does not see "
                f"a part of the pixels, got {fit.num_seeds}; use more networks, or a preset of a "
                "single network, such as denoise_single or inpaint_random_single."
            )
        if stop.num_folds is not None and stop.num_folds < fit.num_seeds:
            raise InputError(
                "stop.num_folds expects at least the number of networks (fit.num_seeds), each of which does not see one "
                f"fold, got {stop.num_folds} for {fit.num_seeds}; add --set stop.num_folds={fit.num_seeds}."
            )
        if stop.keep_every > fit.num_steps:
            raise InputError(
                f"stop.keep_every expects at most fit.num_steps={fit.num_steps}, got {stop.keep_every}."
            )

    def _check_likelihood(self) -> None:
        if self.fit.likelihood == "tobit" and self.task.noise != "gaussian":
            raise InputError(
                "fit.likelihood=tobit expects Gaussian noise that was clipped, got "
                f"task.noise={self.task.noise}; add --set task.noise=gaussian, or use another likelihood."
            )
        if self.fit.likelihood == "poisson_gauss" and "poisson" not in self.task.noise:
            raise InputError(
                "fit.likelihood=poisson_gauss expects a noise of photons, got "
                f"task.noise={self.task.noise}; add --set task.noise=poisson_gauss --set task.peak=..."
            )

    def _check_intervals(self) -> None:
        fit, is_linearized = self.fit, self.fit.intervals == "linearized"
        for name, value, expected, is_met in (
            ("fit.method", fit.method, "fit; samples have intervals anyway", fit.method == "fit"),
            (
                "task.noise",
                self.task.noise,
                "Gaussian noise or photons",
                self.task.noise != "salt_and_pepper",
            ),
            (
                "fit.likelihood",
                fit.likelihood,
                "gaussian" if is_linearized else "Gaussian noise or photons",
                fit.likelihood == "gaussian"
                or (not is_linearized and fit.likelihood not in ("laplace", "interval")),
            ),
            ("fit.tv_weight", fit.tv_weight, "0", not is_linearized or fit.tv_weight == 0),
            ("fit.optimize", fit.optimize, "net", not is_linearized or fit.optimize == "net"),
            ("fit.num_seeds", fit.num_seeds, "1", not is_linearized or fit.num_seeds == 1),
            (
                "sgld.prior_precision",
                self.sgld.prior_precision,
                "none or a precision above 0",
                not is_linearized or self.sgld.prior_precision != 0,
            ),
        ):
            if not is_met:
                raise InputError(
                    f"fit.intervals={fit.intervals} expects {name}={expected}, got {value}; use --intervals=none."
                )

    def _check_sampling(self) -> None:
        sgld, fit = self.sgld, self.fit
        warm_up, burn_in = sgld.phases(fit.num_steps)
        num_samples = sgld.samples(fit.num_steps).num_samples
        if num_samples < 2:
            raise InputError(
                f"Sampling expects at least two samples, got {num_samples} from "
                f"fit.num_steps={fit.num_steps}, sgld.burn_in={burn_in} and sgld.thin={sgld.thin}; "
                "run more steps or shorten the burn-in (csgld samples only in the later part of a cycle: "
                "lower sgld.explore_fraction)."
            )
        if sgld.num_chains % sgld.chains_per_start:
            raise InputError(
                f"sgld.chains_per_start expects a divisor of sgld.num_chains={sgld.num_chains}, got "
                f"{sgld.chains_per_start}."
            )
        if warm_up > burn_in:
            raise InputError(
                f"sgld.warm_up expects at most the burn-in of {burn_in} steps, got {warm_up}."
            )
        if sgld.sampler == "underdamped":
            for name, ok, expected in (
                ("temperature", sgld.temperature > 0, "a temperature above 0"),
                ("prior_precision", sgld.prior_precision != 0, "none or a precision above 0"),
                ("constrain_norm", not sgld.constrain_norm, "False"),
                ("step_decay", sgld.step_decay == 0, "0"),
            ):
                if not ok:
                    raise InputError(
                        f"sgld.{name} expects {expected} with sgld.sampler=underdamped, got "
                        f"{getattr(sgld, name)}; add --set sgld.sampler=psgld."
                    )
        if sgld.noise == "sampled" and (
            fit.likelihood != "gaussian" or fit.tv_weight or sgld.sampler == "paper"
        ):
            raise InputError(
                "sgld.noise=sampled expects fit.likelihood=gaussian, fit.tv_weight=0 and a sampler "
                f"other than paper, got {fit.likelihood}, {fit.tv_weight:g} and {sgld.sampler}."
            )
        if fit.likelihood == "poisson" and "poisson" not in self.task.noise:
            raise InputError(
                "Sampling with fit.likelihood=poisson expects a noise of photons, got "
                f"task.noise={self.task.noise}; add --set task.noise=poisson --set task.peak=..."
            )


SECTIONS: dict[str, type[Section]] = {
    section.SECTION: section
    for section in (TaskConfig, NetConfig, FitConfig, SgldConfig, StopConfig, RunConfig)
}
"""The sections of a `Config`, by name."""


def replace_fields(config: Config, values: dict[str, Any]) -> Config:
    """Returns `config` with some fields replaced.

    Args:
      config: The config.
      values: New values, by `section.field`.

    Raises:
      InputError: For an unknown field or a value that is not allowed.
    """
    changes: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        _field(name)
        section, field = name.split(".")
        changes[section][field] = value
    sections = {}
    for section, fields in changes.items():
        unchanged = getattr(config, section)
        sections[section] = dataclasses.replace(unchanged, **fields) if fields else unchanged
    return Config(**sections)


def field_names() -> tuple[str, ...]:
    """Returns the names of all fields, as `section.field`."""
    return tuple(
        f"{name}.{field.name}"
        for name, section in SECTIONS.items()
        for field in dataclasses.fields(section)
    )


def parse_field(name: str, text: str) -> Any:
    """Parses `text` as a value of the field `name` (`section.field`); tuples are comma-separated.

    Raises:
      InputError: For an unknown field, or a text of another type.

    Example:
      >>> parse_field("net.channels_down", "16,32,64")
      (16, 32, 64)
    """
    return parse(name, _field(name), text)


def to_json(config: Config) -> str:
    """Returns the config as JSON."""
    content = dataclasses.asdict(config)
    return json.dumps(content, indent=2, default=lambda scalar: scalar.item()) + "\n"  # of numpy


def from_json(text: str) -> Config:
    """Returns the config that `to_json` has written as `text`.

    Raises:
      InputError: For text that is no such JSON, an unknown field or a value that is not allowed.
    """
    try:
        loaded = json.loads(text)
        values = {
            f"{section}.{field}": tuple(value) if isinstance(value, list) else value
            for section, fields in loaded.items()
            for field, value in fields.items()
        }
        return replace_fields(Config(), values)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        reason = str(error).rstrip(".")
        raise InputError(f"Expected a config.json written by dip_jax: {reason}.") from None


def _field(name: str) -> dataclasses.Field:
    require_choice("config field", name, field_names())
    section, field = name.split(".")
    return next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == field)

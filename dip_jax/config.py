"""Every setting of a run: frozen dataclasses, overrides by name, JSON.

A `Config` is complete: together with the pictures and the versions it determines the result. This
file imports no JAX, so that a wrong flag is answered at once.
"""

import dataclasses
import json
from typing import Any

from dip_jax.errors import InputError
from dip_jax.fields import Section, choice, number, parse, require_choice

TASKS = (
    "denoise",
    "inpaint",
    "dejpeg",
    "super_resolve",
    "flash",
    "deblur",
    "demosaic",
    "compressed_sensing",
    "ct",
    "custom",
)
LIKELIHOODS = ("gaussian", "poisson", "poisson_gauss", "laplace", "interval")


@dataclasses.dataclass(frozen=True)
class TaskConfig(Section):
    """What was done to the picture."""

    SECTION = "task"

    name: str = choice(*TASKS, default="denoise")
    """The damage; see `tasks`."""
    noise_std: float | None = number(None, 0, 1)
    """Standard deviation of the noise in [0, 1] units; None for unknown (where it is simulated: 25/255
    for denoising and flash, 2/255 for deblurring, 0 elsewhere)."""
    noise: str = choice(
        "gaussian", "poisson", "poisson_gauss", "salt_and_pepper", default="gaussian"
    )
    """The kind of noise that a simulation adds."""
    peak: float = number(30.0, 0, open_low=True)
    """Poisson noise: photons that a white pixel receives on average."""
    salt_fraction: float = number(0.1, 0, 1)
    """Salt and pepper: share of the pixels that turn black or white."""
    saturation: float | None = number(None, 0, open_low=True)
    """Measured values from here on say nothing (a full sensor) and are left out; None for none."""
    known_fraction: float = number(0.5, 0, 1, open_low=True)
    """Share of the pixels (inpainting) or measurements (compressed sensing) that a simulation keeps."""
    paste_known: bool = True
    """Put the known pixels back into the answer of an inpainting without noise."""
    factor: int = number(4, 2, 32)
    """Super-resolution: how many times smaller each side was made."""
    filter: str = choice("lanczos2", "lanczos3", "box", "bicubic", default="lanczos2")
    """Super-resolution: how the model shrinks."""
    kernel: str = choice("gaussian", "motion", "file", default="gaussian")
    """Deblurring: the point spread; `file` reads it from a picture or a .npy file."""
    kernel_std: float = number(1.6, 0, open_low=True)
    """Deblurring: standard deviation of a Gaussian kernel in pixels."""
    kernel_length: float = number(9.0, 1)
    """Deblurring: length of a motion in pixels."""
    kernel_angle: float = number(0.0, -360, 360)
    """Deblurring: its direction in degrees, counter-clockwise from the right."""
    normalize_kernel: bool = False
    """Deblurring: scale a given kernel to sum 1 instead of refusing it."""
    boundary: str = choice("reflect", "circular", default="reflect")
    """Deblurring: what the kernel sees beyond the border."""
    jpeg: str = choice("intervals", "decoded", default="intervals")
    """dejpeg: keep the coefficients within the file's own quantization intervals, or fit the decoded
    picture as in 2018."""
    quality: int = number(10, 1, 100)
    """dejpeg: quality of a simulated JPEG."""
    pattern: str = choice("RGGB", "BGGR", "GRBG", "GBRG", default="RGGB")
    """Demosaicing: the color filters of the first two rows."""
    sensing: str = choice("fourier", "gaussian", default="fourier")
    """Compressed sensing: random frequencies, or a random matrix."""
    num_angles: int = number(32, 1)
    """CT: directions in half a turn."""
    image_shape: tuple[int, ...] = number((), 1)
    """Height, width and channels of the image where the measurement does not say (compressed sensing,
    custom operators)."""
    operator: str = ""
    """custom: `path.py:function`, any JAX function from an image to a measurement."""

    def __post_init__(self) -> None:
        """Checks what no single field can."""
        super().__post_init__()
        if len(self.image_shape) not in (0, 3):
            raise InputError(
                f"task.image_shape needs height, width and channels, came {self.image_shape}."
            )


@dataclasses.dataclass(frozen=True)
class NetConfig(Section):
    """The network. Lists run over the scales, the finest first. Not every field matters to every kind.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplementary material, figure 21 (`skip`).
    """

    SECTION = "net"

    kind: str = choice(
        "skip",
        "unet",
        "resnet",
        "texture",
        "conv_decoder",
        "deep_decoder",
        "identity",
        default="skip",
    )
    """Which network; see `nets`."""
    input_depth: int = number(32, 1)
    """Channels of the code."""
    channels_down: tuple[int, ...] = number((128,) * 5, 1)
    """skip, unet: channels of the encoder; for `skip` its length is the number of scales, for `unet` one
    more."""
    channels_up: tuple[int, ...] = number((128,) * 5, 1)
    """skip: channels of the decoder."""
    channels_skip: tuple[int, ...] = number((4,) * 5, 0)
    """skip: channels of the skip connections; 0 leaves one out."""
    width: int = number(32, 1)
    """resnet, texture, conv_decoder, deep_decoder: channels."""
    depth: int = number(8, 1, 16)
    """resnet: blocks; texture: scales; conv_decoder, deep_decoder: how often the code is doubled."""
    extra_scales: int = number(0, 0, 4)
    """unet: further scales of the coarsest width."""
    concat_input: bool = False
    """unet: each encoder scale also sees the shrunken code."""
    residual: bool = True
    """resnet: add each block's input to its output."""
    normalization: str = choice("batch", "instance", "none", "group", default="batch")
    """Each channel by its own statistics, with learnt scale and bias; unet: also without them (`instance`), or not at
    all; skip: also groups of channels together."""
    num_groups: int = number(8, 1)
    """group: into how many groups channels are parted, as far as their number allows."""
    kernel_down: tuple[int, ...] = number((3,), 1, 7)
    """skip: kernel sides of the encoder: 1, 3, 5 or 7; one value serves all scales."""
    kernel_up: tuple[int, ...] = number((3,), 1, 7)
    """skip: kernel sides of the decoder; one value serves all scales."""
    kernel_skip: int = number(1, 1, 7)
    """skip: kernel side of the skip connections."""
    conv1x1_up: bool = True
    """skip: a 1x1 convolution at the end of each decoder scale."""
    downsample: tuple[str, ...] = choice(
        "stride", "avg", "max", "lanczos2", "lanczos3", default=("stride",)
    )
    """skip: how each scale halves the image; one value serves all scales."""
    upsample: tuple[str, ...] = choice("bilinear", "nearest", "deconv", default=("bilinear",))
    """How each scale doubles it; one value serves all scales (`deconv`, a transposed convolution, in unet
    only)."""
    padding: str = choice("reflect", "zero", default="reflect")
    """What convolutions see beyond the border."""
    activation: str = choice("leaky_relu", "swish", "elu", "relu", "none", default="leaky_relu")
    """The non-linearity."""
    bias: bool = True
    """Biases in the convolutions (those before a normalization have no effect)."""
    sigmoid: bool = True
    """A sigmoid at the end, so that images lie in [0, 1]."""
    scale_init: str = choice("uniform", "one", default="uniform")
    """Where normalization scales start: U(0, 1), as the PyTorch of 2018 did, or at one."""
    sides_per_octave: int = number(16, 0)
    """Sides are rounded up to so many per octave, so that pictures share a program; 0 rounds nothing."""
    lowering: str = choice("auto", "winograd", "patches", "xla", default="auto")
    """How convolutions are computed; `auto` chooses per platform. See `convolution`."""
    precision: str = choice("auto", "float32", "tf32", "bfloat16", default="auto")
    """Of the products in convolutions; `auto` is float32 on CPU and tf32 elsewhere. With `bfloat16` maps are kept
    in it, too; weights, statistics, loss and optimizer are float32 in any case."""
    remat: str = choice("auto", "off", "on", default="auto")
    """skip: rematerialization, that is to keep for the gradient only what blocks begin with and to compute the rest
    again: a fifth less memory, a quarter more time. `auto` does so where a picture would not fit otherwise. (On
    CPU with jax 0.10 it has no effect: its compiler computes nothing twice.)"""
    batching: str = choice("auto", "grouped", "separate", "product", default="auto")
    """What `vmap` makes of the platform's own convolutions; see `layers.xla_conv`."""

    def __post_init__(self) -> None:
        """Checks what no single field can."""
        super().__post_init__()
        scales = len(self.channels_down)
        if scales == 0:
            raise InputError("net.channels_down needs at least one value, came none.")
        for side in (*self.kernel_down, *self.kernel_up, self.kernel_skip):
            if side % 2 == 0:
                raise InputError(f"Kernel sides must be 1, 3, 5 or 7, came {side}.")
        if "deconv" in self.upsample and self.kind != "unet":
            raise InputError(f"net.upsample=deconv belongs to unet, the network is {self.kind}.")
        if self.normalization not in {
            "unet": ("batch", "instance", "none"),
            "skip": ("batch", "group"),
        }.get(self.kind, ("batch",)):
            raise InputError(
                f"net.normalization={self.normalization} is not one of {self.kind}; use batch."
            )
        if self.kind == "unet" and scales < 2:
            raise InputError("A unet needs at least two values in net.channels_down, came one.")
        if self.kind != "skip":
            return
        for name in ("channels_up", "channels_skip"):
            if len(getattr(self, name)) != scales:
                raise InputError(
                    f"net.{name} needs {scales} values, one per scale as net.channels_down has, came "
                    f"{len(getattr(self, name))}."
                )
        for name in ("kernel_down", "kernel_up", "downsample", "upsample"):
            values = getattr(self, name)
            if len(values) not in (1, scales):
                raise InputError(f"net.{name} needs 1 or {scales} values, came {len(values)}.")

    @property
    def num_scales(self) -> int:
        """skip: how often the image is halved."""
        return len(self.channels_down)

    def per_scale(self, name: str) -> tuple[Any, ...]:
        """skip: the field `name` with one value for each scale."""
        values = getattr(self, name)
        return values * self.num_scales if len(values) == 1 else values


@dataclasses.dataclass(frozen=True)
class FitConfig(Section):
    """How the network is fitted to the measurement."""

    SECTION = "fit"

    method: str = choice("fit", "sgld", default="fit")
    """A point estimate, or samples of the posterior; see `fit` and `sgld`."""
    num_seeds: int = number(1, 1, 64)
    """fit: networks for the same picture, whose answers are averaged."""
    num_steps: int = number(3000, 1)
    """Optimization steps at most; a stopping rule may end earlier."""
    optimizer: str = "adam"
    """The name of any optimizer in optax; of `sgld` its place is the sampler's."""
    learning_rate: float = number(0.01, 0, open_low=True)
    """Its learning rate, constant."""
    b2: float | None = number(None, 0, 0.99999)
    """Decay of its second moment, where it has one, as Adam and its kin; None for optax's own, 0.999."""
    optimize: str = choice("net", "code", "both", default="net")
    """What is fitted: the network's weights, its code, or both."""
    code: str = choice("uniform", "normal", "meshgrid", "fourier", "image", default="uniform")
    """The network's input: noise, coordinates, random waves, or a picture (the guide); see `codes`."""
    code_scale: float = number(0.1, 0, open_low=True)
    """What the noise of the code is multiplied by: U(0, 1) or N(0, 1)."""
    fourier_std: float = number(10.0, 0, open_low=True)
    """Standard deviation of the frequencies of a `fourier` code, in waves per picture."""
    likelihood: str = choice(*LIKELIHOODS, default="gaussian")
    """How the prediction is compared with the measurement; see `losses`."""
    interval_pull: float = number(0.3, 0)
    """interval: weight of the squared distance to the interval's middle, inside it too."""
    tv_weight: float = number(0.0, 0)
    """Weight of the total variation that is added to the loss."""
    tv_form: str = choice("isotropic", "smooth", default="isotropic")
    """Total variation as in 2018, or with a gradient that is smooth at zero."""
    perturbation: float = number(1 / 30, 0)
    """Standard deviation of the fresh normal noise that each step adds to the code."""
    average: str = choice("original", "corrected", "none", default="corrected")
    """Running average of the outputs: as in 2018 (it starts at the first output), or bias-corrected."""
    average_decay: float = number(0.99, 0, 0.999999)
    """Decay of the running average per step."""
    guard_ratio: float = number(10**0.5, 1, open_low=True)
    """A step whose loss is this many times its recent level is undone (2018: 5 dB of a squared misfit)."""
    guard_every: int = number(20, 1)
    """Steps between the snapshots that the guard returns to."""
    guard_limit: int = number(10, 1)
    """Returns to the same snapshot after which the fit has diverged."""


@dataclasses.dataclass(frozen=True)
class SgldConfig(Section):
    """How the posterior is sampled, with `fit.method=sgld`; see `sgld`."""

    SECTION = "sgld"

    sampler: str = choice("psgld", "sgld", "csgld", "paper", default="psgld")
    """Preconditioned, plain or cyclical Langevin dynamics, or what the code of 2019 did."""
    burn_in: int | None = number(None, 0)
    """Steps before the first sample; None for 35 % of them, as in 2019."""
    thin: int = number(10, 1)
    """Every so manieth step after it gives a sample."""
    num_chains: int = number(2, 1, 64)
    """Chains with networks of their own."""
    temperature: float = number(1.0, 0)
    """1 samples the posterior, 0 optimizes."""
    warm_up: int | None = number(None, 0)
    """First steps, which go at temperature 0; None for a fifth of the burn-in."""
    step_size: float | None = number(None, 0, open_low=True)
    """sgld, psgld: the step e after the warm-up. None for `fit.learning_rate`, which is that of the warm-up; of
    plain sgld for 1 / k, which moves the weights by the gradient of the mean loss."""
    step_decay: float = number(0.0, 0, 1)
    """sgld, psgld: exponent by which the step falls after the burn-in; 0 keeps it."""
    decay: float = number(0.999, 0, 0.999999)
    """psgld, csgld: decay of the running mean of squared gradients."""
    damping: float = number(1e-3, 0, open_low=True)
    """psgld, csgld: what is added to its root, in units of the gradient of U."""
    freeze: bool = True
    """psgld, csgld: keep the preconditioner as it is at the end of the burn-in."""
    gamma: bool = False
    """psgld, csgld without `freeze`: correct the drift for the preconditioner's change (a second gradient
    per step)."""
    num_cycles: int = number(4, 1)
    """csgld: cycles of the step size."""
    explore_fraction: float = number(0.5, 0, 1)
    """csgld: first share of each cycle that goes at temperature 0 and gives no samples."""
    prior_precision: float = number(1.0, 0)
    """Precision (one over the variance) of the normal prior of each weight."""
    constrain_norm: bool = False
    """All but `paper`: kernels in front of a normalization keep their length, which has no effect on the image but
    on how far a step turns them."""
    noise: str = choice("known", "sampled", default="known")
    """The noise level: as given or estimated, or sampled too (Gaussian likelihood only)."""
    noise_shape: float = number(1.0, 0, open_low=True)
    """sampled: shape of the inverse-gamma prior of the noise's variance."""
    noise_rate: float = number(1e-3, 0, open_low=True)
    """sampled: its scale, a variance."""
    weight_decay: float = number(5e-8, 0)
    """paper: weight decay of the mean loss."""
    perturbation: float = number(0.0, 0)
    """All but `paper`: standard deviation of the noise added to the code in each step (there it is
    `fit.perturbation`). It is heat beyond the temperature."""
    held_out_fraction: float = number(0.01, 0, 0.5)
    """Share of the measurements that no chain sees, to check its predictions on (where the operator acts on
    each pixel alone)."""
    keep_samples: int = number(0, 0, 1000)
    """Samples of each chain to write to disk, evenly spread over the run."""
    point_estimate: bool = True
    """Where there is a reference, also make a fit of as many steps, to compare with."""

    def phases(self, num_steps: int) -> tuple[int, int]:
        """Steps of the warm-up, and of the burn-in that begins with it."""
        burn_in = round(0.35 * num_steps) if self.burn_in is None else self.burn_in
        return burn_in // 5 if self.warm_up is None else self.warm_up, burn_in

    def num_samples(self, num_steps: int) -> int:
        """Samples of a chain in which the guard rejects none; see `sgld.is_sample`."""
        _, burn_in = self.phases(num_steps)
        steps = range(self.thin * (burn_in // self.thin + 1), num_steps, self.thin)
        if self.sampler != "csgld":
            return len(steps)
        length = -(-num_steps // self.num_cycles)
        return sum(t % length >= self.explore_fraction * length for t in steps)


@dataclasses.dataclass(frozen=True)
class StopConfig(Section):
    """When to stop, judged without the reference; see `stopping`."""

    SECTION = "stop"

    rule: str = choice(
        "held_out", "wmv", "emv", "discrepancy", "sure", "fixed", "all", default="held_out"
    )
    """`fixed` runs all steps. `wmv` and `emv` stop at the minimum of the outputs' moving variance, windowed or
    exponential; `discrepancy` where the misfit is that of the noise; `held_out` at the minimum of the loss on
    measurements that the fit does not see; `sure` at that of an unbiased estimate of the risk, by a second
    fit (twice the time and memory). `discrepancy` and `sure` need the noise level. `all` watches all of them,
    runs all steps and hands out the answer of the default one."""
    window: int = number(100, 2)
    """wmv: outputs in the window."""
    patience: float = number(0.5, 0, open_low=True)
    """wmv, emv, held_out, sure: a minimum is confirmed after this share of its step (never less than two windows
    and the lag of the average)."""
    num_pixels: int = number(4096, 1)
    """wmv: pixels on which the variance is measured, a fixed random subset."""
    emv_rate: float = number(0.1, 0, 0.5, open_low=True)
    """emv: weight of the newest output in the moving mean and variance."""
    discrepancy_factor: float = number(0.9, 0, open_low=True)
    """discrepancy: it stops where the mean squared misfit is this many times the noise's variance."""
    held_out_fraction: float = number(0.03, 0, 0.5, open_low=True)
    """held_out: share of the measurements that is kept out of the fit."""
    sure_epsilon: float = number(0.3, 0, open_low=True)
    """sure: how much the second fit's measurement differs, in standard deviations of the noise."""


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """How the work is laid out; nothing here changes what is computed but `seed`."""

    SECTION = "run"

    seed: int = number(0, 0, 2**32 - 1)
    """Every random number follows from it and from the picture's name."""
    chunk: int = number(100, 1)
    """Steps per dispatch at most; they adapt so that a dispatch lasts a few seconds, elsewhere than on CPU half a second."""
    slot_mode: str = choice("auto", "map", "vmap", "unroll", default="auto")
    """How pictures share a device: one after the other, side by side, or each with code of its own."""
    slots: int | None = number(None, 1)
    """Pictures that share a device; None for 1 on CPU and 8 elsewhere, fewer where there are no more or memory is short."""
    refill: bool = True
    """Give a slot to the next picture at once; otherwise wait until all slots are done."""
    checkpoint_every: float = number(5.0, 0)
    """Minutes between checkpoints of the pictures in work."""
    checkpoint_keep: int = number(2, 1)
    """How many of the newest checkpoints stay."""
    max_memory: float | None = number(None, 0, open_low=True)
    """Memory in GB that a run may need; None for what the machine has."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run: one section for each question."""

    task: TaskConfig = TaskConfig()
    net: NetConfig = NetConfig()
    fit: FitConfig = FitConfig()
    sgld: SgldConfig = SgldConfig()
    stop: StopConfig = StopConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        """Checks what no single section can."""
        depth, code = self.net.input_depth, self.fit.code
        wanted = {"meshgrid": (depth == 2, "2"), "fourier": (depth % 2 == 0, "an even number")}
        wanted["image"] = (depth == 3, "3")
        fits, number = wanted.get(code, (True, ""))
        if not fits:
            raise InputError(f"fit.code={code} needs net.input_depth={number}, came {depth}.")
        if (code == "image") != (self.task.name == "flash"):
            raise InputError(
                "flash takes its guide picture as the code: fit.code=image belongs to task flash, came "
                f"fit.code={code} and task {self.task.name}."
            )
        if self.net.kind == "identity" and (
            self.fit.optimize != "code" or code not in ("uniform", "normal")
        ):
            raise InputError(
                "The network identity has no weights, its code are the pixels: it needs fit.optimize=code and "
                f"fit.code=uniform or normal, came {self.fit.optimize} and {code}."
            )
        if self.fit.method == "sgld":
            self._check_sampling()
        if self.task.operator and self.task.name != "custom":
            raise InputError(f"An operator belongs to custom, the task is {self.task.name}.")
        if self.fit.likelihood == "poisson_gauss" and "poisson" not in self.task.noise:
            raise InputError(
                "fit.likelihood=poisson_gauss needs the photons of a white pixel: add "
                "--set task.noise=poisson_gauss --set task.peak=..."
            )
        if self.task.name == "compressed_sensing" and "poisson" in (
            self.fit.likelihood + self.task.noise
        ):
            raise InputError(
                "compressed_sensing makes no counts: neither noise nor likelihood can be poisson."
            )
        if self.task.name in ("ct", "compressed_sensing"):
            if self.task.saturation is not None:
                raise InputError(f"task.saturation is of pictures, the task is {self.task.name}.")
            if self.task.noise == "salt_and_pepper":
                raise InputError(f"Salt and pepper are of pictures, the task is {self.task.name}.")

    def _check_sampling(self) -> None:
        sgld, fit = self.sgld, self.fit
        warm_up, burn_in = sgld.phases(fit.num_steps)
        if sgld.num_samples(fit.num_steps) < 2:
            raise InputError(
                f"Samples come after sgld.burn_in={burn_in} steps, every {sgld.thin}th (of csgld in the later part of "
                f"each cycle); fit.num_steps={fit.num_steps} leaves fewer than two: take more steps, or a shorter burn-in."
            )
        if warm_up > burn_in:
            raise InputError(
                f"The warm-up belongs to the burn-in: sgld.warm_up is at most {burn_in} here, came {warm_up}."
            )
        if sgld.noise == "sampled" and (
            fit.likelihood != "gaussian" or fit.tv_weight or sgld.sampler == "paper"
        ):
            raise InputError(
                "sgld.noise=sampled is of a Gaussian likelihood without total variation, by another sampler than "
                "paper."
            )
        if sgld.gamma and sgld.freeze:
            raise InputError(
                "sgld.gamma corrects for a preconditioner that moves: add sgld.freeze=False."
            )
        if fit.likelihood == "poisson" and "poisson" not in self.task.noise:
            raise InputError(
                "Sampling with fit.likelihood=poisson needs the photons of a white pixel: add --set "
                "task.noise=poisson --set task.peak=..."
            )


SECTIONS = tuple(field.name for field in dataclasses.fields(Config))


def replace_fields(config: Config, values: dict[str, Any]) -> Config:
    """Returns `config` with fields replaced, given as `{"section.field": value}`, and checked."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        _field(name)
        section, field = name.split(".")
        sections[section][field] = value
    replaced = {}
    for section, fields in sections.items():
        old = getattr(config, section)
        replaced[section] = dataclasses.replace(old, **fields) if fields else old
    return Config(**replaced)


def field_names() -> tuple[str, ...]:
    """All valid `section.field` names."""
    return tuple(
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(type(section.default))  # type: ignore[arg-type]
    )


def _field(name: str) -> dataclasses.Field:
    require_choice("config field", name, field_names())
    section, field = name.split(".")
    cls = type(getattr(Config(), section))
    return next(f for f in dataclasses.fields(cls) if f.name == field)


def parse_field(name: str, text: str) -> Any:
    """Reads `text` as the type of the field `name` (`section.field`); lists are comma-separated."""
    return parse(name, _field(name), text)


def to_json(config: Config) -> str:
    """The whole config as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      InputError: For text that is no such JSON, or has unknown fields or values out of range.
    """
    try:
        loaded = json.loads(text)
        values = {
            f"{section}.{field}": tuple(value) if isinstance(value, list) else value
            for section, fields in loaded.items()
            for field, value in fields.items()
        }
        return replace_fields(Config(), values)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"Expected a config.json as this program writes it: {error}.") from None

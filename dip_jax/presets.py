"""Presets: named settings with their sources, comparisons of settings, and the config of each."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from dip_jax.config import Config, NetConfig, parse_field, replace_fields, task_names
from dip_jax.errors import InputError
from dip_jax.fields import require_choice, shorten


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named setting."""

    task: str
    about: str
    """Description, for the list of presets."""
    source: str
    """Publication, or document of this project, that the setting is from."""
    overrides: dict[str, Any]
    """Values that differ from the default config, by `section.field`."""


_TEXT_NET = {"net.channels_skip": (128,) * 5, "net.upsample": ("nearest",)}
_NO_AVERAGE = {"fit.average": "none", "stop.rule": "fixed"}
_ALL_STEPS = {"stop.rule": "fixed"}
_NARROW_NET = {
    "net.input_depth": 3,
    "net.channels_down": (8, 16, 32, 64, 128),
    "net.channels_up": (8, 16, 32, 64, 128),
    "net.channels_skip": (0, 0, 0, 4, 4),
}
_SMALL_NET = {"net.channels_down": (64,) * 5, "net.channels_up": (64,) * 5}
_FAST_NET = {
    "net.channels_down": (32,) * 4,
    "net.channels_up": (32,) * 4,
    "net.channels_skip": (4,) * 4,
}
_ENSEMBLE = {
    **_FAST_NET,
    "fit.optimizer": "muon",
    "fit.learning_rate": 0.05,
    "fit.code": "guided",
    "fit.filter": "nonlocal",
    "stop.rule": "cross_validation",
}
_SGLD_2019 = {
    "fit.method": "sgld",
    "sgld.sampler": "paper",
    "sgld.num_chains": 1,
    "sgld.thin": 50,
    "sgld.held_out_fraction": 0.0,
    "sgld.point_estimate": False,
}
_PIXELS = {
    "net.kind": "identity",
    "net.input_depth": 3,
    "fit.optimize": "code",
    "fit.num_steps": 2000,
    "fit.perturbation": 0.0,
    **_NO_AVERAGE,
}


def _library(depth: int) -> dict[str, Any]:
    """The 2018 setting for the image "library", with a number of scales."""
    channels = (16, 32, 64, 128, 128, 128)[:depth]
    return {
        "net.input_depth": 1,
        "net.channels_down": channels,
        "net.channels_up": channels,
        "net.channels_skip": (0,) * depth,
        "net.kernel_down": (5,),
        "net.conv1x1_up": False,
        "net.upsample": ("nearest",),
        "fit.num_steps": 3000,
        "fit.perturbation": 0.0,
        **_NO_AVERAGE,
    }


_LIBRARY_UNET = {
    "net.kind": "unet",
    "net.input_depth": 1,
    "net.channels_down": (8, 16, 32, 64, 128),
    "net.extra_scales": 1,
    "net.upsample": ("deconv",),
    "net.normalization": "instance",
    "net.padding": "zero",
    "net.activation": "relu",
    "fit.num_steps": 3000,
    "fit.learning_rate": 0.001,
    "fit.perturbation": 0.0,
    **_NO_AVERAGE,
}
_LIBRARY_RESNET = {
    "net.kind": "resnet",
    "net.input_depth": 1,
    "net.width": 32,
    "net.depth": 8,
    "fit.num_steps": 3000,
    "fit.learning_rate": 0.001,
    "fit.perturbation": 0.0,
    **_NO_AVERAGE,
}

_INVERSION_2018 = {
    "net.channels_down": (16, 32, 64, 128, 128, 128),
    "net.channels_up": (16, 32, 64, 128, 128, 128),
    "net.channels_skip": (4,) * 6,
    "net.kernel_down": (7, 7, 5, 5, 3, 3),
    "net.kernel_up": (7, 7, 5, 5, 3, 3),
    "net.downsample": ("avg",),
    "net.upsample": ("nearest",),
    "net.padding": "zero",
    "fit.num_steps": 3100,
    "fit.learning_rate": 0.001,
    "fit.perturbation": 0.0,
    **_NO_AVERAGE,
}
_MAXIMIZATION_2018 = {
    "net.channels_down": (16, 32, 64, 128, 128, 128),
    "net.channels_up": (16, 32, 64, 128, 128, 128),
    "net.channels_skip": (0, 4, 4, 4, 4, 4),
    "net.kernel_down": (5, 3, 5, 5, 3, 5),
    "net.kernel_up": (5, 3, 5, 3, 5, 3),
    "net.downsample": ("avg",),
    "fit.likelihood": "laplace",
    "fit.num_steps": 3100,
    "fit.perturbation": 0.03,
    **_NO_AVERAGE,
}

TASK_DEFAULTS: dict[str, Any] = {
    "fit.num_steps": 3000,
    "fit.perturbation": 0.03,
    **_ALL_STEPS,
}
"""Overrides of `custom`, and of the preset of a registered task that states none."""

PRESETS: dict[str, Preset] = {
    "denoise": Preset(
        "denoise",
        "four narrow networks with guides, stopped together",
        "docs/concepts/quality.md",
        {**_ENSEMBLE, "fit.num_seeds": 4, "fit.num_steps": 350},
    ),
    "denoise_single": Preset(
        "denoise",
        "the 2018 network alone; stops automatically",
        "Ulyanov et al. 2018, section 3.1",
        {},
    ),
    "denoise_2018": Preset(
        "denoise",
        "as published: 1800 steps with a running average",
        "Ulyanov et al. 2018, section 3.1",
        {
            "fit.num_steps": 1800,
            "fit.average": "original",
            "task.clipping": "ignored",
            **_ALL_STEPS,
        },
    ),
    "denoise_sgld_2019": Preset(
        "denoise",
        "mean over samples of the 2019 sampler; 20,000 steps",
        "Cheng et al. 2019, code for denoising",
        {**_SGLD_2019, "fit.num_steps": 20000, "sgld.burn_in": 7000, "fit.average": "original"},
    ),
    "best": Preset(
        "denoise",
        "denoise with eight networks and more steps; the best known result",
        "docs/concepts/quality.md",
        {**_ENSEMBLE, "fit.num_seeds": 8, "fit.num_steps": 400},
    ),
    "denoise_small": Preset(
        "denoise",
        "64 channels; half the time per step, for images up to about 256 x 256",
        "docs/development/less-work.md",
        _SMALL_NET,
    ),
    "fast": Preset(
        "denoise",
        "32 channels, four scales; a fifth of the time per step, for images up to about 128 x 128",
        "docs/development/less-work.md",
        {**_FAST_NET, "fit.b2": 0.99},
    ),
    "fast_medium": Preset(
        "denoise",
        "the network of fast, less perturbation; mean of two networks, for about 256 x 256",
        "docs/development/less-work.md",
        {**_FAST_NET, "fit.perturbation": 0.0133, "fit.num_seeds": 2},
    ),
    "fast_large": Preset(
        "denoise",
        "64 channels, less perturbation, all steps; mean of two networks, for 512 x 512",
        "docs/development/less-work.md",
        {
            **_SMALL_NET,
            "fit.perturbation": 0.0133,
            "fit.num_seeds": 2,
            "fit.num_steps": 1080,
            **_ALL_STEPS,
        },
    ),
    "denoise_poisson": Preset(
        "denoise",
        "Poisson likelihood, for few photons",
        "docs/tasks/denoise.md",
        {"task.noise": "poisson", "fit.likelihood": "poisson"},
    ),
    "denoise_impulse": Preset(
        "denoise",
        "Laplace likelihood, for salt-and-pepper noise",
        "docs/tasks/denoise.md",
        {"task.noise": "salt_and_pepper", "fit.likelihood": "laplace"},
    ),
    "denoise_deep_decoder": Preset(
        "denoise",
        "deep decoder, with too few weights to fit the noise",
        "Heckel and Hand 2019",
        {
            "net.kind": "deep_decoder",
            "net.input_depth": 128,
            "net.width": 128,
            "net.depth": 5,
            "net.activation": "relu",
            "net.scale_init": "one",
            "fit.code_scale": 0.1,
            "fit.perturbation": 0.0,
            "fit.num_steps": 5000,
            **_ALL_STEPS,
        },
    ),
    "dejpeg": Preset(
        "dejpeg",
        "two narrow networks, guided by similar patches within the quantization intervals of the file",
        "docs/development/quality.md",
        {
            **_FAST_NET,
            "fit.likelihood": "interval",
            "fit.code": "guided",
            "fit.num_seeds": 2,
            "fit.num_steps": 400,
            **_ALL_STEPS,
        },
    ),
    "dejpeg_unguided": Preset(
        "dejpeg",
        "fits the coefficients within the quantization intervals of the file",
        "docs/tasks/dejpeg.md",
        {"fit.likelihood": "interval", "fit.num_steps": 2400, **_NARROW_NET, **_ALL_STEPS},
    ),
    "dejpeg_2018": Preset(
        "dejpeg",
        "fits the decoded image; narrow fine scales, few skips; stops automatically",
        "Ulyanov et al. 2018, section 3.1 (JPEG)",
        {
            "task.jpeg": "decoded",
            "fit.num_steps": 2400,
            # Neighbors share artifacts, so held-out pixels could be predicted with their artifacts.
            "stop.rule": "wmv",
            **_NARROW_NET,
        },
    ),
    "inpaint": Preset(
        "inpaint",
        "text and other thin masks, with a running average",
        "Ulyanov et al. 2018, section 3.3 (text), docs/tasks/inpaint.md",
        {"fit.num_steps": 3000, "fit.perturbation": 0.03, **_TEXT_NET, **_ALL_STEPS},
    ),
    "inpaint_2018": Preset(
        "inpaint",
        "text, as published",
        "Ulyanov et al. 2018, section 3.3 (text)",
        {"fit.num_steps": 6000, "fit.perturbation": 0.03, **_TEXT_NET, **_NO_AVERAGE},
    ),
    "inpaint_random": Preset(
        "inpaint",
        "scattered missing pixels: similar patches, and two narrow networks guided by them",
        "docs/development/quality.md",
        {
            **_ENSEMBLE,
            "fit.num_seeds": 2,
            "fit.num_steps": 300,
            "stop.num_folds": 16,
        },
    ),
    "inpaint_random_single": Preset(
        "inpaint",
        "scattered missing pixels; larger steps than published, with a running average",
        "Ulyanov et al. 2018, section 3.3 (50 % missing), docs/tasks/inpaint.md",
        {"fit.num_steps": 3000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "inpaint_random_fast": Preset(
        "inpaint",
        "inpaint_random_single with the network of fast, for images up to about 128 x 128",
        "docs/development/less-work.md",
        {**_FAST_NET, "fit.num_steps": 2000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "inpaint_random_2018": Preset(
        "inpaint",
        "scattered missing pixels, as published",
        "Ulyanov et al. 2018, section 3.3 (50 % missing)",
        {
            "fit.num_steps": 11000,
            "fit.learning_rate": 0.001,
            "fit.perturbation": 0.03,
            **_NO_AVERAGE,
        },
    ),
    "inpaint_sparse": Preset(
        "inpaint",
        "very few known pixels (98 % missing)",
        "Ulyanov et al. 2018, section 3.3 (98 % missing)",
        {
            "net.channels_down": (16, 32, 64, 128, 128),
            "net.channels_up": (16, 32, 64, 128, 128),
            "net.channels_skip": (0,) * 5,
            "net.downsample": ("avg",),
            "task.known_fraction": 0.02,
            "fit.num_steps": 1000,
            "fit.perturbation": 0.0,
            **_NO_AVERAGE,
        },
    ),
    "inpaint_region": Preset(
        "inpaint",
        "one large hole, with coordinates as the code",
        "Ulyanov et al. 2018, section 3.3 (vase)",
        {
            "net.input_depth": 2,
            "net.channels_skip": (0,) * 5,
            "net.upsample": ("nearest",),
            "fit.code": "meshgrid",
            "fit.num_steps": 5000,
            "fit.perturbation": 0.03,
            **_NO_AVERAGE,
        },
    ),
    "inpaint_hole": Preset(
        "inpaint",
        "large holes; no skips, six scales and 5x5 kernels",
        "Ulyanov et al. 2018, section 3.3 (library)",
        _library(6),
    ),
    "inpaint_depth4": Preset(
        "inpaint",
        "inpaint_hole with four scales",
        "Ulyanov et al. 2018, section 3.3 (depths)",
        _library(4),
    ),
    "inpaint_depth2": Preset(
        "inpaint",
        "inpaint_hole with two scales",
        "Ulyanov et al. 2018, section 3.3 (depths)",
        _library(2),
    ),
    "inpaint_unet": Preset(
        "inpaint",
        "large holes, with a U-Net",
        "Ulyanov et al. 2018, section 3.3 (networks)",
        _LIBRARY_UNET,
    ),
    "inpaint_resnet": Preset(
        "inpaint",
        "large holes, with a ResNet",
        "Ulyanov et al. 2018, section 3.3 (networks)",
        _LIBRARY_RESNET,
    ),
    "super_resolve": Preset(
        "super_resolve",
        "factors 2 to 4; mean of two narrow networks with the optimizer Muon",
        "docs/development/quality.md",
        {
            **_FAST_NET,
            "fit.optimizer": "muon",
            "fit.learning_rate": 0.05,
            "fit.num_seeds": 2,
            "fit.num_steps": 600,
            **_ALL_STEPS,
        },
    ),
    "super_resolve_single": Preset(
        "super_resolve",
        "factors 2 to 4, with a running average",
        "Ulyanov et al. 2018, section 3.2, docs/tasks/super_resolve.md",
        {"fit.num_steps": 2000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "super_resolve_fast": Preset(
        "super_resolve",
        "super_resolve_single with the network of fast, for images up to about 128 x 128",
        "docs/development/less-work.md",
        {**_FAST_NET, "fit.num_steps": 1500, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "super_resolve_x8": Preset(
        "super_resolve",
        "factors of 8 and more, with a running average",
        "Ulyanov et al. 2018, section 3.2, docs/tasks/super_resolve.md",
        {"task.factor": 8, "fit.num_steps": 4000, "fit.perturbation": 0.05, **_ALL_STEPS},
    ),
    "super_resolve_2018": Preset(
        "super_resolve",
        "factor 4, as published",
        "Ulyanov et al. 2018, section 3.2",
        {"fit.num_steps": 2000, "fit.perturbation": 0.03, **_NO_AVERAGE},
    ),
    "super_resolve_x8_2018": Preset(
        "super_resolve",
        "factor 8, as published",
        "Ulyanov et al. 2018, section 3.2",
        {"task.factor": 8, "fit.num_steps": 4000, "fit.perturbation": 0.05, **_NO_AVERAGE},
    ),
    "super_resolve_narrow_code": Preset(
        "super_resolve",
        "a code of three channels",
        "Ulyanov et al. 2018, section 3.2 (priors)",
        {"net.input_depth": 3, "fit.num_steps": 2000, **_NO_AVERAGE},
    ),
    "super_resolve_no_prior": Preset(
        "super_resolve",
        "no network; optimizes the pixels",
        "Ulyanov et al. 2018, section 3.2 (priors)",
        _PIXELS,
    ),
    "super_resolve_tv": Preset(
        "super_resolve",
        "no network; optimizes the pixels, with total variation",
        "Ulyanov et al. 2018, section 3.2 (priors)",
        {**_PIXELS, "fit.tv_weight": 1e-7},
    ),
    "flash": Preset(
        "flash",
        "the flash image as the code",
        "Ulyanov et al. 2018, section 3.5",
        {
            "net.input_depth": 3,
            "net.upsample": ("nearest", "nearest", "bilinear", "bilinear", "bilinear"),
            "fit.code": "image",
            "fit.num_steps": 600,
            "fit.learning_rate": 0.1,
            "fit.perturbation": 0.0,
            **_NO_AVERAGE,
        },
    ),
    "deblur": Preset(
        "deblur",
        "a known blur: Gaussian, motion, or a kernel from a file",
        "docs/tasks/deblur.md",
        {"fit.num_steps": 4000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "demosaic": Preset(
        "demosaic",
        "a raw Bayer mosaic",
        "docs/tasks/demosaic.md",
        {"fit.num_steps": 3000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "compressed_sensing": Preset(
        "compressed_sensing",
        "random frequencies or a random matrix",
        "docs/tasks/compressed_sensing.md",
        {"fit.num_steps": 3000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "ct": Preset(
        "ct",
        "parallel-beam tomography from few angles",
        "docs/tasks/tomography.md",
        {**_SMALL_NET, "fit.num_steps": 5000, "fit.perturbation": 0.03, **_ALL_STEPS},
    ),
    "invert_features": Preset(
        "invert_features",
        "a narrow network; a fifteenth of the time of the published one",
        "docs/tasks/activations.md",
        {
            "task.layer": "block9",
            "net.channels_down": (32,) * 5,
            "net.channels_up": (32,) * 5,
            "fit.num_steps": 1000,
            "fit.perturbation": 0.0,
            **_ALL_STEPS,
        },
    ),
    "invert_features_2018": Preset(
        "invert_features",
        "as published, for another classifier",
        "Ulyanov et al. 2018, natural pre-image",
        {**_INVERSION_2018, "task.layer": "block9"},
    ),
    "invert_features_no_prior": Preset(
        "invert_features",
        "no network; optimizes the pixels",
        "Ulyanov et al. 2018, natural pre-image",
        {**_PIXELS, "task.layer": "block9", "fit.code_scale": 1.0, "fit.num_steps": 1000},
    ),
    "invert_features_tv": Preset(
        "invert_features",
        "no network; optimizes the pixels, with total variation",
        "Ulyanov et al. 2018, natural pre-image",
        {
            **_PIXELS,
            "task.layer": "block9",
            "fit.code_scale": 1.0,
            "fit.num_steps": 1000,
            "fit.tv_weight": 1e-5,
        },
    ),
    "maximize_activation": Preset(
        "maximize_activation",
        "a network without skips, narrow at fine scales; two sizes of the image",
        "docs/tasks/activations.md",
        {
            "net.channels_down": (16, 32, 64, 64, 64),
            "net.channels_up": (16, 32, 64, 64, 64),
            "net.channels_skip": (0,) * 5,
            "net.downsample": ("avg",),
            "fit.likelihood": "laplace",
            "fit.num_steps": 500,
            "fit.perturbation": 0.03,
            **_ALL_STEPS,
        },
    ),
    "maximize_activation_2018": Preset(
        "maximize_activation",
        "as published, for another classifier",
        "Ulyanov et al. 2018, activation maximization",
        {**_MAXIMIZATION_2018, "task.num_sizes": 1},
    ),
    "maximize_activation_no_prior": Preset(
        "maximize_activation",
        "no network; optimizes the pixels",
        "Ulyanov et al. 2018, activation maximization",
        {
            **_PIXELS,
            "fit.code_scale": 1.0,
            "fit.likelihood": "laplace",
            "fit.num_steps": 500,
        },
    ),
    "custom": Preset(
        "custom",
        "a user-defined operator",
        "docs/tasks/custom.md",
        TASK_DEFAULTS,
    ),
}
"""All presets by name. The default preset of a task has the name of the task."""

COMPARISONS: dict[str, dict[str, dict[str, Any]]] = {
    "networks": {
        # Each variant resets all fields of the network and its optimizer, so the preset does not matter.
        label: {
            **{f"net.{field.name}": field.default for field in dataclasses.fields(NetConfig)},
            "fit.optimize": "net",
            "fit.optimizer": "adam",
            "fit.num_seeds": 1,
            "fit.code": "uniform",
            "fit.learning_rate": 0.01,
            **changes,
        }
        for label, changes in {
            "depth 2": _library(2),
            "depth 4": _library(4),
            "depth 6": _library(6),
            "U-Net": _LIBRARY_UNET,
            "ResNet": _LIBRARY_RESNET,
        }.items()
    },
    "learning_rates": {
        f"rate {rate:g}": {"fit.learning_rate": rate, **_NO_AVERAGE}
        for rate in (0.1, 0.01, 0.001, 0.0001)
    },
    # Cheng et al. 2019, figure 4 and table 1, where SGD means Adam.
    "averaging": {
        label: {
            "fit.method": "fit",
            "fit.optimizer": "adam",
            "fit.perturbation": perturbation,
            "fit.average": average,
            "stop.rule": "fixed",
            **changes,
        }
        for label, perturbation, average, changes in (
            ("SGD", 0.0, "none", {}),
            ("SGD + average", 0.0, "original", {}),
            ("SGD + input noise", 1 / 30, "none", {}),
            ("SGD + input noise + average", 1 / 30, "original", {}),
            ("SGLD", 1 / 30, "original", _SGLD_2019),
        )
    },
}
"""Comparisons of the papers; each has variants by label, with the fields that they change."""


_SINGLE = {
    "denoise": "denoise_single",
    "dejpeg": "dejpeg_unguided",
    "super_resolve": "super_resolve_single",
}
"""Presets of single networks, which take the place of a default of several networks."""
_JOINT = {
    "denoise": "denoise,denoise_single",
    "inpaint": "inpaint_random,inpaint_random_single",
}
"""Presets of several and of single networks by task, for a message."""
_DECISIVE = (
    "task.noise",
    "net.kind",
    "fit.method",
    "fit.likelihood",
    "fit.optimizer",
    "fit.optimize",
    "fit.schedule",
    "fit.code",
    "stop.rule",
)
"""Fields of a default that its other settings were chosen for; another value makes another fit."""
_MAX_KEPT = 20
"""Number of estimates that an ensemble keeps of each network, unless `stop.keep_every` is set."""


def build_config(
    preset: str | None = None,
    *,
    task: str | None = None,
    overrides: Iterable[str] = (),
    changes: dict[str, Any] | None = None,
) -> Config:
    """Returns the complete config of a preset with overrides.

    The default of a task is the preset of its name. That of `denoise` fits several networks, which are stopped
    together, those of `dejpeg` and `super_resolve` average two. If the values do not belong to them (sampling, another
    stopping rule, another noise or likelihood, another kind of network, optimizer, schedule or code, or one network in
    place of those that are stopped together), the default is `denoise_single`, `dejpeg_unguided` or
    `super_resolve_single`.

    Args:
      preset: A name in `PRESETS`; None for the default of the task.
      task: The task; None for that of the preset, or `denoise`.
      overrides: Texts `section.field=value`, with comma-separated tuples; the last one wins.
      changes: Values by `section.field`, applied before the overrides.

    Raises:
      InputError: For an unknown name, a preset of another task, or a value that is not allowed.

    Example:
      >>> config = build_config("inpaint", overrides=["fit.num_steps=1500"])
      >>> config.task.name, config.fit.num_steps, config.net.upsample
      ('inpaint', 1500, ('nearest',))
      >>> build_config().fit.num_seeds, build_config(overrides=["stop.rule=wmv"]).fit.num_seeds
      (4, 1)
    """
    if task is not None:
        require_choice("task", task, task_names())
    if preset is None:
        preset = task or "denoise"
        overrides = list(overrides)
        if preset in _SINGLE and _is_for_single({**(changes or {}), **_parse(overrides)}, preset):
            preset = _SINGLE[preset]
    require_choice("preset", preset, tuple(PRESETS))
    chosen = PRESETS[preset]
    if task is not None and chosen.task != task:
        raise InputError(f"The preset {preset} is for {chosen.task}, got task {task}.")
    values: dict[str, Any] = {
        "task.name": chosen.task,
        **chosen.overrides,
        **(changes or {}),
        **_parse(overrides),
    }
    num_steps = values.get("fit.num_steps")
    if values.get("stop.rule") == "cross_validation" and isinstance(num_steps, int):
        # Few steps keep at least one estimate, and many not more than memory allows.
        every = min(num_steps, max(Config().stop.keep_every, num_steps // _MAX_KEPT))
        values.setdefault("stop.keep_every", max(1, every))
    return replace_fields(Config(), values)


def _parse(overrides: Iterable[str]) -> dict[str, Any]:
    """The values of texts `section.field=value` by field."""
    values = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set expects section.field=value, got {shorten(override)}.")
        values[name.strip()] = parse_field(name.strip(), text.strip())
    return values


def _is_for_single(values: Mapping[str, Any], preset: str) -> bool:
    """Whether values by field belong to a single network without guide, not to a preset."""
    of_preset = PRESETS[preset].overrides
    for field in _DECISIVE:
        section, name = field.split(".")
        value = of_preset.get(field, getattr(getattr(Config(), section), name))
        if values.get(field, value) != value:
            return True
    return of_preset["stop.rule"] == "cross_validation" and values.get("fit.num_seeds") == 1


def build_comparison(
    comparison: str,
    preset: str | None = None,
    *,
    task: str | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Config]:
    """Returns the configs of a comparison by label.

    Args:
      comparison: A name in `COMPARISONS`, whose variants change the preset, or the names of at
        least two presets, comma-separated.
      preset: The preset that the variants change; None for the default of the task.
      task: The task; None for that of the presets, or `denoise`.
      overrides: Overrides for all configs, as in `build_config`.

    Raises:
      InputError: As `build_config`, or if the presets are for several tasks.

    Example:
      >>> configs = build_comparison("learning_rates", task="denoise")
      >>> {label: config.fit.learning_rate for label, config in configs.items()}
      {'rate 0.1': 0.1, 'rate 0.01': 0.01, 'rate 0.001': 0.001, 'rate 0.0001': 0.0001}
    """
    overrides = list(overrides)
    if comparison in COMPARISONS:
        preset = preset or _SINGLE.get(task or "denoise")
        base = build_config(preset, task=task, overrides=overrides)
        sets_code = any("fit.code" in changes for changes in COMPARISONS[comparison].values())
        if base.stop.rule == "cross_validation":
            raise InputError(
                f"--compare={comparison} compares single networks, got a preset whose networks are stopped together; "
                f"compare presets by their names, such as --compare={_JOINT.get(base.task.name, _JOINT['denoise'])}."
            )
        if sets_code and base.fit.code == "image":
            raise InputError(
                f"--compare={comparison} sets the code, but the code of {base.task.name} is its guide "
                f"image; compare presets of {base.task.name} by their names."
            )
        return {
            label: build_config(preset, task=task, overrides=overrides, changes=changes)
            for label, changes in COMPARISONS[comparison].items()
        }
    if preset is not None:
        raise InputError(f"--compare={comparison} lists presets; leave out --preset.")
    names = [name.strip() for name in comparison.split(",")]
    known = (*COMPARISONS, *PRESETS)
    for name in names:
        require_choice("comparison or preset", name, known)
    if len(names) < 2 or set(names) & set(COMPARISONS):
        raise InputError(
            f"--compare expects {' or '.join(COMPARISONS)}, or at least two presets, got "
            f"{comparison!r}."
        )
    configs = {name: build_config(name, task=task, overrides=overrides) for name in names}
    if len({config.task.name for config in configs.values()}) > 1:
        raise InputError("--compare expects presets of one task, got those of several.")
    return configs

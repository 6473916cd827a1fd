"""Golden networks: weights, code, target and results of the 2018 PyTorch networks."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.config import NetConfig
from dip_jax.nets import build_net, num_params, params_from_torch

FOLDER = Path(__file__).parents[1] / "data"
ENTRIES = json.loads((FOLDER / "index.json").read_text())
SKIP_NAMES = tuple(name for name in ENTRIES if name.startswith("skip"))


def config_from_2018(arguments: dict, lowering: str) -> NetConfig:
    """Converts the arguments of a 2018 constructor (and its defaults) to a config."""

    def listed(name, default):
        value = arguments.get(name, default)
        return tuple(value) if isinstance(value, list) else (value,)

    common = {
        "input_depth": arguments["num_input_channels"],
        "padding": "reflect" if arguments.get("pad") == "reflection" else "zero",
        "lowering": lowering,
    }
    if "feature_scale" in arguments:
        normalizations = {"BatchNorm2d": "batch", "InstanceNorm2d": "instance"}
        return NetConfig(
            kind="unet",
            channels_down=tuple(f // arguments["feature_scale"] for f in (64, 128, 256, 512, 1024)),
            extra_scales=arguments["more_layers"],
            concat_input=arguments["concat_x"],
            normalization=normalizations[arguments["norm_layer"]],
            upsample=(arguments["upsample_mode"],),
            activation="relu",
            **common,
        )
    if "num_blocks" in arguments:
        return NetConfig(
            kind="resnet",
            width=arguments["num_channels"],
            depth=arguments["num_blocks"],
            residual=arguments["need_residual"],
            **common,
        )
    activations = {"LeakyReLU": "leaky_relu", "Swish": "swish", "ELU": "elu"}
    return NetConfig(
        channels_down=listed("num_channels_down", 0),
        channels_up=listed("num_channels_up", 0),
        channels_skip=listed("num_channels_skip", 0),
        kernel_down=listed("filter_size_down", 3),
        kernel_up=listed("filter_size_up", 3),
        upsample=listed("upsample_mode", "nearest"),
        downsample=listed("downsample_mode", "stride"),
        activation=activations[arguments.get("act_fun", "LeakyReLU")],
        conv1x1_up=arguments.get("need1x1_up", True),
        **common,
    )


@functools.cache
def load_arrays(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden file; those named `param/...` are the weights in PyTorch's order."""
    return dict(np.load(FOLDER / f"{name}.npz"))


def load_state(name: str) -> dict[str, np.ndarray]:
    """The weights of a golden network as a PyTorch state."""
    return {k: v for k, v in load_arrays(name).items() if k.startswith("param/")}


@functools.cache
def _load_params(name: str):
    config = config_from_2018(ENTRIES[name]["config"], "xla")
    return params_from_torch(config, load_state(name))


class Golden:
    """A network with the weights of a golden file, and the golden results."""

    def __init__(self, name: str, lowering: str, dtype):
        entry = ENTRIES[name]
        self.arrays, params = load_arrays(name), _load_params(name)
        self.first_module = next(iter(params))
        self.params = jax.tree.map(lambda v: np.asarray(v, dtype), params)
        config = config_from_2018(entry["config"], lowering)
        self.net = build_net(config, tuple(entry["output_shape"]))
        self.code = jnp.asarray(self.arrays["z"], dtype)
        self.target = jnp.asarray(self.arrays["target"], dtype)
        assert num_params(self.params) == entry["num_params"]
        assert self.net.code_shape == self.code.shape

    def loss(self, params):
        """The mean squared difference from the target, and the output."""
        output = self.net.apply(params, self.code)
        return jnp.mean((output - self.target) ** 2), output

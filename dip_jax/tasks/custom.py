"""A task whose operator the user states by `task.operator` or as an object."""

from dip_jax.base import Operator
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.checks import check_operator
from dip_jax.operators.from_file import CustomOperator, load_operator
from dip_jax.tasks.task import Shape, SideInputs, Task


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Operator:
    operator = side_inputs.operator
    if operator is None:
        if not config.operator:
            raise InputError("custom needs an operator: --operator=path.py:function.")
        operator = load_operator(config.operator, shape)
    check_operator(operator, shape)
    return operator


CUSTOM = Task(
    "custom",
    measurement="any",
    side_inputs=("operator",),
    settings=("operator", "image_shape"),
    operator=_operator,
    operator_class=lambda config: CustomOperator,
)

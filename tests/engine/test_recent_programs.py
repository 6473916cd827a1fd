"""Programs that a process compiled before."""

import dataclasses

import jax
import numpy as np
import pytest

from dip_jax import Estimator, build_fit, case_from_operator, nets, restore
from dip_jax.engine import recent_programs
from dip_jax.operators import Identity
from tests.engine.cases import assert_same_result, simulate, tiny_config

pytestmark = pytest.mark.xdist_group("fits")


@pytest.fixture
def compiled():
    """The programs that JAX lowers, one item each."""
    events = []

    def count(name, seconds, **_):
        if name == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            events.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield events
    jax.monitoring.clear_event_listeners()


def test_a_second_restoration_of_an_equal_form_compiles_nothing(image, compiled):
    config = tiny_config()
    one, other, small = (
        simulate(pixels, config, name)
        for pixels, name in ((image, "a"), (image, "b"), (image[:34], "a"))
    )
    (first,) = restore([one], config)
    num_compiled = len(compiled)
    restore([other], tiny_config("run.seed=5"))
    assert len(compiled) == num_compiled
    (again,) = restore([one], tiny_config())
    assert_same_result(first, again)
    assert len(compiled) == num_compiled
    restore([small], tiny_config("net.sides_per_octave=0"))
    assert len(compiled) > num_compiled


def test_an_estimator_of_objects_is_recalled_by_its_identity(image, compiled):
    fit = build_fit(nets.deep_decoder(depth=1, width=4, input_depth=4))
    estimator = Estimator(fit, num_steps=2)
    case = case_from_operator("a", image, Identity(), image.shape)
    restore([case], estimator)
    num_compiled = len(compiled)
    restore([case], estimator)
    assert len(compiled) == num_compiled
    restore([case], dataclasses.replace(estimator, num_steps=3))
    assert len(compiled) > num_compiled


def test_the_operator_of_a_user_is_traced_again_because_its_variables_may_have_changed(image):
    gain = 1.0

    def operator(x):
        return gain * x

    config = tiny_config("task.name=custom", "fit.num_steps=3")
    case = case_from_operator("a", image, operator, image.shape)
    (first,) = restore([case], config)
    gain = 0.25
    (second,) = restore([case], config)
    assert second.curve["loss"][0] != first.curve["loss"][0]
    assert not np.array_equal(first.image, second.image)


def test_the_least_recent_program_is_forgotten(monkeypatch):
    built = []

    def build(dependencies, *_):
        built.append(dependencies[1])
        return None, dependencies[1]

    monkeypatch.setattr(recent_programs, "build_program", build)
    for form in (1, 2, 1, 3, 4, 5, 1, 2):
        assert recent_programs.recall_program("config", form, None, None) == (None, form)
    assert built == [1, 2, 3, 4, 5, 2]

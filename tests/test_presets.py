import dataclasses

import jax
import numpy as np
import pytest

from dip_jax.engine.restore import restore
from dip_jax.errors import InputError
from dip_jax.keys import image_key
from dip_jax.nets import build_net, num_params
from dip_jax.presets import COMPARISONS, PRESETS, build_comparison, build_config
from dip_jax.tasks.cases import target_case
from dip_jax.tasks.registry import task_of
from dip_jax.tasks.simulate import simulate_case


def cases(config, image):
    """Simulated cases of the task of a config."""
    side_inputs = {"guide": image[::-1]} if config.task.name == "flash" else {}
    if task_of(config.task).target is not None:
        fields = {"unit": 0, "image_shape": (64, 64, 3)}
        return [target_case(dataclasses.replace(config.task, **fields))]
    if config.task.name == "ct":
        image = image[:36]
    return [simulate_case(image_key(0, "x"), config.task, "x", image, **side_inputs)]


FEW_STEPS = ("fit.num_steps=4", "run.chunk=4", "sgld.burn_in=1", "sgld.thin=1")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"custom"}))
def test_every_preset_makes_a_few_steps_with_its_own_network(name, image):
    config = build_config(name, overrides=FEW_STEPS)
    (result,) = restore(cases(config, image), config)
    assert result.status == "done"
    assert np.isfinite(result.image).all()
    assert np.isfinite(result.curve["loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("task", ["denoise", "inpaint"])
def test_every_variant_of_a_comparison_makes_a_few_steps(comparison, task, image):
    for config in build_comparison(comparison, task=task, overrides=FEW_STEPS).values():
        (result,) = restore(cases(config, image), config)
        assert result.status == "done"


def test_the_variants_of_a_comparison_get_the_same_degraded_image(image):
    configs = build_comparison("networks", task="inpaint")
    masks = [
        np.asarray(cases(config, image)[0].problem.operator.mask) for config in configs.values()
    ]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    kinds = {label: config.net.kind for label, config in configs.items()}
    assert kinds["U-Net"] == "unet"
    assert kinds["ResNet"] == "resnet"
    depths = [configs[f"depth {depth}"].net.num_scales for depth in (2, 4, 6)]
    assert depths == [2, 4, 6]


def test_learning_rates_are_compared_on_the_selected_preset():
    configs = build_comparison("learning_rates", "denoise_small")
    assert {config.fit.learning_rate for config in configs.values()} == {0.1, 0.01, 0.001, 0.0001}
    for config in configs.values():
        assert config.net == build_config("denoise_small").net


@pytest.mark.parametrize(
    ("preset", "proposal"),
    [
        ("best", "denoise,denoise_single"),
        ("inpaint_random", "inpaint_random,inpaint_random_single"),
    ],
)
def test_a_comparison_of_single_networks_refuses_an_ensemble_and_proposes_one_that_works(
    preset, proposal
):
    with pytest.raises(InputError, match=f"such as --compare={proposal}\\."):
        build_comparison("learning_rates", preset)
    assert list(build_comparison(proposal)) == proposal.split(",")


def test_presets_have_the_published_size():
    # tests/architectures compares the networks themselves
    sizes = {
        "denoise_single": 2_217_831,
        "denoise_2018": 2_217_831,
        "inpaint": 3_002_627,
        "inpaint_2018": 3_002_627,
        "inpaint_random_single": 2_217_831,
        "inpaint_random_2018": 2_217_831,
        "dejpeg_2018": 572_827,
        "inpaint_region": 2_157_955,
        "inpaint_sparse": 1_027_379,
        "inpaint_depth2": 59_635,
        "inpaint_depth4": 1_060_339,
        "inpaint_hole": 2_996_467,
        "inpaint_unet": 1_616_315,
        "inpaint_resnet": 158_979,
        "super_resolve_single": 2_217_831,
        "super_resolve_2018": 2_217_831,
        "super_resolve_narrow_code": 2_184_307,
        "flash": 2_184_307,
        "invert_features_2018": 2_606_763,
        "maximize_activation_2018": 2_948_567,
    }
    counts = {}  # several presets use one network
    for name, expected in sizes.items():
        assert PRESETS[name].source.startswith("Ulyanov"), name
        config = build_config(name).net
        if config not in counts:
            init = build_net(config, (64, 64, 3)).init
            counts[config] = num_params(jax.eval_shape(init, jax.random.key(0)))
        assert counts[config] == expected, name

import ast
import dataclasses
import inspect
import subprocess
import sys
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_jax import config as config_module
from dip_jax.config import (
    TASKS,
    Config,
    FitConfig,
    NetConfig,
    RunConfig,
    SgldConfig,
    StopConfig,
    TaskConfig,
    field_names,
    from_json,
    to_json,
)
from dip_jax.errors import InputError
from dip_jax.presets import PRESETS, build_config
from dip_jax.tasks.settings import check_settings

SECTIONS = {
    section.__name__: section
    for section in (TaskConfig, NetConfig, FitConfig, SgldConfig, StopConfig, RunConfig)
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_json(preset):
    config = build_config(preset)
    assert from_json(to_json(config)) == config
    assert config.task.name == PRESETS[preset].task


def test_the_default_preset_of_a_task_is_for_this_task():
    for task in TASKS:
        assert PRESETS[task].task == task
        assert build_config(task=task) == build_config(task)


@given(
    st.integers(1, 10**6),
    st.floats(1e-6, 1.0),
    st.lists(st.integers(1, 512), min_size=1, max_size=6),
)
def test_the_config_holds_the_overrides(steps, rate, channels):
    listed = ",".join(map(str, channels))
    config = build_config(
        overrides=[
            f"fit.num_steps={steps}",
            f"fit.learning_rate={rate!r}",
            f"net.channels_down={listed}",
            f"net.channels_up={listed}",
            f"net.channels_skip={listed}",
        ]
    )
    assert config.fit.num_steps == steps
    assert config.fit.learning_rate == rate
    assert config.net.channels_down == tuple(channels)


def test_the_last_override_wins_and_presets_come_first():
    config = build_config("inpaint", overrides=["fit.num_steps=5", "fit.num_steps=7"])
    assert config.fit.num_steps == 7
    assert config.net.channels_skip == (128,) * 5


def test_optional_fields_accept_none_and_booleans_accept_words():
    config = build_config(overrides=["task.noise_std=none", "task.paste_known=False"])
    assert config.task.noise_std is None
    assert config.task.paste_known is False


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SgldConfig(sampler="psgld_typo"), "Did you mean 'psgld'"),
        (lambda: dataclasses.replace(FitConfig(), learning_rate=-1.0), "fit.learning_rate must be"),
        (lambda: FitConfig(average="corected"), "Did you mean 'corrected'"),
        (lambda: FitConfig(num_steps="5"), "fit.num_steps expects an integer, got '5'"),
        (lambda: FitConfig(num_steps=True), "fit.num_steps expects an integer, got True"),
        (lambda: NetConfig(channels_down=(8, 0)), "net.channels_down must be at least 1"),
        (lambda: NetConfig(channels_down=[8]), "net.channels_down expects integers"),
        (lambda: StopConfig(patience=float("nan")), "stop.patience must be"),
        (lambda: TaskConfig(kernel="disk"), "task.kernel"),
        (lambda: RunConfig(seed=-1), "run.seed must be"),
    ],
)
def test_a_section_checks_its_values_however_it_is_created(build, words):
    with pytest.raises(InputError, match=words):
        build()


@pytest.mark.parametrize(
    "field", ["temperature=0", "prior_precision=0", "constrain_norm=True", "step_decay=0.3"]
)
def test_a_setting_that_underdamped_dynamics_does_not_have_is_refused(field):
    overrides = ["fit.method=sgld", f"sgld.{field}"]
    with pytest.raises(InputError, match=f"sgld.{field.split('=')[0]} expects"):
        build_config("denoise_single", overrides=overrides)
    build_config("denoise_single", overrides=[*overrides, "sgld.sampler=psgld"])


def test_the_chains_of_a_start_divide_the_number_of_chains():
    overrides = ["fit.method=sgld", "sgld.num_chains=6"]
    assert build_config(overrides=[*overrides, "sgld.chains_per_start=3"]).num_networks == 6
    with pytest.raises(InputError, match=r"a divisor of sgld\.num_chains=6, got 4"):
        build_config(overrides=[*overrides, "sgld.chains_per_start=4"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fit.lerning_rate=1", "fit.learning_rate"),
        ("fitt.num_steps=1", "fit.num_steps"),
        ("fit.num_steps=0", "at least 1"),
        ("fit.num_steps=many", "expects"),
        ("fit.learning_rate=0", "more than 0"),
        ("fit.learning_rate=nan", "more than 0"),
        ("task.noise_std=-0.1", "at least 0"),
        ("task.known_fraction=1.5", "at most 1"),
        ("stop.rule=wvm", "wmv"),
        ("net.activation=leaky", "leaky_relu"),
        ("net.downsample=strid", "stride"),
        ("net.channels_down=", "at least one"),
        ("net.kernel_up=4", "1, 3, 5 or 7"),
        ("task.paste_known=maybe", "expects"),
        ("fit.num_steps", "section.field=value"),
    ],
)
def test_the_error_for_a_wrong_override_names_the_right_value(override, words):
    with pytest.raises(InputError, match=words):
        build_config(overrides=[override])


def test_the_error_for_an_unknown_preset_or_task_names_a_similar_one():
    with pytest.raises(InputError, match="'denoise'"):
        build_config("denois")
    with pytest.raises(InputError, match="'inpaint'"):
        build_config(task="inpant")
    with pytest.raises(InputError, match="is for inpaint"):
        build_config("inpaint_hole", task="denoise")


def test_a_schedule_is_refused_for_a_sampler_and_a_warm_up_ends_before_the_fit():
    assert build_config(overrides=["fit.schedule=cosine"]).fit.schedule == "cosine"
    with pytest.raises(InputError, match=r"expected fit\.schedule=constant, got cosine"):
        build_config(overrides=["fit.method=sgld", "fit.schedule=cosine"])
    too_long = ["fit.num_steps=100", "fit.warm_up_steps=100"]
    assert build_config(overrides=too_long).fit.warm_up_steps == 100  # not used
    with pytest.raises(InputError, match=r"less than fit\.num_steps=100, got 100"):
        build_config(overrides=[*too_long, "fit.schedule=warmup_cosine"])


@pytest.mark.parametrize(
    ("config", "num_steps", "expected"),
    [
        (SgldConfig(burn_in=7, thin=3), 20, [9, 12, 15, 18]),
        (SgldConfig(thin=5), 20, [10, 15]),  # 35 % of the steps are the burn-in
        # cycles of 7, 7 and 6 steps, from the third step of each
        (
            SgldConfig(sampler="csgld", burn_in=8, thin=1, num_cycles=3, explore_fraction=0.3),
            20,
            [10, 11, 12, 13, 17, 18, 19],
        ),
    ],
)
def test_samples_are_taken_after_the_burn_in_and_late_in_each_cycle(config, num_steps, expected):
    schedule = config.samples(num_steps)
    assert [step for step in range(num_steps) if schedule.is_sample(step)] == expected
    assert schedule.num_samples == len(expected)


def test_the_samples_of_2019_are_259():
    assert SgldConfig(sampler="paper", burn_in=7000, thin=50).samples(20_000).num_samples == 259
    # that fraction of the steps is the default
    assert SgldConfig().phases(20_000)[1] == 7000


def test_the_number_of_networks_is_that_of_the_chains_or_of_the_seeds():
    numbers = ["fit.num_seeds=3", "sgld.num_chains=5"]
    assert Config().num_networks == 1
    assert build_config(overrides=numbers[:1]).num_networks == 3
    assert build_config(overrides=["fit.method=sgld", numbers[1]]).num_networks == 5


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"fit": {"nonsense": 1}}', '{"fit": 3}'])
def test_json_that_is_not_a_config_is_refused(text):
    with pytest.raises(InputError):
        from_json(text)


def field_docs():
    """The documentation of each field, by `section.field`."""
    docs = {}
    for node in ast.walk(ast.parse(inspect.getsource(config_module))):
        if isinstance(node, ast.ClassDef) and node.name in SECTIONS:
            for field, doc in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                    docs[f"{SECTIONS[node.name].SECTION}.{field.target.id}"] = doc.value.value
    return docs


def test_every_field_is_documented():
    assert set(field_docs()) == set(field_names())


def test_the_choices_that_restrict_a_field_exist_in_its_section():
    choices = {
        section.SECTION: {
            choice
            for field in dataclasses.fields(section)
            if get_origin(field.type) is Literal
            for choice in get_args(field.type)
        }
        for section in SECTIONS.values()
    }
    choices["task"] |= set(TASKS)
    for name, doc in field_docs().items():
        if doc.startswith("("):
            assert set(doc[1 : doc.index(")")].split(", ")) <= choices[name.split(".")[0]], name


def test_a_wrong_flag_is_reported_without_loading_jax():
    code = "import sys; from dip_jax.cli import command; command.main(['--task=denois']); print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert "denoise" in out.stderr


def test_the_default_of_denoising_is_an_ensemble_unless_the_values_need_a_single_network():
    assert build_config("denoise_single") == Config()
    assert build_config() == build_config("denoise")
    assert build_config().stop.rule == "cross_validation"
    for values in (
        {"fit.method": "sgld"},
        {"stop.rule": "wmv"},
        {"fit.num_seeds": 1},
        {"net.kind": "deep_decoder"},
        {"net.kind": "unet"},
        {"fit.optimizer": "adam"},
        {"task.noise": "poisson", "fit.likelihood": "poisson"},
    ):
        assert build_config(changes=values) == build_config("denoise_single", changes=values)
    assert build_config(changes={"fit.code": "guided", "net.kind": "skip"}) == build_config()
    for num_steps, every in ((5, 5), (350, 25), (2000, 100)):
        config = build_config(changes={"fit.num_steps": num_steps})
        assert (config.fit.num_seeds, config.stop.keep_every) == (4, every)
    with pytest.raises(InputError, match=r"fit\.num_steps"):
        build_config(changes={"fit.num_steps": -1})
    with pytest.raises(InputError, match=r"at most fit\.num_steps=350, got 400"):
        build_config(changes={"stop.keep_every": 400})
    with pytest.raises(InputError, match="a single network, such as denoise_single"):
        build_config("denoise", changes={"stop.rule": "wmv"})


def test_the_tobit_likelihood_belongs_to_clipped_gaussian_noise():
    values = {"fit.likelihood": "tobit"}
    config = build_config(changes=values)
    assert from_json(to_json(config)) == config
    assert config == build_config("denoise_single", changes=values)
    for others, message in (
        ({"task.noise": "poisson"}, "Gaussian noise that was clipped"),
        ({"task.noise": "salt_and_pepper"}, "Gaussian noise that was clipped"),
        ({"fit.method": "sgld", "sgld.noise": "sampled"}, r"fit\.likelihood=gaussian"),
    ):
        with pytest.raises(InputError, match=message):
            build_config("denoise_single", changes={**values, **others})
    with pytest.raises(InputError, match=r"fit\.likelihood=gaussian"):
        build_config("denoise", changes=values)
    for task in ("ct", "compressed_sensing", "dejpeg"):
        with pytest.raises(InputError, match="expects a measurement of pixels"):
            check_settings(build_config(task=task, changes=values))
    check_settings(build_config(task="dejpeg", changes={**values, "task.jpeg": "decoded"}))

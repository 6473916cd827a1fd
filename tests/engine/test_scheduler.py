import jax
import numpy as np
import pytest

from dip_jax.base import Case
from dip_jax.engine.restore import restore
from dip_jax.errors import InputError
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case


def cases(picture, names, config):
    return [simulate_case(simulation_key(image_key(0, n)), config.task, n, picture) for n in names]


@pytest.mark.slow
def test_the_size_of_a_chunk_changes_nothing(picture, tiny):
    results = [
        restore(cases(picture, "a", config), config)[0]
        for config in (
            build_config(overrides=[*tiny, "fit.num_steps=6", f"run.chunk={n}"]) for n in (2, 100)
        )
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.image, results[0].image)
        np.testing.assert_array_equal(result.curve["step"], np.arange(6))
        np.testing.assert_array_equal(result.curve["loss"], results[0].curve["loss"])


def test_the_curve_is_that_of_the_images(picture, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=6", "stop.rule=fixed"])
    (case,) = cases(picture, "a", config)
    (result,) = restore([case], config)
    assert result.status == "done"
    assert result.stop_step == 5
    psnr = -10 * np.log10(np.mean((result.image - picture) ** 2))
    np.testing.assert_allclose(result.curve["psnr_average"][-1], psnr, atol=1e-3)
    assert np.isnan(result.curve["signal_fixed"]).all()


def test_without_a_reference_there_is_no_psnr(picture, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=6"])
    (case,) = cases(picture, "a", config)
    (result,) = restore([case._replace(reference=None)], config)
    assert np.isnan(result.curve["psnr"]).all()
    assert np.isfinite(result.curve["loss"]).all()


def test_the_reference_never_changes_the_answer(picture, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=6"])
    (case,) = cases(picture, "a", config)
    other = case._replace(reference=1 - picture)
    np.testing.assert_array_equal(
        restore([case], config)[0].image, restore([other], config)[0].image
    )


@pytest.mark.slow
def test_an_interrupted_run_hands_out_what_there_is(picture, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=500", "run.chunk=5"])
    asked = iter([False, False, True])
    (result,) = restore(cases(picture, "a", config), config, should_stop=lambda: next(asked, True))
    assert result.status == "interrupted"
    assert 0 < result.num_steps < 500
    assert np.isfinite(result.image).all()
    assert result.image.std() > 0


def test_a_rule_that_fires_stops_the_run(picture, tiny):
    config = build_config(
        overrides=[
            *tiny,
            "fit.num_steps=900",
            "stop.window=5",
            "stop.patience=0.01",
            "fit.average=none",
        ]
    )
    (result,) = restore(cases(picture, "a", config), config)
    assert result.status == "stopped"
    assert result.stop_step < result.num_steps < 900
    assert result.curve["step"][-1] == result.num_steps - 1


def test_a_fit_that_diverges_says_so_and_keeps_its_best(picture, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=200", "fit.learning_rate=1e30"])
    (result,) = restore(cases(picture, "a", config), config)
    assert result.status == "diverged"
    assert result.num_rollbacks >= 10
    assert np.isfinite(result.image).all()


def test_progress_is_told_and_steps_grow(picture, tiny):
    seen = []
    config = build_config(overrides=[*tiny, "fit.num_steps=6", "run.chunk=2"])
    restore(cases(picture, "a", config), config, on_progress=seen.append)
    steps = [p.steps[0] for p in seen]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    assert seen[-1].psnr == pytest.approx(seen[-1].psnr)


def test_what_does_not_fit_into_memory_is_refused_with_the_amount(picture, tiny):
    config = build_config(overrides=[*tiny, "run.max_memory=0.001"])
    with pytest.raises(InputError, match=r"would need about 0\.\d GB .* fewer channels"):
        restore(cases(picture, "a", config), config)


def test_a_pictures_random_numbers_follow_from_its_name_and_the_seed():
    data = {str(jax.random.key_data(image_key(s, n))) for s in (0, 1) for n in ("a", "b")}
    assert len(data) == 4


@pytest.mark.slow
def test_known_pixels_are_put_back_unless_told_not_to(picture, tiny):
    for paste in (True, False):
        config = build_config(
            "inpaint_random", overrides=[*tiny, "fit.num_steps=6", f"task.paste_known={paste}"]
        )
        (case,) = cases(picture, "a", config)
        assert isinstance(case, Case)
        (result,) = restore([case], config)
        known = np.asarray(case.problem.operator.mask)[..., 0] > 0
        assert np.array_equal(result.image[known], picture[known]) is paste
        assert not np.array_equal(result.raw[known], picture[known])

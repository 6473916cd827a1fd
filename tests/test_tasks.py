import jax
import numpy as np
import pytest

from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.tasks import build_case, paste_known, simulate_case


def key(seed=0):
    return jax.random.key(seed)


def test_simulated_noise_has_the_level_that_was_asked_for(picture):
    grey = np.full((200, 200, 3), 0.5, np.float32)
    case = simulate_case(key(), TaskConfig(noise_std=0.1), "x", grey)
    noise = np.asarray(case.problem.measurement) - grey
    n = noise.size
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * n)
    assert abs(noise.mean()) < 5 * 0.1 / np.sqrt(n)
    assert float(case.problem.noise_std) == pytest.approx(0.1)


def test_the_default_noise_is_25_grey_levels_and_is_clipped(picture):
    case = simulate_case(key(), TaskConfig(), "x", picture)
    assert float(case.problem.noise_std) == pytest.approx(25 / 255)
    measurement = np.asarray(case.problem.measurement)
    assert measurement.min() >= 0
    assert measurement.max() <= 1


def test_a_problem_holds_no_ground_truth(picture):
    case = simulate_case(key(), TaskConfig(), "x", picture)
    for leaf in jax.tree.leaves(case.problem):
        assert np.shape(leaf) != picture.shape or not np.allclose(leaf, picture)
    np.testing.assert_array_equal(case.reference, picture)


def test_a_bernoulli_mask_keeps_its_share_and_is_common_to_the_channels():
    grey = np.full((200, 200, 3), 0.5, np.float32)
    case = simulate_case(key(), TaskConfig(name="inpaint", known_share=0.3), "x", grey)
    mask = np.asarray(case.problem.operator.mask)
    assert mask.shape == (200, 200, 1)
    assert abs(mask.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / mask.size)
    np.testing.assert_array_equal(case.problem.measurement, grey * mask)
    assert float(case.problem.noise_std) == 0


def test_what_is_missing_is_never_looked_at(picture):
    mask = np.ones(picture.shape[:2], np.float32)
    mask[5:9, 5:9] = 0
    spoiled = picture.copy()
    spoiled[5:9, 5:9] = 0.123
    task = TaskConfig(name="inpaint")
    a, b = (build_case(task, "x", image, mask=mask) for image in (picture, spoiled))
    np.testing.assert_array_equal(a.problem.measurement, b.problem.measurement)


def test_known_pixels_are_put_back_exactly_and_missing_ones_kept(picture):
    mask = np.ones(picture.shape[:2], np.float32)
    mask[5:9, 5:9] = 0
    case = build_case(TaskConfig(name="inpaint"), "x", picture, mask=mask)
    answer = np.full_like(picture, 0.25)
    pasted = paste_known(case.problem, answer)
    np.testing.assert_array_equal(pasted[mask > 0], picture[mask > 0])
    assert (pasted[5:9, 5:9] == 0.25).all()
    denoise = build_case(TaskConfig(), "x", picture)
    np.testing.assert_array_equal(paste_known(denoise.problem, answer), answer)


def test_a_jpeg_is_fitted_as_it_is(picture):
    case = build_case(TaskConfig(name="dejpeg"), "x", picture)
    np.testing.assert_array_equal(case.problem.measurement, picture)
    assert np.isnan(case.problem.noise_std)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: build_case(TaskConfig(name="inpaint"), "x", p), "mask"),
        (
            lambda p: build_case(TaskConfig(), "x", p, mask=np.ones(p.shape[:2])),
            "belongs to inpaint",
        ),
        (lambda p: build_case(TaskConfig(name="inpaint"), "x", p, mask=np.ones((3, 3))), "size"),
        (
            lambda p: build_case(TaskConfig(name="inpaint"), "x", p, mask=np.ones(p.shape[:2])),
            "no missing",
        ),
        (
            lambda p: build_case(TaskConfig(name="inpaint"), "x", p, mask=np.zeros(p.shape[:2])),
            "no known",
        ),
        (lambda p: simulate_case(key(), TaskConfig(name="dejpeg"), "x", p), "JPEG"),
        (lambda p: build_case(TaskConfig(), "x", p[:20]), "33"),
        (lambda p: build_case(TaskConfig(), "x", p[..., 0]), r"\[H, W"),
        (lambda p: build_case(TaskConfig(), "x", p * np.nan), "finite"),
    ],
)
def test_what_cannot_be_a_case_is_refused(picture, call, words):
    with pytest.raises(InputError, match=words):
        call(picture)

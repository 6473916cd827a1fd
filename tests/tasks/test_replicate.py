"""Replicates: their noise is that of the case, and their symmetries can be undone."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Case, Problem
from dip_jax.clipping import Limits
from dip_jax.errors import InputError
from dip_jax.operators import Identity, Mask
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.tasks.replicate import Noise, Symmetry, draw_symmetry, noise_of, replicate_case

SYMMETRIES = [Symmetry(*flags) for flags in itertools.product((False, True), repeat=3)]
IMAGE = np.random.default_rng(0).uniform(0.3, 0.7, (64, 64, 3)).astype(np.float32)


def case_of(operator=None, shape=IMAGE.shape, **problem) -> Case:
    y = jnp.full(shape, 0.5)
    return Case("photo", Problem(operator or Identity(), y, **{"noise_std": 0.1, **problem}), shape)


NOISE = Noise(0.1, Limits(), ())
NO_NOISE = Noise(0.0, Limits(), ())


def difference(case: Case, symmetry: Symmetry, image=IMAGE) -> np.ndarray:
    """The noise of a replicate of an image."""
    clean = case.problem.operator(jnp.asarray(np.ascontiguousarray(symmetry(image))))
    return np.asarray(case.problem.measurement - clean)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_the_inverse_undoes_a_symmetry(symmetry):
    image = np.random.default_rng(1).random((5, 5, 2))
    np.testing.assert_array_equal(symmetry.inverse(symmetry(image)), image)


def test_a_square_has_eight_symmetries_and_each_is_drawn():
    image = np.arange(9.0).reshape(3, 3, 1)
    assert len({symmetry(image).tobytes() for symmetry in SYMMETRIES}) == 8
    drawn = {draw_symmetry(key, (3, 3, 1)) for key in jax.random.split(jax.random.key(0), 100)}
    assert drawn == set(SYMMETRIES)


def test_a_rectangle_keeps_its_sides():
    drawn = {draw_symmetry(key, (3, 4, 1)) for key in jax.random.split(jax.random.key(0), 100)}
    assert drawn == {symmetry for symmetry in SYMMETRIES if not symmetry.is_transposed}


def test_a_replicate_has_the_noise_level_of_the_case_and_no_reference():
    case = case_of()._replace(reference=IMAGE, preview=IMAGE)
    replicate, symmetry = replicate_case(jax.random.key(0), case, IMAGE, NOISE, 3)
    noise = difference(replicate, symmetry)
    assert abs(noise.mean()) < 4 * 0.1 / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(0.1, rel=4 / math.sqrt(2 * noise.size))
    assert replicate.name == "photo, replicate 3"
    assert (replicate.reference, replicate.preview) == (None, None)


def test_two_replicates_have_different_noise():
    first, second = (
        difference(*replicate_case(jax.random.key(seed), case_of(), IMAGE, NOISE, 1))
        for seed in (0, 1)
    )
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_a_mask_stays_where_it_is_while_the_image_turns():
    mask = np.zeros((64, 64, 1), np.float32)
    mask[:10] = 1
    case = case_of(Mask(jnp.asarray(mask)), noise_std=0.0)
    replicate, symmetry = replicate_case(jax.random.key(2), case, IMAGE, NO_NOISE, 1)
    assert symmetry != Symmetry()
    np.testing.assert_allclose(replicate.problem.measurement, mask * symmetry(IMAGE), atol=1e-6)


def test_noise_falls_only_on_pixels_that_were_measured():
    mask = np.zeros((64, 64, 1), np.float32)
    mask[:10] = 1
    case = case_of(Mask(jnp.asarray(mask)))
    replicate, _ = replicate_case(jax.random.key(0), case, IMAGE, NOISE, 1)
    assert (np.asarray(replicate.problem.measurement)[10:] == 0).all()


def test_photons_have_a_variance_that_is_their_mean_over_the_peak():
    case = case_of(peak=50.0, noise_std=0.0)
    replicate, symmetry = replicate_case(jax.random.key(0), case, IMAGE, NO_NOISE, 1)
    noise = difference(replicate, symmetry)
    assert noise.var() == pytest.approx(IMAGE.mean() / 50, rel=0.05)
    counts = 50 * np.asarray(replicate.problem.measurement)
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-4)


def test_complex_noise_shares_its_variance_between_both_parts():
    mask = jnp.ones((64, 64))
    operator = SubsampledFourier(mask)
    y = operator(jnp.asarray(IMAGE[..., :1]))
    case = Case("photo", Problem(operator, y, 0.1), (64, 64, 1))
    replicate, symmetry = replicate_case(jax.random.key(0), case, IMAGE[..., :1], NOISE, 1)
    noise = difference(replicate, symmetry, IMAGE[..., :1])
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(0.01, rel=0.1)
    assert noise.real.std() == pytest.approx(noise.imag.std(), rel=0.1)
    assert abs(np.corrcoef(noise.real.ravel(), noise.imag.ravel())[0, 1]) < 0.1


def test_noise_is_clipped_only_where_that_of_the_case_was():
    dark = np.full(IMAGE.shape, 0.02, np.float32)
    y = np.clip(dark + 0.1 * np.random.default_rng(0).normal(size=dark.shape), 0, None)
    problem = Problem(Identity(), jnp.asarray(y, jnp.float32), 0.1)
    case = Case("a", problem, dark.shape)
    noise = noise_of(case, dark)
    assert noise.std == pytest.approx(0.1)
    assert noise.limits == Limits(black=True)
    clipped, _ = replicate_case(jax.random.key(0), case, dark, noise, 1)
    plain, _ = replicate_case(jax.random.key(0), case_of(), dark, NOISE, 1)
    assert float(clipped.problem.measurement.min()) == 0
    assert float(plain.problem.measurement.min()) < -0.1
    np.testing.assert_allclose(
        clipped.problem.measurement, np.maximum(plain.problem.measurement, 0), atol=1e-6
    )


def test_values_without_weight_stay_as_they_are():
    weights = np.ones(IMAGE.shape, np.float32)
    weights[:5] = 0
    case = case_of(weights=jnp.asarray(weights))
    replicate, _ = replicate_case(jax.random.key(0), case, IMAGE, NOISE, 1)
    assert (np.asarray(replicate.problem.measurement)[:5] == 0.5).all()
    assert (np.asarray(replicate.problem.measurement)[5:] != 0.5).all()


def test_an_image_that_serves_as_the_code_turns_with_the_image():
    case = case_of(code_image=jnp.asarray(IMAGE))
    replicate, symmetry = replicate_case(jax.random.key(2), case, IMAGE, NOISE, 1)
    np.testing.assert_array_equal(replicate.problem.code_image, symmetry(IMAGE))


def test_an_unknown_level_is_estimated_with_a_note():
    y = 0.5 + 0.1 * np.random.default_rng(0).normal(size=IMAGE.shape)
    problem = Problem(Identity(), jnp.asarray(y, jnp.float32), math.nan)
    noise = noise_of(Case("a", problem, IMAGE.shape), np.full(IMAGE.shape, 0.5))
    assert noise.std == pytest.approx(0.1, rel=0.05)
    assert noise.notes[0].startswith("noise estimated")


def test_a_level_of_stored_noise_is_not_clipped_twice():
    """An estimate from the stored values is lower than the level before clipping."""
    dark = np.full(IMAGE.shape, 0.02, np.float32)
    y = np.clip(dark + 0.1 * np.random.default_rng(0).normal(size=dark.shape), 0, None)
    y[:, 32:] = 0.5 + 0.1 * np.random.default_rng(1).normal(size=y[:, 32:].shape)
    dark[:, 32:] = 0.5
    problem = Problem(Identity(), jnp.asarray(y, jnp.float32), 0.08)
    case = Case("a", problem, dark.shape, is_stored_level=True)
    assert noise_of(case, dark).std == pytest.approx(0.1, rel=0.1)


def test_noise_that_neighbors_share_is_reported():
    case = case_of()._replace(shares_noise=True)
    assert "lower bound" in noise_of(case, IMAGE).notes[0]


def test_a_level_that_cannot_be_estimated_is_an_error():
    problem = Problem(
        SubsampledFourier(jnp.ones((64, 64))), jnp.ones((64, 64, 1), complex), math.nan
    )
    with pytest.raises(InputError, match="intervals need the noise level"):
        noise_of(Case("a", problem, (64, 64, 1)), IMAGE[..., :1])


def test_the_coefficients_of_a_jpeg_file_are_an_error():
    with pytest.raises(InputError, match="JPEG"):
        noise_of(case_of(tolerance=jnp.ones(IMAGE.shape), noise_std=math.nan), IMAGE)

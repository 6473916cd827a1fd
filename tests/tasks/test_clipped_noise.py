"""An estimate is corrected for clipped noise, and only for it."""

import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import losses, nets
from dip_jax.base import Case, Problem
from dip_jax.clipping import Limits, mean_of_clipped
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.restore import restore
from dip_jax.errors import InputError
from dip_jax.fit import build_fit
from dip_jax.operators import Blur, Identity, Mask
from dip_jax.presets import build_config
from dip_jax.stopping.fixed import fixed
from dip_jax.tasks.cases import build_case
from dip_jax.tasks.clipped_noise import correct_clipping, limits_of
from dip_jax.tasks.noise_level import (
    clipped_noise_of,
    estimate_noise_std,
    resolve_noise,
    with_noise_std,
)
from tests.conftest import TINY

NOISE = 0.1


def dark_image():
    """Four fields of one value each, from black to white, `[64, 64, 1]`."""
    return np.kron(np.float32([[0.0, 0.05], [0.5, 1.0]]), np.ones((32, 32), np.float32))[..., None]


def clipped_case(clean=None, operator=None):
    clean = dark_image() if clean is None else clean
    noise = NOISE * np.random.default_rng(0).standard_normal(clean.shape)
    y = jnp.asarray(np.clip(clean + noise, 0, 1), jnp.float32)
    return Case("a", Problem(operator or Identity(), y, noise_std=NOISE), clean.shape)


def means_of_fields(image):
    return image.reshape(2, 32, 2, 32).mean(axis=(1, 3)).ravel()


def test_the_mean_of_clipped_pixels_becomes_the_clean_value():
    case = clipped_case()
    means = means_of_fields(np.asarray(case.problem.measurement))
    assert abs(means[0] - 0.4 * NOISE) < 0.004
    estimate = np.kron(means.reshape(2, 2), np.ones((32, 32)))[..., None]
    image, (note,) = correct_clipping(case._replace(limits=limits_of(case)), estimate)
    np.testing.assert_allclose(means_of_fields(image), means_of_fields(dark_image()), atol=0.006)
    assert "clipped at black and white" in note


def test_an_image_whose_noise_ends_before_black_is_not_changed():
    case = clipped_case()
    y = np.maximum(np.asarray(case.problem.measurement), 0.02)
    y[0, :5] = 0  # a few dead pixels
    case = case._replace(problem=case.problem._replace(measurement=jnp.asarray(y)))
    limits = limits_of(case)
    assert limits == Limits(black=True, white=True)
    image, (note,) = correct_clipping(case._replace(limits=limits), dark_image() + 0.03)
    assert "clipped at white" in note
    np.testing.assert_allclose(image[:32], dark_image()[:32] + 0.03, atol=1e-4)


def test_without_limits_or_noise_the_estimate_stays():
    case, image = clipped_case(), dark_image()
    assert correct_clipping(case, image) == (image, ())
    silent = case.problem._replace(noise_std=np.nan)
    assert (
        correct_clipping(case._replace(problem=silent, limits=Limits(True, True)), image)[1] == ()
    )


def test_limits_are_those_that_known_pixels_reach():
    assert limits_of(clipped_case()) == Limits(black=True, white=True)
    gray = clipped_case(np.full((64, 64, 1), 0.5, np.float32))
    assert limits_of(gray) == Limits()
    mask = np.zeros((64, 64, 1), np.float32)
    mask[:32] = 1
    case = clipped_case(operator=Mask(jnp.asarray(mask)))
    assert limits_of(case) == Limits(black=True)
    assert limits_of(clipped_case(operator=Blur(jnp.ones((1, 1))))) == Limits()


def test_the_noise_level_before_clipping_is_estimated():
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[0:96, 0:96] / 96
    clean = np.stack([rows, rows * columns, 0.3 * columns], axis=-1)
    for std in (0.05, 0.1, 0.2):
        y = np.clip(clean + std * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)
        case = Case("a", Problem(Identity(), jnp.asarray(y), np.nan), y.shape)
        stored = estimate_noise_std(case)
        assert abs(estimate_noise_std(case, before_clipping=True) / std - 1) < 0.05
        assert stored < 0.93 * std
        mask = (rng.random((96, 96, 1)) < 0.8).astype(np.float32)
        holes = Problem(Mask(jnp.asarray(mask)), jnp.asarray(y * mask), np.nan)
        found = estimate_noise_std(case._replace(problem=holes), before_clipping=True)
        assert abs(found / std - 1) < 0.08


def test_the_level_before_clipping_is_the_stated_one_or_estimated():
    rng = np.random.default_rng(1)
    clean = np.linspace(0.4, 1, 128 * 128).reshape(128, 128, 1)
    y = np.clip(clean + NOISE * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)
    unknown = Case("a", Problem(Identity(), jnp.asarray(y), np.nan), clean.shape)
    stated = unknown._replace(problem=unknown.problem._replace(noise_std=0.12))
    assert clipped_noise_of(stated, clean) == (0.12, Limits(white=True))
    stored, before = with_noise_std(unknown), with_noise_std(unknown, before_clipping=True)
    assert (stored.is_stored_level, before.is_stored_level) == (True, False)
    level = float(before.problem.noise_std)
    assert float(stored.problem.noise_std) < level
    for case in (stored, before):
        assert clipped_noise_of(case, clean) == (pytest.approx(level), Limits(white=True))
    residual = y - mean_of_clipped(clean, NOISE, Limits(white=True))
    sampled = float(np.sqrt(np.mean(residual**2)))
    found, _ = clipped_noise_of(stated, clean, sampled)
    assert sampled < 0.97 * NOISE
    assert abs(found / NOISE - 1) < 0.02


def test_without_clipped_noise_the_level_stays():
    gray = clipped_case(np.full((64, 64, 1), 0.5, np.float32))
    image = np.full((64, 64, 1), 0.5)
    assert clipped_noise_of(gray, image) == (NOISE, Limits())
    assert clipped_noise_of(gray, image, 0.2) == (0.2, Limits())
    case = clipped_case()
    dead = np.asarray(case.problem.measurement).clip(0.02, 0.98)
    dead[0, :5] = 0  # the noise ends before black
    case = case._replace(problem=case.problem._replace(measurement=jnp.asarray(dead)))
    assert clipped_noise_of(case, dark_image()) == (NOISE, Limits())
    exact = clipped_case()._replace(problem=clipped_case().problem._replace(noise_std=0.0))
    assert clipped_noise_of(exact, dark_image()) == (0.0, Limits())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), True),
        (("task.clipping=ignored",), False),
        (("stop.rule=discrepancy",), False),
        (("stop.rule=discrepancy", "task.noise_std=0.1"), True),
        (("task.noise_std=0",), False),
        (("fit.method=sgld",), False),
        (("fit.likelihood=laplace",), False),
        (("fit.likelihood=tobit",), False),
    ],
)
def test_settings_decide_about_the_correction(overrides, expected):
    config = build_config(overrides=[*TINY, *overrides])
    y = np.asarray(clipped_case().problem.measurement)
    case = resolve_noise(build_case(config.task, "a", y), config)
    estimate = mean_of_clipped(dark_image(), NOISE, Limits(black=True, white=True))
    image, notes = correct_clipping(case, estimate)
    assert bool(notes) is expected
    is_corrected = np.abs(image - dark_image()).max() < 0.02
    assert bool(is_corrected) is expected


def test_a_fit_returns_the_corrected_estimate():
    config = build_config(overrides=[*TINY, "fit.num_steps=4"])
    y = np.asarray(clipped_case().problem.measurement)
    (result,) = restore([build_case(config.task, "a", y)], config)
    case = resolve_noise(build_case(config.task, "a", y), config)
    expected, notes = correct_clipping(case, result.raw)
    np.testing.assert_array_equal(result.image, expected)
    assert set(notes) <= set(result.notes)
    assert (result.image != result.raw).any()


@pytest.mark.parametrize("method", ["fit", "sgld"])
def test_the_tobit_likelihood_gets_the_noise_level_before_clipping(method):
    rng = np.random.default_rng(0)
    image = np.linspace(-0.1, 1.1, 128 * 128 * 3).reshape(128, 128, 3).clip(0, 1)
    y = np.clip(image + NOISE * rng.standard_normal(image.shape), 0, 1).astype(np.float32)
    config = build_config(overrides=[f"fit.method={method}", "fit.likelihood=tobit"])
    case = Case("a", Problem(Identity(), jnp.asarray(y), np.nan), y.shape)
    resolved = resolve_noise(case, config)
    assert abs(float(resolved.problem.noise_std) / NOISE - 1) < 0.05
    assert resolved.limits == Limits()
    assert resolve_noise(resolved, config) is resolved
    fit = build_fit(nets.deep_decoder(depth=2, width=8), loss=losses.tobit)
    prepared = Estimator(fit, fixed(), num_steps=2).prepared(case)
    assert prepared.problem.noise_std == resolved.problem.noise_std
    strange = case._replace(problem=case.problem._replace(measurement=jnp.asarray(y[::2, ::3])))
    with pytest.raises(InputError, match="likelihood of clipped noise needs the noise level"):
        resolve_noise(strange, config)

"""Intervals around a fit: against errors that are known, and through the engine with a tiny network."""

import importlib
import itertools
import json
from unittest import mock

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import build_case, build_config, case_from_operator, restore
from dip_jax.base import Case, PosteriorKind, Problem, Result, Status
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.intervals import Intervals, bootstrap, mean_variance
from dip_jax.errors import InputError
from dip_jax.keys import image_key, intervals_key
from dip_jax.operators import Identity, Mask
from dip_jax.posterior.linearized import linearized_posterior
from tests.engine.test_merge import build_result

pytestmark = pytest.mark.usefixtures("shared_programs")
restore_module = importlib.import_module("dip_jax.engine.restore")

SHAPE = (40, 40, 1)
NOISE = 0.1
TRUTH = np.full(SHAPE, 0.5, np.float32)
NOISY = TRUTH + NOISE * np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def noisy_case(name="photo") -> Case:
    return Case(name, Problem(Identity(), jnp.asarray(NOISY), jnp.float32(NOISE)), SHAPE)


def smooth(variance):
    """One map of squares, averaged over neighbors that are all measured."""
    everywhere = np.ones(variance.shape, bool)
    return mean_variance(variance[None], everywhere[None], everywhere)


def halved(cases):
    """A restoration whose bias and variance are known: half of the measurement."""
    for case in cases:
        yield build_result(0.5 * np.asarray(case.problem.measurement))._replace(name=case.name)


def test_the_variance_of_replicates_is_that_of_the_method_with_its_bias():
    """Half of y misses x by x / 2 and half of the noise; one level below, by x / 4 and half of the noise."""
    (result,) = halved([noisy_case()])
    found = bootstrap(noisy_case(), result, 200, halved, seed=0).posterior
    assert found.kind == PosteriorKind.BOOTSTRAP
    assert found.num_samples == 200
    np.testing.assert_array_equal(found.mean, result.image)
    of_noise = (NOISE / 2) ** 2
    first = np.mean((result.image / 2) ** 2) + of_noise
    second = np.mean((found.chain_means[0] / 2) ** 2) + of_noise
    assert np.mean(found.std**2) == pytest.approx(first**2 / second, rel=0.02)


def test_the_bias_follows_the_pixel_and_not_the_place_to_which_it_is_turned():
    ramp = np.linspace(0.2, 0.8, SHAPE[0], dtype=np.float32)
    image = (ramp[:, None, None] * ramp[None, ::-1, None] ** 2).astype(np.float32)
    found = bootstrap(noisy_case(), build_result(image), 30, halved, seed=0).posterior
    expected = smooth((image / 2) ** 2 + (NOISE / 2) ** 2)
    assert np.corrcoef((found.std**2).ravel(), expected.ravel())[0, 1] > 0.98


def test_smoothing_keeps_the_mean_of_variances_and_lowers_their_noise():
    draws = np.random.default_rng(0).chisquare(8, (64, 64, 3)) / 8
    found = smooth(draws)
    assert found.mean() == pytest.approx(draws.mean(), rel=1e-3)
    assert found[8:-8, 8:-8].std() == pytest.approx(np.sqrt(2 / 8 / (16 * np.pi)), rel=0.15)


def test_missing_pixels_count_only_where_they_are_missing_in_the_replicate():
    """A method that misses hidden pixels by 0.2 and returns the others exactly."""
    mask = (np.random.default_rng(3).random((40, 40, 1)) < 0.8).astype(np.float32)
    problem = Problem(Mask(jnp.asarray(mask)), jnp.asarray(mask * TRUTH), jnp.float32(0))
    case = Case("photo", problem, SHAPE)

    def restore_known(cases):
        for case in cases:
            y = np.asarray(case.problem.measurement)
            yield build_result(np.where(mask > 0, y, 0.3))._replace(name=case.name)

    image = TRUTH + 0  # the estimate is right, so that the errors of replicates are 0.2
    std = bootstrap(case, build_result(image), 6, restore_known, seed=0).posterior.std
    assert (std[mask > 0] == 0).all()
    # One level below, the estimate has pixels of 0.3, which are restored without an error where they are hidden.
    ratio = std[mask == 0] / 0.2
    assert ratio.min() > 1
    assert ratio.max() < 1.4


def test_the_order_in_which_replicates_finish_does_not_matter():
    def backwards(cases):
        yield from reversed(list(halved(cases)))

    (result,) = halved([noisy_case()])
    first, second = (
        bootstrap(noisy_case(), result, 4, method, seed=0).posterior
        for method in (halved, backwards)
    )
    np.testing.assert_array_equal(first.std, second.std)
    np.testing.assert_array_equal(first.chain_means, second.chain_means)


@pytest.mark.parametrize("number", [0, 2])
def test_a_run_that_ends_before_all_replicates_leaves_the_image_to_a_resumed_run(number):
    def ends_early(cases):
        yield from itertools.islice(halved(cases), number)

    found = bootstrap(noisy_case(), build_result(TRUTH), 4, ends_early, seed=0)
    assert (found.status, found.posterior) == (Status.INTERRUPTED, None)


def test_an_interrupted_replicate_leaves_the_image_to_a_resumed_run():
    def interrupted(cases):
        for case in cases:
            yield build_result(TRUTH)._replace(name=case.name, status=Status.INTERRUPTED)

    found = bootstrap(noisy_case(), build_result(TRUTH), 4, interrupted, seed=0)
    assert found.status == Status.INTERRUPTED
    assert "no intervals: the replicates were not finished" in found.notes


def test_a_replicate_that_fails_leaves_the_fit_with_a_note():
    def failing(cases):
        for case in cases:
            yield build_result(TRUTH)._replace(name=case.name, error=MemoryError("none left"))

    found = bootstrap(noisy_case(), build_result(TRUTH), 4, failing, seed=0)
    assert (found.status, found.posterior) == (Status.DONE, None)
    assert found.notes[-1] == "no intervals: a replicate failed: none left"


def test_diverged_replicates_do_not_count():
    def half_diverged(cases):
        for number, result in enumerate(halved(cases)):
            yield result if number % 2 == 0 else result._replace(status=Status.DIVERGED)

    found = bootstrap(noisy_case(), build_result(TRUTH), 8, half_diverged, seed=0)
    assert found.posterior.num_samples == 4


def restored(tiny, *overrides, y=NOISY, **options) -> Result:
    config = build_config(
        "denoise_single", overrides=[*tiny, "fit.num_steps=4", "stop.rule=fixed", *overrides]
    )
    case = build_case(config.task, "photo", y)
    case = case._replace(problem=case.problem._replace(noise_std=jnp.float32(NOISE)))
    (result,) = restore([case], config, **{"keep_networks": False, **options})
    return result


def test_a_fit_with_replicates_is_the_same_fit(tiny):
    plain = restored(tiny)
    found = restored(tiny, "fit.intervals=bootstrap", "fit.num_replicates=3")
    again = restored(tiny, "fit.intervals=bootstrap", "fit.num_replicates=3")
    np.testing.assert_array_equal(found.image, plain.image)
    np.testing.assert_array_equal(found.posterior.std, again.posterior.std)
    assert found.posterior.chain_means.shape == (3, *SHAPE)
    assert not found.samples_posterior
    assert found.networks == ()
    # Networks and noise of the replicates differ.
    assert np.ptp(found.posterior.chain_means, axis=0).min() > 0


def test_replicates_of_several_networks_are_restored_by_several_networks(tiny):
    overrides = ("fit.num_seeds=2", "fit.intervals=bootstrap", "fit.num_replicates=2")
    labels = set()
    restored(tiny, *overrides, on_progress=lambda progress: labels.update(progress.names))
    assert {"photo, replicate 1", "photo, replicate 1, network 2"} <= labels


def test_an_image_that_is_no_square_keeps_its_shape(tiny):
    found = restored(tiny, "fit.intervals=bootstrap", "fit.num_replicates=2", y=NOISY[:, :36])
    assert found.posterior.std.shape == (40, 36, 1)


def test_an_image_that_cannot_have_intervals_is_refused_before_its_fit(tiny):
    overrides = [*tiny, "fit.num_steps=2", "stop.rule=fixed", "fit.intervals=bootstrap"]
    config = build_config("denoise_single", overrides=overrides)
    unknown = case_from_operator("a", np.zeros((40, 1), np.float32), lambda x: x.sum(axis=0), SHAPE)
    with pytest.raises(InputError, match="intervals need the noise level"):
        restore([unknown], config)


def test_an_error_while_intervals_are_made_leaves_the_fit(tiny):
    with mock.patch.object(restore_module, "bootstrap", side_effect=MemoryError("none left")):
        found = restored(tiny, "fit.intervals=bootstrap")
    assert found.status == Status.DONE
    assert found.notes[-1] == "no intervals: none left"


@pytest.mark.parametrize(
    "overrides",
    [
        ("fit.method=sgld",),
        ("fit.likelihood=laplace",),
        ("task.noise=salt_and_pepper",),
        ("fit.intervals=linearized", "fit.num_seeds=2"),
        ("fit.intervals=linearized", "fit.optimize=code"),
        ("fit.intervals=linearized", "fit.tv_weight=0.1"),
        ("fit.intervals=linearized", "fit.likelihood=tobit"),
        ("fit.intervals=linearized", "sgld.prior_precision=0"),
    ],
)
def test_settings_that_intervals_do_not_fit_are_refused(overrides):
    with pytest.raises(InputError, match=r"fit\.intervals="):
        build_config("denoise_single", overrides=["fit.intervals=bootstrap", *overrides])


def test_the_samples_of_the_linearized_network_are_around_the_fit(tiny):
    settings = ("fit.intervals=linearized", "fit.num_replicates=3")
    found = restored(tiny, *settings)
    kept = restored(tiny, *settings, keep_networks=True)
    assert found.networks == ()
    by_hand = linearized_posterior(
        kept.net,
        jax.tree.map(jnp.asarray, kept.params),
        jnp.asarray(kept.code),
        noisy_case().problem,
        key=intervals_key(image_key(0, "photo")),
        num_samples=3,
    )
    assert found.posterior.kind == PosteriorKind.LINEARIZED
    np.testing.assert_allclose(found.posterior.std**2, smooth(by_hand.std**2), rtol=1e-3)
    np.testing.assert_allclose(found.posterior.samples, found.image + by_hand.samples, atol=1e-6)


def test_a_sampler_needs_no_other_intervals(tiny):
    sampler = estimator_from_config(build_config(overrides=[*tiny, "fit.method=sgld"]))
    with pytest.raises(InputError, match="states intervals itself"):
        Estimator(sampler.algorithm, num_steps=sampler.num_steps, intervals=Intervals("bootstrap"))


def test_several_networks_cannot_be_linearized():
    fit = estimator_from_config(build_config("denoise_single"))
    with pytest.raises(InputError, match="expect a single network"):
        Estimator(fit.algorithm, num_networks=2, intervals=Intervals("linearized"))


def test_one_replicate_is_too_few():
    with pytest.raises(InputError, match="at least 2"):
        Intervals("bootstrap", 1)


@pytest.fixture
def photo(tmp_path, image):
    path = tmp_path / "photo.png"
    iio.imwrite(path, np.rint(image * 255).astype(np.uint8))
    return path


def test_the_command_adds_intervals_to_a_fit_and_removes_them_again(run, tiny, photo, tmp_path):
    out = tmp_path / "out"
    flags = [
        f"--reference={photo}",
        f"--output={out}",
        "--preset=denoise_single",
        "--stop=fixed",
        "--num_steps=4",
        *(f"--set={value}" for value in (*tiny, "fit.num_replicates=2")),
    ]
    status, _, errors = run(*flags, "--intervals=bootstrap")
    assert status == 0, errors
    of_intervals = {"posterior.npz", "std.png", "interval_low.png", "calibration.png"}
    assert {path.name for path in (out / "photo").iterdir()} >= of_intervals
    (summary,) = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["intervals"], summary["num_samples"]) == (
        "fit",
        "bootstrap",
        2,
    )
    restored = (out / "photo" / "restored.png").read_bytes()
    status, _, errors = run(*flags, "--overwrite")
    assert status == 0, errors
    assert not {path.name for path in (out / "photo").iterdir()} & of_intervals
    assert (out / "photo" / "restored.png").read_bytes() == restored


def test_the_command_refuses_intervals_of_samples(run, photo, tmp_path):
    status, _, errors = run(
        f"--reference={photo}",
        f"--output={tmp_path / 'out'}",
        "--method=sgld",
        "--intervals=bootstrap",
    )
    assert status != 0
    assert "fit.intervals=bootstrap expects fit.method=fit" in errors

"""Networks of an image that share its pixels by folds and are combined, in the engine."""

import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from dip_jax.base import Case, Problem, Status
from dip_jax.clipping import Limits
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import restore, restore_many
from dip_jax.ensemble import ensemble as ensemble_module
from dip_jax.ensemble import guide, host_threads
from dip_jax.ensemble.cross_validation import combine, stack
from dip_jax.ensemble.ensemble import Ensemble
from dip_jax.ensemble.guide import guide_image
from dip_jax.ensemble.similar_patches import channel_basis, filter_with_pilot
from dip_jax.errors import InputError
from dip_jax.operators import Blur, Identity, Mask
from dip_jax.presets import build_config
from dip_jax.tasks.noise_level import resolve_noise
from tests.conftest import smooth_image
from tests.engine.cases import assert_same_result, simulate, stop_after
from tests.engine.test_merge import build_result

pytestmark = pytest.mark.usefixtures("shared_programs")

ENSEMBLE = (
    "net.channels_down=4",
    "net.channels_up=4",
    "net.channels_skip=2",
    "net.input_depth=4",
    "fit.num_steps=12",
    "run.chunk=5",
    "fit.num_seeds=3",
    "stop.rule=cross_validation",
    "stop.keep_every=4",
    "fit.code=guided",
    "fit.filter=nonlocal",
)
CONFIG = build_config(overrides=list(ENSEMBLE))


CLEAN = smooth_image()[3:37, 1:35]  # the least size is 33; each network costs several filters


def noisy_case(name="a"):
    return simulate(CLEAN, CONFIG, name)


@pytest.fixture(scope="module")
def result():
    (found,) = restore([noisy_case()], CONFIG)
    return found


def test_the_folds_are_disjoint_and_together_are_all_known_pixels():
    mask = (np.random.default_rng(0).random((40, 36, 1)) > 0.3).astype(np.float32)
    measurement = jnp.asarray(smooth_image() * mask)
    problem = Problem(Mask(jnp.asarray(mask)), measurement, noise_std=0.1)
    members = list(Ensemble(5, every=1).members(Case("a", problem, (40, 36, 3))))
    assert [member.network_index for member in members] == list(range(5))
    hidden = np.stack([np.asarray(member.problem.weights) == 0 for member in members])
    known = np.broadcast_to(mask > 0, hidden.shape[1:])
    assert (hidden.sum(axis=0)[known] == 1).all()
    shares = hidden[:, known].mean(axis=1)
    assert (abs(shares - 0.2) < 0.02).all()


def test_with_more_folds_than_networks_each_sees_more_pixels_and_the_others_judge_nothing(
    monkeypatch,
):
    monkeypatch.setattr(ensemble_module, "_LEAST_JUDGED", 16)
    problem = Problem(Identity(), jnp.asarray(COLOR), noise_std=np.nan)
    ensemble = Ensemble(3, every=3, num_folds=6)
    members = list(ensemble.members(Case("a", problem, (8, 6, 3))))
    hidden = np.stack([np.asarray(member.problem.weights)[..., 0] == 0 for member in members])
    assert hidden.sum(axis=(1, 2)).tolist() == [8, 8, 8]
    assert hidden.sum(axis=0).max() == 1
    # The second estimate is right only where a network judges it, the first one only elsewhere.
    is_judged = hidden.any(axis=0)[..., None]
    first, second = np.where(is_judged, COLOR + 0.3, COLOR), np.where(is_judged, COLOR, COLOR + 0.3)
    found = combined([np.stack([first, second])] * 3, num_folds=6)
    np.testing.assert_allclose(found.image, second, atol=1e-3)


def test_a_guide_depends_only_on_the_pixels_that_its_network_sees():
    case = noisy_case()
    ensemble = Ensemble(3, every=1, is_guided=True)
    (first, *others) = ensemble.members(case)
    hidden = np.asarray(first.problem.weights) == 0
    y = np.where(hidden, 0.9, np.asarray(case.problem.measurement))
    changed = case._replace(problem=case.problem._replace(measurement=jnp.asarray(y)))
    (again, *others_again) = ensemble.members(changed)
    np.testing.assert_array_equal(first.problem.code_image, again.problem.code_image)
    for other, seen in zip(others, others_again, strict=True):
        assert (np.asarray(other.problem.code_image) != np.asarray(seen.problem.code_image)).any()


def test_there_is_no_guide_without_pixels_of_the_image():
    case = noisy_case()
    blurred = case.problem._replace(operator=Blur(jnp.full((3, 3), 1 / 9)))
    for problem in (blurred, case.problem._replace(peak=50.0)):
        members = Ensemble(2, every=1, is_guided=True).members(case._replace(problem=problem))
        assert all(member.problem.code_image is None for member in members)


def test_the_result_is_the_filtered_combination_of_guides_and_steps(result):
    case = resolve_noise(noisy_case(), CONFIG)  # with the limits at which its noise was clipped
    assert case.limits == Limits(black=True, white=True)
    kept = np.stack([network.slot.stop.kept for network in result.networks], axis=1)
    members = list(Ensemble(3, every=4, is_guided=True).members(case))
    guides = np.stack([np.asarray(member.problem.code_image) for member in members])
    estimates = np.concatenate([guides[None], kept[:, :, :34, :34]])
    hidden = [np.asarray(member.problem.weights) == 0 for member in members]
    folds = np.stack(hidden).argmax(axis=0)[..., 0]
    y = np.asarray(case.problem.measurement)
    weights = stack(estimates, y, folds, np.ones((34, 34), bool)).weights
    mean = combine(estimates, weights).mean(axis=0)
    # Guides made twice differ by their rounding on some processors.
    np.testing.assert_allclose(result.posterior.mean, mean, atol=1e-4)
    noise_std, of_members = float(case.problem.noise_std), []
    for index, member in enumerate(combine(estimates, weights)):
        noisy = np.where(hidden[index], member, y)
        of_members.append(filter_with_pilot(noisy, member, noise_std, case.limits))
    pairs = np.stack([combine(estimates, weights), of_members])
    filter_weights = stack(pairs, y, folds, np.ones((34, 34), bool)).weights
    assert (filter_weights[1] > 0.2).any()
    filtered = filter_with_pilot(y, mean, noise_std, case.limits)
    np.testing.assert_allclose(
        result.raw, combine(np.stack([mean, filtered]), filter_weights), atol=1e-4
    )
    assert result.stop_step == max(round(weights[:, 0] @ [0, 4, 8, 12]) - 1, 0)
    assert result.kept is None
    assert result.status == Status.DONE
    assert any("the networks were stopped together" in note for note in result.notes)


def test_an_ensemble_resumes_to_the_same_bits(result, tmp_path):
    store = CheckpointStore(tmp_path, every_minutes=0, keep=2)
    (partial,) = restore_many([noisy_case()], CONFIG, store=store, **stop_after(4))
    assert partial.status == Status.INTERRUPTED
    (resumed,) = restore_many([noisy_case()], CONFIG, store=store)
    assert_same_result(resumed, result)


def test_slots_and_other_images_do_not_change_the_result(result):
    config = build_config(overrides=[*ENSEMBLE, "run.slots=2"])
    found = {r.name: r for r in restore_many([noisy_case("b"), noisy_case()], config)}
    # The rounding differs on some processors.
    np.testing.assert_allclose(found["a"].image, result.image, atol=1e-4)
    assert found["a"].stop_step == result.stop_step
    assert np.abs(found["a"].image - found["b"].image).max() > 0.01


def test_an_interrupted_ensemble_returns_an_image():
    (partial,) = restore_many([noisy_case()], CONFIG, **stop_after(1))
    assert partial.status == Status.INTERRUPTED
    assert partial.image.shape == CLEAN.shape
    assert np.isfinite(partial.image).all()


COLOR = np.broadcast_to(np.float32([0.5, 0.4, 0.6]), (8, 6, 3))


def with_errors(*errors):
    """Estimates `[T, H, W, C]` of `COLOR` with these errors in all channels of the basis."""
    return np.stack([COLOR + np.float32([e, -e / 2, e / 3]) for e in errors])


def combined(kept, *, indices=(0, 1, 2), num_folds=None):
    """Combines networks with the given kept estimates, three steps apart."""
    results = [
        build_result(estimates[-1], index, kept=estimates, num_steps=3 * len(estimates))
        for index, estimates in zip(indices, kept, strict=True)
    ]
    case = Case("a", Problem(Identity(), jnp.asarray(COLOR), noise_std=np.nan), (8, 6, 3))
    ensemble = Ensemble(3, every=3, num_folds=num_folds, is_filtered=True)
    return ensemble.combine(case, [case] * 3, results)


def test_without_a_noise_level_the_mean_is_not_filtered():
    found = combined([with_errors(0.4, 0.05, 0.3)] * 3)
    np.testing.assert_allclose(found.image, with_errors(0.05)[0], atol=1e-4)
    assert found.stop_step == 5
    assert found.notes == (
        "the networks were stopped together, on average at step 6 for brightness and 6 for color differences",
    )


def test_if_neighbors_share_noise_blocks_are_hidden_and_their_centers_judge():
    clean = np.full((24, 24, 1), 0.5, np.float32)
    is_center = np.zeros((24, 24, 1), bool)
    is_center[1::3, 1::3] = True
    kept = np.stack([clean + 0.1, clean + np.where(is_center, 0, np.float32(0.3))])
    results = [build_result(kept[-1], k, kept=kept, num_steps=6) for k in range(3)]
    ensemble = Ensemble(3, every=3)
    case = Case("a", Problem(Identity(), jnp.asarray(clean), noise_std=np.nan), clean.shape)
    found = [
        ensemble.combine(case._replace(shares_noise=shares), [case] * 3, results).image
        for shares in (True, False)
    ]
    np.testing.assert_allclose(found[0], kept[1], atol=1e-4)
    np.testing.assert_allclose(found[1], kept[0], atol=0.05)
    (first, *_) = ensemble.members(case._replace(shares_noise=True))
    hidden = np.asarray(first.problem.weights)[..., 0] == 0
    blocks = hidden.reshape(8, 3, 8, 3).mean(axis=(1, 3))
    assert set(np.unique(blocks)) == {0, 1}


def test_a_note_says_that_more_steps_may_help():
    found = combined([with_errors(0.4, 0.3, 0.05)] * 3)
    assert "more steps may help" in found.notes[1]


def test_a_note_says_that_the_guide_has_most_of_the_weight():
    kept = np.stack([CLEAN + 0.3])
    results = [build_result(kept[-1], k, kept=kept, num_steps=3) for k in range(3)]
    case = noisy_case()
    problem = case.problem._replace(code_image=jnp.asarray(CLEAN))
    members = [case._replace(problem=problem, network_index=k) for k in range(3)]
    found = Ensemble(3, every=3, is_guided=True).combine(case, members, results)
    assert found.notes[0].endswith("(step 0 is the guide)")
    wrong = case._replace(problem=case.problem._replace(code_image=jnp.asarray(CLEAN + 0.3)))
    others = [wrong._replace(network_index=k) for k in range(3)]
    better = [build_result(CLEAN, k, kept=CLEAN[None], num_steps=3) for k in range(3)]
    found = Ensemble(3, every=3, is_guided=True).combine(case, others, better)
    assert "guide" not in found.notes[0]


def test_few_known_pixels_have_fewer_folds_so_that_enough_of_them_judge():
    def folds(side):
        problem = Problem(Identity(), jnp.zeros((side, side, 1)), noise_std=0.0)
        case = Case("a", problem, (side, side, 1))
        members = Ensemble(2, every=1, num_folds=16).members(case)
        hidden = [int((np.asarray(member.problem.weights) == 0).sum()) for member in members]
        return [round(side**2 / number) for number in hidden]

    assert folds(64) == [16, 16]  # 512 pixels judge
    assert folds(16) == [4, 4]  # 128 of 256
    assert folds(8) == [2, 2]


def test_fewer_folds_than_networks_are_refused():
    with pytest.raises(InputError, match="at least the number of networks, 4, got 2"):
        Ensemble(4, every=1, num_folds=2)


def test_a_network_that_is_left_out_leaves_its_fold_unjudged():
    found = combined([with_errors(0.4, 0.05)] * 2, indices=(0, 2))
    np.testing.assert_allclose(found.image, with_errors(0.05)[0], atol=1e-4)
    assert found.members.shape == (2, 8, 6, 3)


def test_networks_of_different_lengths_are_compared_at_common_steps():
    long = with_errors(0.3, 0.2, 0.0)
    found = combined([long, long[:2], long])
    np.testing.assert_allclose(found.image, long[1], atol=1e-4)


def test_networks_without_kept_estimates_are_not_combined():
    results = [build_result(np.zeros((8, 6, 3)), index) for index in range(3)]
    case = noisy_case()
    assert Ensemble(3, every=3).combine(case, [case] * 3, results) is None


def test_without_noise_the_filter_fills_the_pixels_that_are_not_known(monkeypatch):
    monkeypatch.setattr(guide, "_ROUNDS_WITH_PILOT", 2)
    clean = smooth_image()[:34, :34]
    mask = (np.random.default_rng(0).random((34, 34, 1)) > 0.4).astype(np.float32)
    problem = Problem(Mask(jnp.asarray(mask)), jnp.asarray(clean * mask), noise_std=0.0)
    case = Case("a", problem, clean.shape)
    pilot = clean + np.float32(0.05)
    results = [build_result(pilot, k, kept=pilot[None], num_steps=1) for k in range(3)]
    unfiltered = Ensemble(3, every=1).combine(case, [case] * 3, results)
    np.testing.assert_allclose(unfiltered.image, pilot, atol=1e-6)
    found = Ensemble(3, every=1, is_filtered=True).combine(case, [case] * 3, results)
    filled = guide_image(clean * mask, mask[..., 0] > 0, 0.0, pilot=unfiltered.image)
    # A combination of both in each channel of the basis, mostly the fill, whose brightness is nearer to the clean image.
    possible, made = ((x - pilot) @ channel_basis(3).T for x in (filled, found.image))
    weights = (possible * made).sum(axis=(0, 1)) / (possible**2).sum(axis=(0, 1))
    np.testing.assert_allclose(made, weights * possible, atol=3e-4)
    assert weights[0] > 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("fit.num_seeds=1",), "at least two networks.*such as denoise_single"),
        (("stop.num_folds=2",), "num_folds expects at least the number of networks"),
        (("stop.keep_every=13",), "keep_every expects at most fit.num_steps=12"),
        (
            ("stop.rule=held_out", "fit.filter=none"),
            "fit.code=guided expects networks that are stopped together",
        ),
        (("stop.rule=fixed", "fit.code=uniform"), "fit.filter=nonlocal expects networks"),
        (("fit.method=sgld", "fit.code=uniform"), "fit.filter=nonlocal expects networks"),
    ],
)
def test_settings_that_contradict_an_ensemble_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        build_config(overrides=[*ENSEMBLE, *overrides])


@pytest.mark.parametrize("operator", [Mask(jnp.ones((8, 6, 1))), Blur(jnp.full((3, 3), 1 / 9))])
def test_operators_with_arrays_predict_the_measurement(operator):
    kept = with_errors(0.4, 0.05)
    results = [build_result(kept[-1], index, kept=kept, num_steps=6) for index in range(3)]
    measurement = operator(jnp.asarray(COLOR))
    case = Case("a", Problem(operator, measurement, noise_std=np.nan), (8, 6, 3))
    found = Ensemble(3, every=3).combine(case, [case] * 3, results)
    np.testing.assert_allclose(found.image, kept[1], atol=1e-3)


def test_a_measurement_without_rows_and_columns_is_refused():
    case = Case("a", Problem(Identity(), jnp.zeros(30), noise_std=0.1), (40, 40, 1))
    with pytest.raises(InputError, match="with rows, columns and channels"):
        Ensemble(3, every=3).prepared(case)


def test_a_note_says_that_guide_and_filter_are_left_out():
    ensemble = Ensemble(3, every=3, is_guided=True, is_filtered=True)
    case = noisy_case()
    assert ensemble.prepared(case).notes == case.notes
    unknown = case._replace(problem=case.problem._replace(noise_std=np.float32(np.nan)))
    (note,) = ensemble.prepared(unknown).notes[len(case.notes) :]
    assert note.startswith("without guide and filter")


def test_an_image_with_as_many_channels_as_the_code_has_no_guide():
    ensemble = Ensemble(3, every=3, is_guided=True, code_depth=3)
    case = noisy_case()
    assert ensemble.prepared(case).notes[-1].startswith("without guide")
    assert all(member.problem.code_image is None for member in ensemble.members(case))


def test_a_combination_that_is_not_finite_is_not_filtered():
    kept = np.full((1, *CLEAN.shape), np.nan, np.float32)
    results = [build_result(kept[-1], k, kept=kept, num_steps=3) for k in range(3)]
    case = noisy_case()
    found = Ensemble(3, every=3, is_filtered=True).combine(case, [case] * 3, results)
    assert np.isnan(found.image).all()


def test_the_threads_of_blas_are_limited_until_the_last_filter_has_ended():
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        with host_threads.one_thread_of_blas():
            with host_threads.one_thread_of_blas():
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {2}


def test_a_measurement_without_pixels_is_refused():
    sinogram = np.zeros((30, 60, 1), np.float32)
    config = build_config("ct", overrides=["stop.rule=cross_validation", "fit.num_seeds=2"])
    case = Case("a", Problem(Identity(), jnp.asarray(sinogram), noise_std=0.1), (40, 40, 1))
    with pytest.raises(InputError, match="expects a measurement of pixels, got task ct"):
        restore([case], config)


def test_the_folds_of_an_image_depend_on_the_seed_and_its_name():
    def hidden(seed, name):
        (first, *_) = Ensemble(4, every=1).members(noisy_case(name), seed)
        return np.asarray(first.problem.weights) == 0

    base = hidden(0, "a")
    np.testing.assert_array_equal(base, hidden(0, "a"))
    assert (base != hidden(1, "a")).any()
    assert (base != hidden(0, "b")).any()

import numpy as np
import pytest

import dip_jax
from dip_jax import losses, schedules, sgld
from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity

pytestmark = pytest.mark.usefixtures("shared_programs")

NET = dip_jax.nets.deep_decoder(depth=1, width=4, input_depth=4)


def restored(name, channels, estimator):
    y = np.random.default_rng(0).random((34, 36, channels), np.float32)
    case = dip_jax.case_from_operator(name, y, Identity(), y.shape, noise_std=0.1, reference=y)
    return case, dip_jax.restore([case], estimator)[0]


def test_results_of_objects_are_written_as_the_command_writes_them(tmp_path):
    estimator = dip_jax.Estimator(dip_jax.build_fit(NET), num_steps=6)
    pairs = [restored("photo", 3, estimator), restored("bands", 5, estimator)]
    summaries = dip_jax.write_run(tmp_path / "out", iter(pairs))
    for name in (
        "index.html",
        "summary.csv",
        "photo/sheet.png",
        "photo/curve.png",
        "contact-1.png",
    ):
        assert (tmp_path / "out" / name).stat().st_size > 0
    saved = dip_jax.load_run(tmp_path / "out")
    assert [saved[name].summary for name in ("photo", "bands")] == summaries
    assert saved["photo"].config is None
    np.testing.assert_allclose(saved["photo"].image, pairs[0][1].image, atol=0.51 / 255)
    np.testing.assert_array_equal(saved["bands"].image, pairs[1][1].image)
    np.testing.assert_allclose(
        saved["photo"].curve["loss"][-1], pairs[0][1].curve["loss"][-1], atol=1e-6
    )


@pytest.mark.slow
def test_the_posterior_of_an_own_sampler_is_written(tmp_path):
    fit = dip_jax.build_fit(
        NET,
        optimizer=sgld.sgld(schedules.constant(1e-6)),
        extra_args=dip_jax.sampler_args(losses.gaussian),
        perturbation=0.0,
    )
    chain = dip_jax.build_sgld(
        fit, samples=dip_jax.every_nth(2, burn_in=4, num_steps=30), keep_samples=3
    )
    case, result = restored("a", 1, dip_jax.Estimator(chain, num_steps=30, num_networks=2))
    (summary,) = dip_jax.write_run(tmp_path / "out", [(case, result)])
    assert (summary["method"], summary["seed"]) == ("sgld", None)
    saved = dip_jax.load_run(tmp_path / "out")["a"]
    np.testing.assert_array_equal(saved.std, result.posterior.std)
    assert len(saved.samples) == 6


def test_an_earlier_run_is_replaced_only_if_asked(tmp_path):
    pair = restored("a", 1, dip_jax.Estimator(dip_jax.build_fit(NET), num_steps=2))
    dip_jax.write_run(tmp_path, [pair])
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="overwrite=True"):
        dip_jax.write_run(tmp_path, [pair])
    dip_jax.write_run(tmp_path, [pair], overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_failed_result_is_refused(tmp_path):
    case, result = restored("a", 1, dip_jax.Estimator(dip_jax.build_fit(NET), num_steps=2))
    failed = result._replace(status=dip_jax.Status.FAILED, error=ValueError("broken"))
    with pytest.raises(InputError, match="broken"):
        dip_jax.write_run(tmp_path, [(case, failed)])

"""Output folders that are read back, against the results that were written."""

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.config import Config, FitConfig, to_json
from dip_jax.errors import InputError
from dip_jax.images.read import StoredImage
from dip_jax.posterior import to_arviz
from dip_jax.report.image import report_image
from dip_jax.report.saved_run import load_run
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import write_run_summary
from tests.storage.bucket import install

SAMPLING = Config(fit=FitConfig(method="sgld"))
HALF_A_LEVEL = 0.5 / 255 + 1e-6


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Draws nothing, which takes most of the time of a report."""
    for name in ("image.draw_curve", "image.draw_sheet", "posterior.draw_std"):
        monkeypatch.setattr(f"dip_jax.report.{name}", lambda *args, **options: None)
    for name in ("posterior.draw_traces", "posterior.draw_calibration"):
        monkeypatch.setattr(f"dip_jax.report.{name}", lambda *args: None)


@pytest.fixture
def template(case):
    """An 8-bit PNG of the shape of the case."""
    return StoredImage(np.zeros(case.shape, np.float32))


def write_run(output, case, result, config, template, *others):
    """Writes the files of a run with one restored image."""
    summary = report_image(output, case, result, config, template)
    (output / "config.json").write_text(to_json(config))
    write_run_summary(output, [summary, *others])
    return summary


def assert_same_curve(found, curve):
    """Compares every tenth step and the last one, where the curve has values."""
    is_logged = (curve["step"] % 10 == 0) | (curve["step"] == curve["step"][-1])
    kept = {name: v[is_logged] for name, v in curve.items() if np.isfinite(v[is_logged]).any()}
    assert set(found) == set(kept)
    for name, values in kept.items():
        np.testing.assert_allclose(found[name], values, atol=1e-7, equal_nan=True)


def test_a_fit_comes_back_as_it_was_written(case, result, template, tmp_path):
    summary = write_run(tmp_path, case, result, Config(), template)
    (name, saved), *others = load_run(str(tmp_path)).items()
    assert (name, others) == ("photo", [])
    assert saved.summary == summary
    assert saved.summary["status"] is result.status
    assert saved.config == Config()
    assert saved.path == tmp_path / "photo/restored.png"
    np.testing.assert_array_equal(saved.values, iio.imread(saved.path))
    assert saved.image.dtype == np.float32
    np.testing.assert_allclose(saved.image, result.image.clip(0, 1), atol=HALF_A_LEVEL)
    assert_same_curve(saved.curve, result.curve)
    assert saved.curve["step"].tolist() == [0, 10, 20, 24]
    assert (saved.mean, saved.std, saved.interval, saved.median, saved.samples) == (None,) * 5
    assert (saved.interval_state, saved.traces, saved.trace_names) == (None, None, ())


@pytest.mark.parametrize(
    ("suffix", "dtype", "low", "high"),
    [
        (".tif", np.uint16, 100.0, 4000.0),
        (".npy", np.float32, -3.0, 5.5),
        (".png", np.uint8, 0, 255),
    ],
)
def test_values_have_the_units_of_the_file_and_images_do_not(
    case, result, tmp_path, suffix, dtype, low, high
):
    alpha = np.full(case.shape[:2], 7, dtype) if suffix == ".tif" else None
    template = StoredImage(
        np.zeros(case.shape, np.float32), alpha, np.dtype(dtype), low, high, suffix
    )
    case = case._replace(value_range=(low, high))
    write_run(tmp_path, case, result, Config(), template)
    saved = load_run(tmp_path)["photo"]
    assert (saved.values.dtype, saved.values.shape) == (dtype, case.shape)
    inside = result.image.clip(0, 1) if dtype == np.uint8 else result.image
    expected = low + inside.astype(np.float64) * (high - low)
    step = 1e-5 if dtype == np.float32 else 0.5
    np.testing.assert_allclose(saved.values, expected, atol=step + 1e-6)
    np.testing.assert_allclose(saved.image, inside, atol=step / (high - low) + 1e-6)


def test_the_samples_of_chains_come_back(case, sampled, template, tmp_path):
    write_run(tmp_path, case, sampled, SAMPLING, template)
    saved, posterior = load_run(tmp_path)["photo"], sampled.posterior
    assert saved.config.fit.method == "sgld"
    np.testing.assert_array_equal(saved.std, posterior.std)
    middle = saved.interval.mean(axis=0)
    np.testing.assert_allclose(middle, posterior.mean, atol=1e-6)
    np.testing.assert_allclose(saved.interval[1] - middle, 1.6448536 * posterior.std, rtol=1e-5)
    np.testing.assert_array_equal(saved.mean, posterior.mean)
    np.testing.assert_array_equal(saved.samples[0], posterior.samples[:2])
    np.testing.assert_array_equal(saved.samples[1, 0], posterior.samples[2])
    assert saved.samples.shape == (2, 2, *case.shape)
    assert saved.trace_names == posterior.trace_names
    np.testing.assert_array_equal(saved.traces, posterior.traces)
    assert saved.interval_state.startswith("not converged")
    assert saved.median is None
    for found, curve in zip(saved.network_curves, sampled.network_curves, strict=True):
        assert_same_curve(found, curve)


def test_the_samples_that_come_back_are_those_of_arviz(case, sampled, template, tmp_path):
    pytest.importorskip("arviz")
    write_run(tmp_path, case, sampled, SAMPLING, template)
    found, expected = load_run(tmp_path)["photo"].to_arviz(), to_arviz(sampled.posterior)
    for group in ("posterior", "kept"):
        assert dict(found[group].sizes) == dict(expected[group].sizes)
        for name, values in expected[group].data_vars.items():
            np.testing.assert_array_equal(found[group][name], values.astype(np.float32))


def test_a_fit_has_no_samples_for_arviz(case, result, template, tmp_path):
    write_run(tmp_path, case, result, Config(), template)
    with pytest.raises(InputError, match="to_arviz expects"):
        load_run(tmp_path)["photo"].to_arviz()


def test_the_median_of_seeds_comes_back(case, seeds, template, tmp_path):
    write_run(tmp_path, case, seeds, Config(fit=FitConfig(num_seeds=3)), template)
    saved = load_run(tmp_path)["photo"]
    median = np.median(seeds.posterior.chain_means, axis=0).clip(0, 1)
    np.testing.assert_allclose(saved.median, median, atol=HALF_A_LEVEL)
    assert len(saved.network_curves) == 3
    for found, curve in zip(saved.network_curves, seeds.network_curves, strict=True):
        assert_same_curve(found, curve)
    assert_same_curve(saved.curve, seeds.curve)


def test_a_bucket_is_read_like_a_folder_and_arrays_only_on_request(
    case, sampled, template, tmp_path, monkeypatch
):
    monkeypatch.setenv("EPATH_USE_TF", "false")
    write_run(tmp_path / "bucket/out", case, sampled, SAMPLING, template)
    bucket = install(tmp_path)
    saved = load_run("gs://bucket/out")["photo"]
    assert len(bucket.requests) < 10
    local = load_run(tmp_path / "bucket/out")["photo"]
    assert saved.summary == local.summary
    for name in ("values", "image", "mean", "std", "interval", "samples", "traces"):
        np.testing.assert_array_equal(getattr(saved, name), getattr(local, name))
    assert saved.median is None


def test_an_image_that_failed_is_listed_without_an_image(case, result, template, tmp_path):
    failed = failure_summary("a/broken", Config(), "out of memory")
    write_run(tmp_path, case, result, Config(), template, failed)
    run = load_run(tmp_path)
    assert list(run) == ["photo", "a/broken"]
    assert run["a/broken"].summary["error"] == "out of memory"
    with pytest.raises(InputError, match=r"a/broken: .*got none \(status failed: out of memory\)"):
        _ = run["a/broken"].image


def test_bands_with_a_range_each_have_values_only(case, result, template, tmp_path):
    write_run(tmp_path, case._replace(value_range=None), result, Config(), template)
    saved = load_run(tmp_path)["photo"]
    assert saved.values.shape == case.shape
    with pytest.raises(InputError, match="expected one range of values, got bands with a range"):
        _ = saved.image


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "nowhere: expected an output folder, got no folder"),
        ("", "expected an output folder of dip_jax, got one without summary.json"),
        ("out/photo", "got that of one image; pass the folder above"),
    ],
)
def test_another_folder_is_refused(case, result, template, tmp_path, folder, message):
    write_run(tmp_path / "out", case, result, Config(), template)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path / folder)


DAMAGED = (b"", b"[1, 2", b'{"step": "x"}', b"[[]]", b"\xff\x93NUMPY")


def test_a_damaged_file_is_named(case, sampled, template, tmp_path):
    write_run(tmp_path, case, sampled, SAMPLING, template)
    for name, attribute in {
        "summary.json": "summary",
        "config.json": "config",
        "photo/restored.png": "image",
        "photo/metrics.jsonl": "curve",
        "photo/posterior.npz": "samples",
    }.items():
        content = (tmp_path / name).read_bytes()
        for damaged in (*DAMAGED, content[: 3 * len(content) // 5]):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(InputError, match=name.rpartition("/")[2]):
                getattr(load_run(tmp_path)["photo"], attribute)
        (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize("name", ["restored.png", "metrics.jsonl"])
def test_a_missing_file_is_named(case, result, template, tmp_path, name):
    write_run(tmp_path, case, result, Config(), template)
    (tmp_path / "photo" / name).unlink()
    saved = load_run(tmp_path)["photo"]
    with pytest.raises(InputError, match=r"photo.*expected .*, got none"):
        _ = saved.image, saved.curve

"""The range of an image: chosen from its values, applied, and undone."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from dip_jax.errors import InputError
from dip_jax.images.read import read_image
from dip_jax.images.value_range import choose_range
from dip_jax.images.write import to_stored_values
from tests.images.image_files import HEIGHT, WIDTH, noise


def limits(values, setting="auto"):
    found = choose_range(values, setting)
    return found.low, found.high


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_integers_span_the_bits_that_they_use(bits):
    values = np.linspace(0, 0.7 * 2**bits, 1000).astype(np.uint16)
    assert limits(values) == (0, 2**bits - 1)
    assert limits(values, "container") == (0, 65535)
    assert limits(values, "0,1000") == (0, 1000)


@pytest.mark.parametrize("level", [1, 60, 255])
def test_eight_bits_span_their_container_however_dark(level):
    assert limits(np.arange(level + 1, dtype=np.uint8)) == (0, 255)


def test_a_window_in_the_middle_spans_the_range():
    low, high = limits(np.linspace(30_000, 34_000, 1000).astype(np.uint16))
    assert 29_000 < low < 30_000
    assert 34_000 < high < 35_000
    low, high = limits(np.linspace(-500, 3000, 1000).astype(np.int16))
    assert -1000 < low < -500
    assert 3000 < high < 3500


def test_floats_of_0_to_1_span_it():
    assert limits(np.linspace(0.1, 0.9, 100)) == (0, 1)
    assert choose_range(np.linspace(0.1, 0.9, 100), "auto").note == ""


@given(
    scale=st.floats(1e-6, 1e6),
    shift=st.floats(-2, 2),
    seed=st.integers(0, 100),
)
def test_pixels_do_not_depend_on_scale_and_offset_of_the_values(scale, shift, seed):
    values = np.random.default_rng(seed).random(1000) + 50  # far from 0 and from [0, 1]

    def pixels(values):
        low, high = limits(values)
        return (values - low) / (high - low)

    changed = scale * (values + (shift if shift > -2 else 0))
    if not 0 <= changed.min() <= changed.max() <= 1.1:
        np.testing.assert_allclose(pixels(changed), pixels(values), atol=1e-6)


@given(factor=st.floats(10, 1e12), dtype=st.sampled_from([np.float32, np.float64, np.uint16]))
def test_one_outlier_does_not_change_the_range(factor, dtype):
    values = np.linspace(0, 900, 10_000).astype(dtype)
    expected = limits(values)
    values[17] = min(900 * factor, 65535 if dtype == np.uint16 else np.inf)
    assert limits(values) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("level", [0.0, -3.0, 7.0])
def test_a_constant_image_lies_within_its_range(level):
    low, high = limits(np.full(100, level))
    assert low <= level < high


@pytest.mark.parametrize("setting", ["", "full", "1", "2,1", "nan,1", "0,inf", "1,2,3"])
def test_other_settings_are_refused(setting):
    with pytest.raises(InputError, match="auto, container, or LOW,HIGH"):
        choose_range(np.zeros(3), setting)


def test_outliers_come_back_and_everything_else_is_fitted(tmp_path):
    values = (100 * noise(1, np.float64)).astype(np.float64)
    values[3, 4], values[5, 6] = 1e5, -2e7
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack")
    stored = read_image(tmp_path / "in.tif")
    assert sorted(np.argwhere(~stored.is_known)[:, :2].tolist()) == [[3, 4], [5, 6]]
    assert 0 <= stored.pixels.min() <= stored.pixels.max() <= 1
    assert "2 values lie far outside" in stored.notes[-1]
    restored = to_stored_values(np.full((HEIGHT, WIDTH, 1), 0.5), stored)
    assert (restored[3, 4, 0], restored[5, 6, 0]) == (1e5, -2e7)
    restored[[3, 5], [4, 6]] = 50
    np.testing.assert_allclose(restored, (stored.low + stored.high) / 2, rtol=0.2)


def test_a_range_without_any_value_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", 100 + noise(1, np.float32), photometric="minisblack")
    with pytest.raises(InputError, match="100% are farther outside"):
        read_image(tmp_path / "in.tif", value_range="0,1")


def test_the_note_tells_the_ends_of_a_small_range_around_a_large_number_apart():
    note = choose_range(np.linspace(1e6, 1e6 + 1, 1000), "auto").note
    assert note.startswith("values from 999999.951 to 1000001.05 are mapped")
    assert choose_range(np.linspace(-3, 500, 1000), "auto").note.startswith("values from -27.59")


@pytest.mark.parametrize(
    ("whites", "are_bands"), [((1, 1000, 10), True), ((900, 1000, 600), False)]
)
def test_three_channels_of_unlike_ranges_are_bands_of_their_own(tmp_path, whites, are_bands):
    values = np.random.default_rng(0).random((HEIGHT, WIDTH, 3)) * whites
    tifffile.imwrite(tmp_path / "x.tif", values.astype(np.float32), photometric="rgb")
    stored = read_image(tmp_path / "x.tif")
    assert np.ndim(stored.low) == are_bands
    spread = np.ptp(stored.pixels, axis=(0, 1))
    assert (spread.min() > 0.8) == are_bands
    np.testing.assert_allclose(to_stored_values(stored.pixels, stored), values, rtol=1e-4)


def write_tiff(path, values):
    tifffile.imwrite(path, values, photometric="minisblack")
    return path


@pytest.mark.parametrize(
    ("dtype", "far", "fraction"),
    [
        (np.uint16, 65535, 0.01),
        (np.float32, 50_000, 0.01),
        (np.float32, -9999, 0.3),
        (np.float32, -3.4e38, 0.05),
    ],
)
def test_a_far_value_that_repeats_has_no_effect_and_is_kept(tmp_path, dtype, far, fraction):
    rng = np.random.default_rng(0)
    clean = (rng.random((HEIGHT, WIDTH)) * 3000 + 100).astype(dtype)
    is_far = rng.random(clean.shape) < fraction
    usual = read_image(write_tiff(tmp_path / "usual.tif", clean))
    stored = read_image(write_tiff(tmp_path / "x.tif", np.where(is_far, dtype(far), clean)))
    np.testing.assert_array_equal(stored.is_known[..., 0], ~is_far)
    assert abs(stored.high - usual.high) < 0.01 * usual.high
    assert any("are kept unchanged" in note for note in stored.notes)
    restored = to_stored_values(np.full_like(stored.pixels, 0.5), stored)[..., 0]
    assert (restored[is_far] == dtype(far)).all()
    assert (restored[~is_far] != dtype(far)).all()


def test_ink_on_paper_is_no_far_value(tmp_path):
    rng = np.random.default_rng(0)
    page = np.where(rng.random((HEIGHT, WIDTH)) < 0.04, 0, 60000) + rng.normal(
        0, 500, (HEIGHT, WIDTH)
    )
    stored = read_image(write_tiff(tmp_path / "x.tif", np.clip(page, 0, 65535).astype(np.uint16)))
    assert stored.is_known is None


def test_a_range_that_most_values_miss_is_refused(tmp_path):
    path = write_tiff(
        tmp_path / "x.tif", np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    )
    with pytest.raises(InputError, match="are farther outside; set another --range"):
        read_image(path, value_range="0,1")


def test_a_band_without_a_number_is_refused_by_its_place(tmp_path):
    bands = np.random.default_rng(0).random((HEIGHT, WIDTH, 4)).astype(np.float32)
    bands[..., 2] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", bands, photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match="no value of band 3 is a finite number"):
        read_image(tmp_path / "x.tif")

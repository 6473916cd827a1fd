"""FITS files come back in their type, with the header of their image; astropy is the independent reader."""

import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dip_jax.errors import InputError
from dip_jax.images.decoded import Tags
from dip_jax.images.fits_file import scale_header
from dip_jax.images.read import StoredImage, peek_shape, read_image
from dip_jax.images.write import stored_like, to_stored_values, write_image
from tests.images.image_files import HEIGHT, WIDTH, noise, round_trip


def counts(dtype, shape=(HEIGHT, WIDTH)):
    """Values of which no two rows or columns are equal, some of them negative if the type has a sign."""
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    return (values - 300 * (np.dtype(dtype).kind != "u")).astype(dtype)


def save(path, *units):
    fits.HDUList(list(units)).writeto(path)
    return path


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]
)
def test_an_image_keeps_its_type_its_values_and_the_order_of_its_rows(tmp_path, dtype):
    values = counts(dtype) if dtype != np.uint8 else noise(1, np.uint8)
    stored, target = round_trip(save(tmp_path / "in.fits", fits.PrimaryHDU(values)))
    written = fits.getdata(target)
    assert (target.name, stored.dtype, stored.pixels.shape) == (
        "restored.fits",
        dtype,
        (HEIGHT, WIDTH, 1),
    )
    assert written.dtype.newbyteorder("=") == dtype
    np.testing.assert_allclose(written, values, atol=1e-3, rtol=1e-6)
    assert (stored.pixels[0, 0] < stored.pixels[1, 0]).all() or dtype == np.uint8


def test_the_header_is_carried_over_except_for_what_describes_the_old_numbers(tmp_path):
    unit = fits.PrimaryHDU(counts(np.float32))
    unit.header.update({"OBJECT": "M31", "BUNIT": "adu", "CRPIX1": 7.5, "DATAMAX": 5.0})
    unit.header.add_history("flat-fielded")
    unit.add_checksum()
    _, target = round_trip(save(tmp_path / "in.fits", unit))
    header = fits.getheader(target)
    assert [header[name] for name in ("OBJECT", "BUNIT", "CRPIX1")] == ["M31", "adu", 7.5]
    assert header["HISTORY"] == ["flat-fielded"]
    assert not {"DATAMAX", "CHECKSUM", "DATASUM"} & set(header)


def test_three_axes_are_bands(tmp_path):
    values = counts(np.float32, (5, HEIGHT, WIDTH))
    path = save(tmp_path / "in.fits", fits.PrimaryHDU(values))
    stored, target = round_trip(path)
    assert stored.pixels.shape == peek_shape(path) == (HEIGHT, WIDTH, 5)
    assert "5 bands" in stored.notes[0]
    np.testing.assert_allclose(fits.getdata(target), values, atol=1e-2)


def test_axes_of_length_1_are_dropped_and_come_back(tmp_path):
    values = counts(np.float32, (1, 1, HEIGHT, WIDTH))
    stored, target = round_trip(save(tmp_path / "in.fits", fits.PrimaryHDU(values)))
    assert stored.pixels.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(fits.getdata(target), values, atol=1e-3)


def test_the_first_image_may_follow_an_empty_unit_and_a_table(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(3))])
    science = fits.ImageHDU(counts(np.float32), name="SCI")
    weights = fits.ImageHDU(counts(np.float32)[::-1], name="WHT")
    path = save(tmp_path / "in.fits", fits.PrimaryHDU(), table, science, weights)
    stored, target = round_trip(path)
    assert stored.notes[0] == "first of 2 pages taken"
    np.testing.assert_allclose(fits.getdata(target), science.data, atol=1e-3)
    assert fits.getheader(target)["EXTNAME"] == "SCI"
    other = read_image(path, page=1)
    np.testing.assert_array_equal(other.pixels, stored.pixels[::-1])


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_compressed_image_is_read(tmp_path, dtype):
    unit = fits.CompImageHDU(counts(dtype), compression_type="GZIP_1", quantize_level=0)
    path = save(tmp_path / "in.fits", fits.PrimaryHDU(), unit)
    stored, target = round_trip(path)
    assert (stored.dtype, peek_shape(path)) == (dtype, (HEIGHT, WIDTH, 1))
    np.testing.assert_allclose(fits.getdata(target), counts(dtype), atol=1e-3)


def test_a_scale_is_applied_and_the_result_is_float(tmp_path):
    save(tmp_path / "in.fits", fits.PrimaryHDU(counts(np.int16)))
    # astropy would scale the numbers; other programs write the cards alone.
    for keyword, value in (("BSCALE", 0.5), ("BZERO", 10.0)):
        fits.setval(tmp_path / "in.fits", keyword, value=value)
    stored, target = round_trip(tmp_path / "in.fits")
    assert stored.notes[0].startswith("integers with a scale or with blank values")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(fits.getdata(target), 10 + 0.5 * counts(np.int16), atol=1e-2)
    assert not {"BSCALE", "BZERO"} & set(fits.getheader(target))


def test_blank_and_nan_are_unknown(tmp_path):
    integers, floats = counts(np.int16), counts(np.float32)
    integers[2, 3], floats[4, 5] = -32768, np.nan
    unit = fits.PrimaryHDU(integers)
    unit.header["BLANK"] = -32768
    for name, hdu, at in (
        ("a.fits", unit, (2, 3)),
        ("b.fits", fits.PrimaryHDU(floats), (4, 5)),
    ):
        stored, target = round_trip(save(tmp_path / name, hdu))
        assert np.argwhere(~stored.is_known[..., 0]).tolist() == [list(at)]
        assert np.isfinite(fits.getdata(target)).all()  # filled in
        target.unlink()
    assert "BLANK" not in stored.tags.fits_header


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (fits.PrimaryHDU(np.zeros(99)), r"2 axes, or of 3 .* got \(99,\)"),
        (fits.PrimaryHDU(np.zeros((2, 2, 40, 40))), r"got \(2, 2, 40, 40\)"),
        (fits.PrimaryHDU(), "got no image"),
        (fits.PrimaryHDU(np.zeros((40, 40), np.int64)), "got >?int64|got >i8"),
    ],
)
def test_what_is_not_an_image_is_refused(tmp_path, unit, words):
    save(tmp_path / "in.fits", unit)
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "in.fits")


def test_without_astropy_one_sentence_tells_how_to_install_it(tmp_path, monkeypatch):
    save(tmp_path / "in.fits", fits.PrimaryHDU(counts(np.float32)))
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    with pytest.raises(InputError, match=r"needs the library astropy; .*`pip install astropy`"):
        read_image(tmp_path / "in.fits")


def test_astropy_is_not_loaded_for_other_files():
    code = "import sys, dip_jax.images.write; print('astropy' in sys.modules, 'pillow_heif' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["False", "False"]


def world_header(**cards):
    header = fits.Header()
    header.update(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 40.0}
        | {"CRPIX1": 12.0, "CRPIX2": 30.5}
        | cards
    )
    return header


@pytest.mark.parametrize(
    "cards",
    [
        {"CDELT1": -1e-3, "CDELT2": 2e-3},
        {"CDELT1": -1e-3, "CDELT2": 1e-3, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8},
        {"CD1_1": -1e-3, "CD1_2": 2e-4, "CD2_1": 3e-4, "CD2_2": 1e-3},
    ],
)
def test_world_coordinates_of_a_larger_image_point_to_the_same_sky(cards):
    old = world_header(**cards)
    text, notes = scale_header(old.tostring(), (4.0, 4.0))
    assert notes == ()
    before, after = WCS(old), WCS(fits.Header.fromstring(text))
    x, y = np.array([0.0, 5.0, 17.0]), np.array([3.0, 8.0, 2.0])
    # A pixel is 4 x 4 pixels now; its center lies between the second and the third of them.
    expected = before.wcs_pix2world(x, y, 0)
    found = after.wcs_pix2world(4 * x + 1.5, 4 * y + 1.5, 0)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_world_coordinates_that_do_not_fit_are_left_out_with_a_note():
    old = world_header(CDELT1=1e-3, CDELT2=1e-3, OBJECT="M31")
    text, notes = scale_header(old.tostring(), (2.0, 1.0))
    assert set(fits.Header.fromstring(text)) == {"OBJECT"}
    assert "world coordinates do not fit" in notes[0]
    distorted = world_header(CDELT1=1e-3, CDELT2=1e-3, A_ORDER=2, A_2_0=1e-5)
    distorted["CTYPE1"] = "RA---TAN-SIP"
    text, notes = scale_header(distorted.tostring(), (2.0, 2.0))
    header = fits.Header.fromstring(text)
    assert (header["CTYPE1"], "A_2_0" in header) == ("RA---TAN", False)
    assert "distortion terms" in notes[0]


def test_an_enlarged_image_has_the_new_size_and_scaled_coordinates(tmp_path):
    unit = fits.PrimaryHDU(counts(np.float32), header=world_header(CDELT1=1e-3, CDELT2=1e-3))
    stored = read_image(save(tmp_path / "in.fits", unit))
    template = stored_like(stored, (2 * HEIGHT, 2 * WIDTH, 1))
    write_image(tmp_path / "out.fits", template.pixels, template)
    with fits.open(tmp_path / "out.fits") as units:
        assert units[0].shape == (2 * HEIGHT, 2 * WIDTH)
        assert units[0].header["CDELT1"] == 5e-4
        assert units[0].header["CRPIX1"] == 23.5
    color = stored_like(stored, (HEIGHT, WIDTH, 3))
    write_image(tmp_path / "color.fits", color.pixels, color)
    assert fits.getdata(tmp_path / "color.fits").shape == (3, HEIGHT, WIDTH)


def test_a_template_made_in_python_needs_no_header(tmp_path):
    pixels = noise(3, np.float32)
    template = StoredImage(pixels, None, np.dtype(np.float32), 0.0, 1.0, ".fits", Tags())
    write_image(tmp_path / "out.fits", pixels, template)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "out.fits"), np.moveaxis(pixels, -1, 0))
    np.testing.assert_array_equal(to_stored_values(pixels, template), pixels)

"""Reading the files of one image."""

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from astropy.io import fits

from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.batch.load import ImageFiles, load_input
from dip_jax.config import replace_fields
from dip_jax.errors import InputError
from dip_jax.images.write import to_stored_values, write_image
from dip_jax.operators.radon import Radon
from dip_jax.presets import build_config
from dip_jax.tasks.cases import build_case


def write(path, image):
    path.parent.mkdir(exist_ok=True)
    iio.imwrite(path, np.rint(255 * image).astype(np.uint8))
    return path


def test_a_change_of_the_mask_is_a_change_of_the_image(tmp_path, image):
    path = write(tmp_path / "x.png", image)
    mask = write(tmp_path / "mask.png", np.eye(40, 36))
    (lazy,) = list_inputs(build_config("inpaint"), InputFiles([path], masks=[mask]))
    before = lazy.digest()
    write(mask, np.eye(40, 36, 1))
    assert lazy.digest() != before


def test_a_reference_is_matched_by_stem_and_needs_the_shape_of_the_image(tmp_path, image):
    images = [write(tmp_path / f"{name}.png", image) for name in ("a", "b", "c")]
    write(tmp_path / "clean" / "a.png", image)
    write(tmp_path / "clean" / "b.png", image[:-1])
    files = InputFiles(images, references=[tmp_path / "clean"])
    good, too_small, missing = list_inputs(build_config(), files)
    np.testing.assert_allclose(good.load().case.reference, image, atol=1 / 255)
    with pytest.raises(InputError, match=r"got \(39, 36, 3\)"):
        too_small.load()
    with pytest.raises(InputError, match="no reference has its stem 'c'"):
        missing.load()


def test_a_reference_without_an_input_is_degraded(tmp_path, image):
    path = write(tmp_path / "x.png", image)
    (lazy,) = list_inputs(build_config(), InputFiles(references=[path]))
    case = lazy.load().case
    assert 0.05 < np.std(case.problem.measurement - case.reference) < 0.15  # 25 / 255, clipped
    again = lazy.load().case
    np.testing.assert_array_equal(again.problem.measurement, case.problem.measurement)


@pytest.mark.parametrize(("shape", "restored"), [((40, 36), (40, 36)), ((40, 36, 3), (40, 36, 3))])
def test_a_measured_array_is_restored_as_a_float_array(tmp_path, shape, restored):
    np.save(tmp_path / "y.npy", np.ones(shape, np.complex64))
    config = build_config("compressed_sensing")
    (lazy,) = list_inputs(config, InputFiles([tmp_path / "y.npy"]))
    assert lazy.shape == (*shape, 1)[:3]
    case, template = lazy.load()
    assert template.pixels.shape == case.shape == lazy.shape
    pixels = np.linspace(-0.5, 1.5, np.prod(shape)).reshape(case.shape)  # nothing is clipped
    write_image(tmp_path / "x.npy", pixels, template)
    written = np.load(tmp_path / "x.npy")
    assert (written.dtype, written.shape) == (np.float32, restored)
    np.testing.assert_allclose(written.reshape(case.shape), pixels, atol=1e-6)
    assert any("100.0% of the frequencies" in note for note in case.notes)


def test_an_array_is_an_image_for_tasks_that_measure_images(tmp_path, image):
    for folder, values in (("in", 900 * image), ("clean", 900 * image)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "x.npz", np.float32(values))
    case, template = load(build_config(), tmp_path / "in", references=[tmp_path / "clean"])
    low, high = case.value_range
    np.testing.assert_allclose(low + case.reference * (high - low), 900 * image, atol=1e-2)
    assert (template.suffix, template.tags.layout) == (".npy", "HWC")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_the_mask_of_inpainting_may_be_an_array(tmp_path, image, dtype):
    path = write(tmp_path / "x.png", image)
    known = np.eye(40, 36) == 0
    np.save(tmp_path / "mask.npy", known.astype(dtype))
    case, _ = load(build_config("inpaint"), path, masks=[tmp_path / "mask.npy"])
    np.testing.assert_array_equal(case.problem.operator.mask[..., 0], known)
    np.save(tmp_path / "mask.npy", known[1:])
    with pytest.raises(InputError, match="expected a mask of the image's size, 36 x 40"):
        load(build_config("inpaint"), path, masks=[tmp_path / "mask.npy"])


def test_world_coordinates_that_no_longer_fit_are_noted(tmp_path, image):
    unit = fits.PrimaryHDU(np.float32(image[..., 0]))
    unit.header.update({"CRPIX1": 5.0, "CDELT1": 0.2, "A_ORDER": 2})
    unit.writeto(tmp_path / "x.fits")
    case, template = load(build_config("super_resolve"), tmp_path / "x.fits")
    assert "the distortion terms of the world coordinates are left out" in case.notes
    header = fits.Header.fromstring(template.tags.fits_header)
    assert (header["CRPIX1"], header["CDELT1"]) == (18.5, 0.05)


@pytest.fixture
def cells(tmp_path, image):
    """A TIFF file of three pages of the same shape."""
    pages = np.stack([image[..., 0] * scale for scale in (1.0, 0.9, 0.8)])
    tifffile.imwrite(tmp_path / "cells.tif", pages.astype(np.float32), photometric="minisblack")
    return tmp_path / "cells.tif"


def test_one_page_of_a_stack_is_restored_under_the_name_of_its_file(cells, image):
    config = build_config(overrides=["task.page=2"])
    (lazy,) = list_inputs(config, InputFiles([cells]))
    assert (lazy.name, lazy.stack, lazy.shape) == ("cells", None, (40, 36, 1))
    pixels = np.asarray(lazy.load().case.problem.measurement)
    np.testing.assert_allclose(pixels[..., 0], 0.9 * image[..., 0], atol=1e-6)


def test_a_page_of_a_reference_of_one_page_is_that_page(cells, tmp_path, image):
    (tmp_path / "clean").mkdir()
    tifffile.imwrite(
        tmp_path / "clean/cells.tif", np.float32(image[..., 0]), photometric="minisblack"
    )
    config = build_config(overrides=["task.page=3"])
    case, _ = load(config, cells, references=[tmp_path / "clean"])
    np.testing.assert_allclose(case.reference, image[..., :1], atol=1e-6)
    (tmp_path / "clean/cells.tif").unlink()
    cells.rename(tmp_path / "clean/cells.tif")
    cells.symlink_to(tmp_path / "clean/cells.tif")
    case, _ = load(config, cells, references=[tmp_path / "clean"])
    np.testing.assert_allclose(case.reference, 0.8 * image[..., :1], atol=1e-6)


def test_a_page_that_a_file_lacks_is_refused(cells, tmp_path):
    with pytest.raises(InputError, match=r"from 1 to 3, .*, got 4; change --page"):
        load(build_config(overrides=["task.page=4"]), cells)
    np.save(tmp_path / "y.npy", np.ones((40, 36), np.complex64))
    with pytest.raises(InputError, match="got an array; leave out --page"):
        load(build_config("compressed_sensing", overrides=["task.page=2"]), tmp_path / "y.npy")
    with pytest.raises(InputError, match=r"task\.page must be at least 1"):
        build_config(overrides=["task.page=0"])


def test_a_preview_in_front_of_a_stack_is_no_page_of_it(tmp_path, image):
    pages = np.float32([image[..., 0], 0.5 * image[..., 0]])
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        options = {"photometric": "minisblack", "metadata": None}
        writer.write(pages[0, ::2, ::2], subfiletype=1, **options)
        for page in pages:
            writer.write(page, contiguous=False, **options)
    inputs = list_inputs(build_config(), InputFiles([tmp_path / "x.tif"]))
    assert [lazy.name for lazy in inputs] == ["x/page-0001", "x/page-0002"]
    for lazy, page in zip(inputs, pages, strict=True):
        case, template = lazy.load()
        low, high = template.low, template.high
        values = low + np.asarray(case.problem.measurement)[..., 0] * (high - low)
        np.testing.assert_allclose(values, page, atol=1e-5)


def load(config, *inputs, **files):
    (lazy,) = list_inputs(config, InputFiles(inputs, **files))
    return lazy.load()


def test_missing_values_and_outliers_have_weight_0_and_the_rest_is_data(tmp_path, image):
    values = 2000 * image - 500
    values[3, 4], values[5, 6, 1] = np.nan, 1e9
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    case, template = load(build_config(), tmp_path / "x.tif")
    expected = np.ones(image.shape)
    expected[3, 4], expected[5, 6, 1] = 0, 0
    np.testing.assert_array_equal(case.problem.weights, expected)
    low, high = case.value_range
    known = expected > 0
    measured = low + np.asarray(case.problem.measurement) * (high - low)
    np.testing.assert_allclose(measured[known], values[known], atol=1e-2)
    restored = to_stored_values(image, template)
    assert np.isfinite(restored[3, 4]).all()
    assert restored[5, 6, 1] == np.float32(1e9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_the_noise_level_may_have_the_unit_of_the_file(tmp_path, image, scale):
    tifffile.imwrite(tmp_path / "x.tif", np.float32(scale * image), photometric="rgb")
    fields = [f"task.noise_std={0.1 * scale!r}", "task.noise_unit=file"]
    config = build_config(overrides=fields)
    case, _ = load(config, tmp_path / "x.tif")
    low, high = case.value_range
    np.testing.assert_allclose(case.problem.noise_std * (high - low), 0.1 * scale, rtol=1e-6)
    assert 0.05 < case.problem.noise_std < 0.2


def test_a_reference_of_the_same_type_has_the_range_of_the_image(tmp_path, image):
    noisy = image + 0.2 * np.random.default_rng(0).standard_normal(image.shape)
    tifffile.imwrite(tmp_path / "x.tif", np.float32(1000 * noisy), photometric="rgb")
    (tmp_path / "clean").mkdir()
    tifffile.imwrite(tmp_path / "clean/x.tif", np.float32(1000 * image), photometric="rgb")
    case, _ = load(build_config(), tmp_path / "x.tif", references=[tmp_path / "clean"])
    low, high = case.value_range
    np.testing.assert_allclose(low + case.reference * (high - low), 1000 * image, atol=1e-2)


def test_a_reference_with_missing_values_is_refused(tmp_path, image):
    values = np.float32(image)
    values[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    (lazy,) = list_inputs(build_config(), InputFiles(references=[tmp_path / "x.tif"]))
    with pytest.raises(InputError, match="3 of its values are missing"):
        lazy.load()


def test_transparent_pixels_are_the_mask_of_inpainting_and_become_opaque(tmp_path, image):
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[10:20, 5:15] = 0
    colors = np.rint(255 * image).astype(np.uint8)
    iio.imwrite(tmp_path / "x.png", np.dstack([colors, alpha]))
    case, template = load(build_config("inpaint"), tmp_path / "x.png")
    np.testing.assert_array_equal(case.problem.operator.mask[..., 0], alpha > 0)
    assert "6.9% of the pixels are missing (the transparent ones)" in case.notes[0]
    assert (to_stored_values(image, template)[..., 3] == 255).all()


def test_inpainting_keeps_the_alpha_of_known_pixels(tmp_path, image):
    alpha = np.full(image.shape[:2], 100, np.uint8)
    alpha[:5] = 200
    colors = np.rint(255 * image).astype(np.uint8)
    iio.imwrite(tmp_path / "x.png", np.dstack([colors, alpha]))
    mask = write(tmp_path / "mask.png", 1 - np.eye(40, 36))
    case, template = load(build_config("inpaint"), tmp_path / "x.png", masks=[mask])
    expected = np.where(np.eye(40, 36) > 0, 200, alpha)
    np.testing.assert_array_equal(to_stored_values(image, template)[..., 3], expected)
    assert "2.5% of the pixels are missing and are filled in" in case.notes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_an_array_of_integers_is_refused_as_an_image(image, dtype):
    values = np.rint(255 * image).astype(dtype)
    with pytest.raises(InputError, match=r"must be float in \[0, 1\], got .* divide it by"):
        build_case(build_config().task, "x", values)


def test_each_band_of_a_file_has_its_own_range_and_comes_back(tmp_path, image):
    scales = np.array([1e-3, 1.0, 5e3, 2.0, 300.0, 1e6, 7.0])
    bands = np.concatenate([image, image[::-1], image[..., :1]], axis=-1) * scales
    tifffile.imwrite(
        tmp_path / "x.tif", np.float32(bands), photometric="minisblack", planarconfig="contig"
    )
    case, template = load(build_config(), tmp_path / "x.tif")
    assert case.shape == (40, 36, 7)
    assert case.value_range is None
    pixels = np.asarray(case.problem.measurement)
    assert (pixels.max(axis=(0, 1)) > 0.6).all()
    write_image(tmp_path / "y.tif", pixels, template)
    written = tifffile.imread(tmp_path / "y.tif")
    np.testing.assert_allclose(written, bands, rtol=1e-4)
    with tifffile.TiffFile(tmp_path / "y.tif") as tiff:
        assert tiff.pages.first.extrasamples == (0,) * 6


def test_two_bands_are_bands_unless_the_file_says_that_one_is_alpha(tmp_path, image):
    two = np.rint(255 * image[..., :2]).astype(np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "bands.tif", two, **options)
    tifffile.imwrite(tmp_path / "alpha.tif", two, extrasamples=["unassalpha"], **options)
    bands, _ = load(build_config(), tmp_path / "bands.tif")
    gray, template = load(build_config(), tmp_path / "alpha.tif")
    assert (bands.shape[-1], gray.shape[-1]) == (2, 1)
    np.testing.assert_array_equal(template.alpha, two[..., 1])


def sinogram_config(**fields):
    return replace_fields(
        build_config("ct"), {"task.num_angles": 12, **{f"task.{k}": v for k, v in fields.items()}}
    )


def write_sinogram(path, white):
    image = white * np.pad(np.ones((20, 20), np.float32), 10)
    np.save(path, np.asarray(Radon(12)(image[..., None]))[..., 0])
    return ImageFiles(path, None, {}, True, needs_reference=False)


@pytest.mark.parametrize("white", [0.02, 30.0])
def test_a_sinogram_in_any_unit_is_fitted_in_0_to_1_and_its_image_has_that_unit(tmp_path, white):
    unit = load_input(
        sinogram_config(), "x", write_sinogram(tmp_path / "1.npy", 1.0), max_pixels=10**6
    )
    assert (unit.template.low, unit.template.high) == (0, 1)
    files = write_sinogram(tmp_path / "x.npy", white)
    loaded = load_input(sinogram_config(), "x", files, max_pixels=10**6)
    high = loaded.template.high
    assert 0.5 * white < high < 2 * white
    assert loaded.case.value_range == (0, high)
    assert "are mapped to [0, 1]; --range=0,HIGH changes this" in loaded.case.notes[0]
    measured = np.asarray(loaded.case.problem.measurement)
    expected = np.asarray(unit.case.problem.measurement) * white / high
    np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-4)
    ones = np.ones(loaded.case.shape, np.float32)
    np.testing.assert_allclose(to_stored_values(ones, loaded.template), high)


def test_the_range_of_a_measured_array_can_be_set_and_its_noise_is_in_the_same_unit(tmp_path):
    files = write_sinogram(tmp_path / "x.npy", 30.0)
    config = sinogram_config(value_range="0,60", noise_unit="file", noise_std=3.0)
    loaded = load_input(config, "x", files, max_pixels=10**6)
    assert loaded.template.high == 60
    assert float(loaded.case.problem.noise_std) == pytest.approx(0.05)
    kept = load_input(sinogram_config(value_range="container"), "x", files, max_pixels=10**6)
    assert kept.template.high == 1
    with pytest.raises(InputError, match="expected 0,HIGH for a measured array"):
        load_input(sinogram_config(value_range="1,2"), "x", files, max_pixels=10**6)


@pytest.mark.parametrize(("pattern", "is_noticed"), [("RGGB", False), ("GBRG", True)])
def test_a_pattern_of_the_file_that_the_settings_contradict_is_noticed(
    tmp_path, pattern, is_noticed
):
    codes = bytes("RGB".index(color) for color in pattern)
    mosaic = np.random.default_rng(0).integers(0, 4096, (40, 36), np.uint16)
    tags = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, codes, True)]
    tifffile.imwrite(tmp_path / "raw.tif", mosaic, photometric="cfa", extratags=tags)
    (lazy,) = list_inputs(build_config("demosaic"), InputFiles([tmp_path / "raw.tif"]))
    notes = " ".join(lazy.load().case.notes)
    assert ("the file states the pattern GBRG, but RGGB is assumed" in notes) == is_noticed


@pytest.mark.parametrize("hole", [0.02, 1e6])
def test_values_in_the_holes_of_an_inpainting_do_not_set_the_range(tmp_path, hole):
    values = (np.random.default_rng(0).random((40, 36)) * 1e-3).astype(np.float32)
    mask = np.ones((40, 36), bool)
    mask[10:20, 10:20] = False
    tifffile.imwrite(
        tmp_path / "x.tif", np.where(mask, values, np.float32(hole)), photometric="minisblack"
    )
    iio.imwrite(tmp_path / "mask.png", np.uint8(255 * mask))
    files = InputFiles([tmp_path / "x.tif"], masks=[tmp_path / "mask.png"])
    (lazy,) = list_inputs(build_config("inpaint"), files)
    template = lazy.load().template
    assert template.high < 1.2e-3
    assert template.outliers is None  # which would be written over what is filled in

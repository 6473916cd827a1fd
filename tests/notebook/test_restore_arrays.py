import numpy as np
import pytest

import dip_jax
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from dip_jax.tasks.cases import build_case

pytestmark = pytest.mark.usefixtures("shared_programs")

TINY = {
    "net.kind": "deep_decoder",
    "net.depth": 1,
    "net.width": 4,
    "net.input_depth": 4,
    "fit.num_steps": 4,
    "stop.rule": "fixed",
}


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (34, 40, 3), np.uint8)


def test_denoise_is_a_restore_of_the_case_of_the_task(pixels):
    config = build_config(task="denoise", changes=TINY | {"task.noise_std": 20 / 255})
    case = build_case(config.task, "image", pixels.astype(np.float32) / np.float32(255))
    (expected,) = dip_jax.restore([case], config)
    results = []
    found = dip_jax.denoise(pixels, noise_std=20, settings=TINY, on_result=results.append)
    np.testing.assert_array_equal(results[0].image, expected.image)
    np.testing.assert_array_equal(found, np.rint(255 * np.clip(expected.image, 0, 1)))
    assert (found.dtype, found.shape) == (np.uint8, (34, 40, 3))
    output = results[0].net.apply(results[0].params, results[0].code)
    assert output.shape == (34, 40, 3)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)]
)
def test_the_result_has_the_type_and_the_units_of_the_image(pixels, dtype, scale):
    gray = (pixels[..., 0] / 255 * scale).astype(dtype)
    found = dip_jax.denoise(gray, settings=TINY)
    assert (found.dtype, found.shape) == (np.dtype(dtype), (34, 40))
    assert abs(found.mean() / scale - 0.5) < 0.2


def test_a_batch_has_the_results_of_its_images_and_their_masks(pixels):
    rng = np.random.default_rng(1)
    batch = np.stack([pixels, pixels[::-1]])
    masks = rng.random((2, 34, 40)) < 0.5
    results = []
    found = dip_jax.inpaint(batch, masks, settings=TINY, on_result=results.append)
    assert found.shape == batch.shape
    for image, mask, restored in zip(batch, masks, found, strict=True):
        np.testing.assert_array_equal(restored[mask], image[mask])
        assert not np.array_equal(restored[~mask], image[~mask])
    assert sorted(result.name for result in results) == ["image 1", "image 2"]
    one = dip_jax.inpaint(batch, masks[0], settings=TINY)
    np.testing.assert_array_equal(one[1][masks[0]], batch[1][masks[0]])


def test_each_task_returns_an_image_of_its_shape(pixels):
    small = {"settings": TINY}
    assert dip_jax.super_resolve(pixels, factor=2, **small).shape == (68, 80, 3)
    assert dip_jax.demosaic(pixels[..., 0], **small).shape == (34, 40, 3)
    assert dip_jax.deblur(pixels, np.full((3, 3), 1 / 9), **small).shape == pixels.shape
    assert dip_jax.dejpeg(pixels, **small).shape == pixels.shape
    rows = pixels[::2] / np.float32(255)
    found = dip_jax.reconstruct(rows, lambda image: image[::2], (34, 40, 3), **small)
    assert (found.shape, found.dtype) == ((34, 40, 3), np.float32)


def test_flash_takes_its_guide_as_the_code(pixels):
    settings = {"net.channels_down": (4,), "net.channels_up": (4,), "net.channels_skip": (4,)}
    settings |= {"net.upsample": ("bilinear",), "fit.num_steps": 2}
    results = []
    found = dip_jax.flash(pixels, pixels[::-1], settings=settings, on_result=results.append)
    assert found.shape == pixels.shape
    expected = pixels[::-1].astype(np.float32) / 255
    np.testing.assert_allclose(results[0].code[:34, :40], expected, rtol=1e-6)


def test_a_jpeg_file_is_restored_within_its_intervals(tmp_path, pixels):
    import imageio.v3 as iio

    path = tmp_path / "photo.jpg"
    iio.imwrite(path, np.full((40, 40, 3), 99, np.uint8), quality=30)
    results = []
    found = dip_jax.dejpeg(path, settings=TINY, on_result=results.append)
    assert (found.shape, found.dtype) == ((40, 40, 3), np.uint8)
    assert "coefficients match" in results[0].notes[0]


def test_a_reference_is_logged_in_the_units_of_its_type(pixels):
    results = []
    dip_jax.denoise(pixels, settings=TINY, reference=pixels, on_result=results.append)
    curve = results[0].curve
    squared = np.mean((results[0].image - pixels.astype(np.float32) / 255) ** 2)
    np.testing.assert_allclose(curve["psnr_average"][-1], -10 * np.log10(squared), rtol=1e-4)


def test_an_own_estimator_takes_the_place_of_the_preset(pixels):
    fit = dip_jax.build_fit(dip_jax.nets.deep_decoder(depth=1, width=4, input_depth=4))
    results, steps = [], []
    dip_jax.denoise(
        pixels,
        estimator=dip_jax.Estimator(fit, num_steps=5),
        on_result=results.append,
        on_step=lambda observation: steps.append(observation.step),
        every=2,
    )
    assert results[0].num_steps == 5
    assert steps == [2, 4, 5]


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (np.zeros((40, 40), int), "astype"),
        (np.zeros(3, np.uint8), "batch"),
        (np.zeros((40, 40, 3), complex), "floats"),
        (np.full((40, 40, 3), 128.0), "divide it by 255"),
    ],
)
def test_an_array_that_is_no_image_is_refused(image, match):
    with pytest.raises(InputError, match=match):
        dip_jax.denoise(image, settings=TINY)
    with pytest.raises(InputError, match="reference for each"):
        dip_jax.denoise(np.zeros((2, 40, 40, 1)), reference=np.zeros((40, 40)), settings=TINY)


def test_arguments_that_have_no_effect_are_refused(pixels):
    with pytest.raises(InputError, match="Did you mean 'on_step'"):
        dip_jax.denoise(pixels, on_stepp=print)
    estimator = dip_jax.Estimator(dip_jax.build_fit(dip_jax.nets.skip()))
    with pytest.raises(InputError, match=r"replaces the settings.*fit\.num_steps"):
        dip_jax.denoise(pixels, estimator=estimator, settings={"fit.num_steps": 7})
    with pytest.raises(InputError, match="a preset"):
        dip_jax.denoise(pixels, estimator=estimator, preset="denoise")


def test_side_inputs_and_references_must_fit_the_batch(pixels):
    batch = np.stack([pixels] * 3)
    with pytest.raises(InputError, match="masks for 3 images, got 2"):
        dip_jax.inpaint(batch, np.ones((2, 34, 40)), settings=TINY)
    with pytest.raises(InputError, match="reference of shape"):
        dip_jax.denoise(pixels, reference=pixels[..., :1], settings=TINY)
    mask = np.arange(34 * 40).reshape(34, 40, 1) % 2
    assert dip_jax.inpaint(pixels, mask, settings=TINY).shape == pixels.shape


def test_a_noise_level_in_gray_levels_beside_floats_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="divide float images of 0 to 255 and their noise_std by"):
        dip_jax.denoise(np.full((40, 40, 3), 128.0), noise_std=25)

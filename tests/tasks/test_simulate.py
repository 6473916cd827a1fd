import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dip_jax.config import TASKS, TaskConfig
from dip_jax.errors import InputError
from dip_jax.tasks.simulate import simulate_case

GRAY = np.full((200, 200, 3), 0.5, np.float32)


def simulate(reference, seed=0, **task):
    return simulate_case(jax.random.key(seed), TaskConfig(**task), "x", reference)


def test_simulated_noise_has_the_requested_level():
    case = simulate(GRAY, noise_std=0.1)
    noise = np.asarray(case.problem.measurement) - GRAY
    n = noise.size
    assert abs(noise.std() - 0.1) < 5 * 0.1 / np.sqrt(2 * n)
    assert abs(noise.mean()) < 5 * 0.1 / np.sqrt(n)
    assert float(case.problem.noise_std) == pytest.approx(0.1)


def test_the_default_noise_is_25_gray_levels_and_is_clipped(image):
    case = simulate(image)
    assert float(case.problem.noise_std) == pytest.approx(25 / 255)
    measurement = np.asarray(case.problem.measurement)
    assert measurement.min() >= 0
    assert measurement.max() <= 1


def test_photons_have_the_mean_and_the_variance_of_a_poisson_variable():
    case = simulate(GRAY, noise="poisson", peak=20.0)
    counts = 20 * np.asarray(case.problem.measurement, np.float64)
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-4)
    assert abs(counts.mean() - 10) < 5 * np.sqrt(10 / counts.size)
    assert abs(counts.var() - 10) < 5 * np.sqrt((2 * 100 + 10) / counts.size)
    assert float(case.problem.peak) == 20


def test_read_out_noise_adds_its_variance_to_that_of_the_photons():
    case = simulate(GRAY, noise="poisson_gauss", peak=20.0, noise_std=0.1)
    values = np.asarray(case.problem.measurement, np.float64)
    expected = 0.5 / 20 + 0.1**2
    assert abs(values.var() / expected - 1) < 5 * np.sqrt(3 / values.size)


def test_salt_and_pepper_hit_the_requested_fraction_of_pixels_in_all_channels():
    y = np.asarray(simulate(GRAY, noise="salt_and_pepper", salt_fraction=0.2).problem.measurement)
    hit = (y != 0.5).all(axis=-1)
    assert set(np.unique(y)) == {0.0, 0.5, 1.0}
    assert (hit == (y != 0.5).any(axis=-1)).all()
    assert abs(hit.mean() - 0.2) < 5 * np.sqrt(0.16 / hit.size)
    assert abs((y[hit] == 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(hit.sum())


def test_a_problem_holds_no_ground_truth(image):
    case = simulate(image)
    for leaf in jax.tree.leaves(case.problem):
        assert np.shape(leaf) != image.shape or not np.allclose(leaf, image)
    np.testing.assert_array_equal(case.reference, image)


def test_a_random_mask_keeps_the_requested_fraction_of_pixels_in_all_channels():
    case = simulate(GRAY, name="inpaint", known_fraction=0.3)
    mask = np.asarray(case.problem.operator.mask)
    assert mask.shape == (200, 200, 1)
    assert abs(mask.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / mask.size)
    np.testing.assert_array_equal(case.problem.measurement, GRAY * mask)
    assert float(case.problem.noise_std) == 0


def test_a_small_image_is_that_of_pillows_lanczos_filter_in_8_bits(image):
    stored = np.rint(image * 255).astype(np.uint8)
    small = Image.fromarray(stored).resize((9, 10), Image.Resampling.LANCZOS)
    case = simulate(image, name="super_resolve", factor=4)
    np.testing.assert_allclose(case.problem.measurement, np.asarray(small) / 255, atol=1e-6)


def test_a_factor_that_does_not_divide_the_sides_loses_no_pixel(image):
    case = simulate(image, name="super_resolve", factor=7)
    assert case.problem.measurement.shape == (6, 6, 3)
    assert case.shape == case.reference.shape == case.preview.shape == image.shape


def test_a_blurred_image_is_that_of_scipy(image):
    case = simulate(image, name="deblur", kernel_std=1.2, noise_std=0.0)
    expected = ndimage.gaussian_filter(image, (1.2, 1.2, 0), mode="mirror")
    np.testing.assert_allclose(case.problem.measurement, expected, atol=1e-4)


def test_a_compressed_image_is_that_of_pillow_and_its_coefficients_are_known(image):
    case = simulate(image, name="dejpeg", quality=30)
    operator, y = case.problem.operator, np.asarray(case.problem.measurement)
    beyond = np.abs(np.asarray(operator(image)) - y) - np.asarray(case.problem.tolerance)
    # the image itself lies within the intervals, up to the rounding of its encoder
    assert np.mean(beyond > 2 / 255) < 1e-3
    decoded = simulate(image, name="dejpeg", quality=30, jpeg="decoded")
    assert decoded.problem.tolerance is None
    np.testing.assert_array_equal(decoded.problem.measurement, case.preview)


def test_random_frequencies_and_random_sums_have_the_requested_fraction(image):
    gray = image[..., :1]
    fourier = simulate(gray, name="compressed_sensing", known_fraction=0.25)
    assert int(np.asarray(fourier.problem.operator.mask).sum()) == round(0.25 * gray.size)
    assert fourier.problem.measurement.dtype == np.complex64
    sums = simulate(gray, name="compressed_sensing", sensing="gaussian", known_fraction=0.25)
    assert sums.problem.measurement.shape == (round(0.25 * gray.size),)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"flash", "maximize_activation", "custom"}))
def test_every_task_has_a_measurement_of_its_operators_shape_and_a_preview(task, image):
    image = image[:36, :, :1] if task == "ct" else image
    case = simulate(image, name=task, noise_std=0.01)
    predicted = jax.eval_shape(case.problem.operator, image)
    assert predicted.shape == case.problem.measurement.shape
    if case.preview is None:
        assert case.problem.measurement.shape == image.shape
    else:
        assert case.preview.shape == image.shape


@pytest.mark.parametrize(
    ("reference", "task", "words"),
    [
        (GRAY[..., :1], {"name": "demosaic"}, "color, got 1"),
        (GRAY[..., 0], {}, r"\[H, W, C\]"),
        (GRAY * np.nan, {}, "finite"),
        (GRAY[:50, :60, :1], {"name": "ct"}, "square"),
        (GRAY, {"name": "compressed_sensing", "noise": "poisson"}, "complex"),
    ],
)
def test_an_image_that_a_task_cannot_degrade_is_refused(reference, task, words):
    with pytest.raises(InputError, match=words):
        simulate(reference, **task)

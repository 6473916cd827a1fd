import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage.transform import radon

from dip_jax.config import TASKS, TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.checks import adjoint
from dip_jax.operators.from_file import CustomOperator
from dip_jax.operators.sensing import RandomMatrix, SubsampledFourier
from dip_jax.tasks.cases import build_case, operator_class, restore_known_values
from dip_jax.tasks.geometry import misfit_notes
from dip_jax.tasks.simulate import simulate_case


def hole(image):
    mask = np.ones(image.shape[:2], np.float32)
    mask[5:9, 5:9] = 0
    return mask


def test_missing_pixels_do_not_affect_the_case(image):
    altered = image.copy()
    altered[5:9, 5:9] = 0.123
    task = TaskConfig(name="inpaint")
    a, b = (build_case(task, "x", y, mask=hole(image)) for y in (image, altered))
    np.testing.assert_array_equal(a.problem.measurement, b.problem.measurement)


def test_known_pixels_are_restored_exactly_and_missing_ones_kept(image):
    task, mask = TaskConfig(name="inpaint"), hole(image)
    case = build_case(task, "x", image, mask=mask)
    estimate = np.full_like(image, 0.25)
    pasted, _ = restore_known_values(case, estimate)
    np.testing.assert_array_equal(pasted[mask > 0], image[mask > 0])
    assert (pasted[5:9, 5:9] == 0.25).all()


def test_noisy_pixels_are_not_restored_nor_without_paste_known(image):
    estimate = np.full_like(image, 0.25)
    for fields in ({"noise_std": 0.1}, {"paste_known": False}):
        task = TaskConfig(name="inpaint", **fields)
        case = build_case(task, "x", image, mask=hole(image))
        np.testing.assert_array_equal(restore_known_values(case, estimate)[0], estimate)
    case = build_case(TaskConfig(), "x", image)
    np.testing.assert_array_equal(restore_known_values(case, estimate)[0], estimate)


@pytest.mark.parametrize("noise", ["poisson", "poisson_gauss", "salt_and_pepper"])
def test_noisy_pixels_of_a_simulation_are_not_restored(image, noise):
    task = TaskConfig(name="inpaint", noise=noise)
    case = simulate_case(jax.random.key(0), task, "x", image)
    np.testing.assert_array_equal(restore_known_values(case, image)[0], image)


def test_saturated_values_are_not_restored(image):
    task = TaskConfig(name="demosaic", saturation=0.7)
    case = simulate_case(jax.random.key(0), task, "x", image)
    saturated = np.asarray(case.problem.measurement) >= 0.7
    assert saturated.any()
    estimate, _ = restore_known_values(case, np.full_like(image, 0.25))
    again = np.asarray(case.problem.operator(jnp.asarray(estimate)))
    assert (again[saturated] == 0.25).all()
    np.testing.assert_array_equal(
        again[~saturated], np.asarray(case.problem.measurement)[~saturated]
    )


def test_the_values_of_a_mosaic_are_restored(image):
    task = TaskConfig(name="demosaic", pattern="GBRG")
    case = simulate_case(jax.random.key(0), task, "x", image)
    assert case.shape == image.shape
    pasted, _ = restore_known_values(case, np.zeros_like(image))
    operator = case.problem.operator
    np.testing.assert_array_equal(operator(jnp.asarray(pasted)), case.problem.measurement)
    assert np.count_nonzero(pasted) == image[..., 0].size


def test_an_image_to_super_resolve_is_the_factor_times_larger(image):
    case = build_case(TaskConfig(name="super_resolve", factor=3), "x", image[:20, :15])
    assert case.shape == (60, 45, 3)
    assert case.preview.shape == (60, 45, 3)
    assert case.preview_name == "bicubic"


def test_the_guide_of_a_flash_pair_is_the_code(image):
    guide = image[::-1]
    case = build_case(TaskConfig(name="flash"), "x", image, guide=guide)
    np.testing.assert_array_equal(case.problem.code_image, guide)
    np.testing.assert_array_equal(case.problem.measurement, image)


def test_saturated_values_get_no_weight(image):
    image = image.copy()
    image[3, 4] = 1.0
    case = build_case(TaskConfig(saturation=1.0), "x", image)
    weights = np.asarray(case.problem.weights)
    assert (weights[3, 4] == 0).all()
    np.testing.assert_array_equal(weights, image < 1)


def test_a_sinogram_determines_the_size_of_its_image():
    task = TaskConfig(name="ct", num_angles=7)
    case = build_case(task, "x", np.zeros((57, 7), np.float32))  # ceil(40 sqrt 2) = 57
    assert case.shape == (40, 40, 1)
    assert case.preview.shape == (40, 40, 1)


def test_a_sinogram_in_another_unit_gets_a_note():
    disc = np.pad(np.ones((20, 20), np.float32), 10)
    for scale, expected in ((1.0, ()), (50.0, ("divide the measurement",))):
        y = scale * radon(disc, 180 * np.arange(7) / 7, circle=False).astype(np.float32)
        notes = build_case(TaskConfig(name="ct", num_angles=7), "x", y).notes
        assert len(notes) == len(expected)
        assert all(words in note for words, note in zip(expected, notes, strict=True))


def test_a_complex_measurement_of_the_images_size_is_shown_by_its_adjoint(image):
    operator = SubsampledFourier(jnp.ones(image.shape[:2]))
    y = np.fft.fft2(image, axes=(0, 1), norm="ortho")
    task = TaskConfig(name="custom", operator="-", image_shape=image.shape)
    case = build_case(task, "x", y, operator=operator)
    np.testing.assert_allclose(case.preview, image / image.max(), atol=1e-4)


def test_measured_frequencies_are_those_of_the_mask(image):
    y = np.fft.fft2(image[..., 0], norm="ortho")
    mask = np.random.default_rng(0).random(y.shape) < 0.5
    case = build_case(TaskConfig(name="compressed_sensing"), "x", y, mask=mask)
    assert case.shape == (40, 36, 1)
    np.testing.assert_array_equal(
        np.asarray(case.problem.measurement)[..., 0] != 0, mask & (y != 0)
    )
    expected = np.fft.ifft2(y * mask, norm="ortho").real
    np.testing.assert_allclose(case.preview[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        *({"name": name} for name in TASKS if name not in ("maximize_activation", "custom")),
        {"name": "dejpeg", "jpeg": "decoded"},
        {"name": "compressed_sensing", "sensing": "gaussian"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_the_class_of_the_operator_is_known_before_the_case(image, fields):
    is_gray = fields["name"] in ("ct", "compressed_sensing")
    reference = image[:36, :, :1] if is_gray else image
    guide = {"guide": image} if fields["name"] == "flash" else {}
    task = TaskConfig(known_fraction=0.1, num_angles=4, **fields)
    case = simulate_case(jax.random.key(0), task, "x", reference, **guide)
    assert type(case.problem.operator) is operator_class(task)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y: build_case(TaskConfig(name="inpaint"), "x", y), "mask"),
        (lambda y: build_case(TaskConfig(), "x", y, mask=hole(y)), "belongs to inpaint"),
        (lambda y: build_case(TaskConfig(name="inpaint"), "x", y, mask=np.ones((3, 3))), "size"),
        (lambda y: build_case(TaskConfig(name="inpaint"), "x", y, mask=hole(y) + 1), "no missing"),
        (lambda y: build_case(TaskConfig(name="inpaint"), "x", y, mask=0 * hole(y)), "no known"),
        (lambda y: build_case(TaskConfig(), "x", y[:20]), "33"),
        (lambda y: build_case(TaskConfig(), "x", y[..., 0]), r"\[H, W"),
        (lambda y: build_case(TaskConfig(), "x", y * np.nan), "finite"),
        (lambda y: build_case(TaskConfig(name="flash"), "x", y), "--guide"),
        (lambda y: build_case(TaskConfig(name="flash"), "x", y, guide=y[1:]), "size"),
        (lambda y: build_case(TaskConfig(name="demosaic"), "x", y), "one channel, got 3"),
        (
            lambda y: build_case(
                TaskConfig(name="deblur"), "x", y, kernel=np.full((3, 3), 0.2, np.float32)
            ),
            "1.8",
        ),
        (
            lambda y: build_case(
                TaskConfig(name="deblur"), "x", y, kernel=np.full((99, 3), 1 / 297, np.float32)
            ),
            "99",
        ),
        (lambda y: build_case(TaskConfig(name="deblur", kernel="file"), "x", y), "--kernel"),
        (
            lambda y: build_case(TaskConfig(name="ct", num_angles=8), "x", np.zeros((57, 7))),
            "8 angles.*57, 7",
        ),
        (
            lambda y: build_case(TaskConfig(name="ct", num_angles=7), "x", np.zeros((59, 7))),
            "got 59",
        ),
        (
            lambda y: build_case(
                TaskConfig(name="compressed_sensing", image_shape=(40, 40, 1)),
                "x",
                y[..., 0],
                mask=np.ones((40, 40)),
            ),
            r"\(40, 40, 1\)",
        ),
        (
            lambda y: build_case(TaskConfig(name="compressed_sensing"), "x", y[..., 0]),
            "which frequencies",
        ),
        (
            lambda y: build_case(
                TaskConfig(name="compressed_sensing", sensing="gaussian"), "x", y[..., 0]
            ),
            "only in a simulation",
        ),
        (lambda y: build_case(TaskConfig(saturation=0.001), "x", y), "0.001"),
        (lambda y: build_case(TaskConfig(name="custom", operator="no.py:f"), "x", y), "no file"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(image, call, words):
    with pytest.raises(InputError, match=words):
        call(image)


def test_an_operator_can_be_passed_as_an_object(image):
    matrix = np.random.default_rng(0).standard_normal((50, image.size)).astype(np.float32)
    operator = RandomMatrix(jnp.asarray(matrix))
    y = np.asarray(operator(jnp.asarray(image)))
    task = TaskConfig(name="custom", operator="-", image_shape=image.shape)
    case = build_case(task, "x", y, operator=operator)
    back = np.asarray(adjoint(operator, image.shape)(jnp.asarray(y)))
    np.testing.assert_allclose(case.preview, back / np.abs(back).max(), rtol=1e-4, atol=1e-6)


def phantom(side=40):
    """A disk and a smaller one off the center, zero outside a circle."""
    rows, columns = np.mgrid[:side, :side] - side // 2
    inside = rows**2 + columns**2 < (0.4 * side) ** 2
    spot = (rows - 5) ** 2 + (columns + 8) ** 2 < 16
    return 0.4 * inside + 0.5 * spot


@pytest.mark.parametrize("circle", [False, True])
def test_a_sinogram_with_given_angles_is_fitted_by_its_image(circle):
    angles = tuple(np.linspace(0, 180, 12))
    y = radon(phantom(), angles, circle=circle)
    task = TaskConfig(name="ct", angles=angles, circle=circle)
    case = build_case(task, "x", y)
    assert case.shape == (40, 40, 1)
    assert case.notes == ()
    measured = case.problem.operator(jnp.asarray(phantom()[..., None], jnp.float32))
    np.testing.assert_allclose(measured[..., 0], y, atol=2e-3 * y.max())
    assert np.corrcoef(case.preview.ravel(), phantom().ravel())[0, 1] > 0.85


def test_a_sinogram_of_both_0_and_180_degrees_is_noticed():
    y = radon(phantom(), np.linspace(0, 180, 12), circle=False)
    (note,) = build_case(TaskConfig(name="ct", num_angles=12), "x", y).notes
    assert "the last angle mirrors the first" in note
    y = radon(phantom(), np.arange(12) * 15, circle=False)
    assert build_case(TaskConfig(name="ct", num_angles=12), "x", y).notes == ()


def test_a_moved_center_of_rotation_is_measured_and_can_be_set():
    y = np.roll(radon(phantom(), np.arange(12) * 15, circle=False), 3, axis=0)
    (note,) = build_case(TaskConfig(name="ct", num_angles=12), "x", y).notes
    assert "turn about detector 31.0, not 28; set --set task.detector_center=31.0" in note
    task = TaskConfig(name="ct", num_angles=12, detector_center=31.0)
    case = build_case(task, "x", y)
    assert case.notes == ()
    measured = case.problem.operator(jnp.asarray(phantom()[..., None], jnp.float32))
    np.testing.assert_allclose(measured[..., 0], y, atol=1e-4 * y.max())


def test_a_detector_that_does_not_see_the_whole_image_is_noticed():
    image = np.zeros((40, 40))
    image[:9, :9] = 1  # in a corner
    y = radon(image, np.arange(12) * 15, circle=False)[8:-8]
    task = TaskConfig(name="ct", num_angles=12, circle=True, detector_center=20.0)
    assert any("is the detector too short?" in note for note in build_case(task, "x", y).notes)


def test_a_kernel_off_its_center_is_noticed_and_its_center_can_be_set(image):
    box = np.full((4, 4), 1 / 16)
    blurred = np.stack([convolve2d(image[..., c], box, mode="same") for c in range(3)], axis=-1)
    task = TaskConfig(name="deblur", kernel="file", boundary="circular")
    (note,) = build_case(task, "x", blurred, kernel=box).notes
    assert "lies [-0.5, -0.5] pixels off its center [2, 2]" in note
    task = dataclasses.replace(task, kernel_center=(1, 1))
    case = build_case(task, "x", blurred, kernel=box)
    inner = (slice(4, -4), slice(4, -4))
    expected = case.problem.operator(jnp.asarray(image))
    np.testing.assert_allclose(expected[inner], blurred[inner], atol=1e-5)
    with pytest.raises(InputError, match="must be one of its elements"):
        build_case(dataclasses.replace(task, kernel_center=(4, 0)), "x", blurred, kernel=box)


def test_shifted_frequencies_are_noticed_and_can_be_declared(image):
    mask = np.random.default_rng(0).random(image.shape[:2]) < 0.5
    mask[0, 0] = True
    task = TaskConfig(name="compressed_sensing")
    y = np.fft.fft2(image, axes=(0, 1), norm="ortho") * mask[..., None]
    plain = build_case(task, "x", y, mask=mask)
    assert plain.notes == ()
    shifted = np.fft.fftshift(y, axes=(0, 1)), np.fft.fftshift(mask)
    mask_with_corner = shifted[1] | (np.indices(mask.shape).sum(axis=0) == 0)
    y_with_corner = shifted[0] + 1e-3 * (np.indices(mask.shape).sum(axis=0) == 0)[..., None]
    (note,) = build_case(task, "x", y_with_corner, mask=mask_with_corner).notes
    assert "largest frequency lies at [20, 18]" in note
    case = build_case(
        dataclasses.replace(task, frequencies="center"), "x", shifted[0], mask=shifted[1]
    )
    np.testing.assert_array_equal(case.problem.measurement, plain.problem.measurement)
    np.testing.assert_array_equal(case.problem.operator.mask, plain.problem.operator.mask)
    (note,) = build_case(task, "x", np.real(y), mask=mask).notes
    assert "the frequencies are real" in note


def test_a_detector_as_long_as_the_side_is_recognized():
    # 64 detectors are also the diagonal of an image of 45 x 45.
    y = radon(phantom(64), np.arange(12) * 15, circle=True)
    (note,) = build_case(TaskConfig(name="ct", num_angles=12), "x", y).notes
    assert "beyond the shadow of an image of 45 x 45" in note
    assert build_case(TaskConfig(name="ct", num_angles=12, circle=True), "x", y).notes == ()


def test_an_image_that_explains_a_sinogram_less_well_than_its_noise_allows_is_noticed():
    y = radon(phantom(), np.arange(12) * 15, circle=False)
    problem = build_case(TaskConfig(name="ct", num_angles=12), "x", y).problem
    assert misfit_notes(problem, phantom()[..., None]) == ()
    wrong = 0.8 * phantom()[..., None]
    (note,) = misfit_notes(problem, wrong)
    share = np.sum((0.2 * y) ** 2) / np.sum((y - y.mean()) ** 2)
    assert note.startswith(f"{share:.1%} of the variance of the sinogram remains unexplained")
    noise = 0.3 * y.std() * np.random.default_rng(0).standard_normal(y.shape)
    noisy = build_case(TaskConfig(name="ct", num_angles=12), "x", y + noise).problem
    assert misfit_notes(noisy, phantom()[..., None]) == ()


def test_a_measurement_that_does_not_fit_the_unit_or_the_kind_of_an_operator_is_noticed(image):
    task = TaskConfig(name="custom", image_shape=image.shape)
    tiny = CustomOperator(lambda x: 1e-8 * x, is_linear=True)
    (note,) = build_case(task, "x", image, operator=tiny).notes
    assert "times as large as that of a usual image" in note
    fourier = CustomOperator(lambda x: jnp.fft.fft2(x, axes=(0, 1), norm="ortho"), is_linear=True)
    spectrum = np.fft.fft2(image, axes=(0, 1), norm="ortho")
    assert build_case(task, "x", spectrum.astype(np.complex64), operator=fourier).notes == ()
    (note,) = build_case(task, "x", spectrum.real.astype(np.float32), operator=fourier).notes
    assert "the measurement is real, but the operator makes complex numbers" in note


def test_a_shifted_spectrum_is_noticed_also_if_the_corner_was_not_measured(image):
    spectrum = np.fft.fftshift(np.fft.fft2(image, axes=(0, 1), norm="ortho"), axes=(0, 1))
    mask = np.ones(image.shape[:2])
    mask[0, 0] = 0
    case = build_case(
        TaskConfig(name="compressed_sensing"), "x", spectrum.astype(np.complex64), mask=mask
    )
    assert any("task.frequencies=center" in note for note in case.notes)


def test_an_image_of_0_to_255_is_refused_and_one_with_strong_noise_is_not(image):
    with pytest.raises(InputError, match=r"must be float in \[0, 1\], got values from .* to 229"):
        build_case(TaskConfig(), "x", 255 * image)
    with pytest.raises(InputError, match=r"must be float in \[0, 1\], got values from -0.8"):
        build_case(TaskConfig(), "x", 2 * image - 1)
    noisy = image + np.random.default_rng(0).standard_normal(image.shape).astype(np.float32)
    assert build_case(TaskConfig(), "x", noisy).notes == ()


def test_a_full_turn_radians_and_swapped_axes_of_a_sinogram_are_noticed():
    y = radon(phantom(), np.arange(12) * 30, circle=False)
    notes = build_case(TaskConfig(name="ct", num_angles=12), "x", y).notes
    assert any("the angles seem to cover a full turn" in note for note in notes)
    y = radon(phantom(), np.arange(12) * 15, circle=False)
    radians = TaskConfig(name="ct", angles=tuple(np.deg2rad(np.arange(12) * 15)))
    assert any("if they are radians" in note for note in build_case(radians, "x", y).notes)
    with pytest.raises(InputError, match="its axes seem to be swapped; transpose it"):
        build_case(TaskConfig(name="ct", num_angles=12), "x", y.T)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import radon

from dip_jax.errors import InputError
from dip_jax.operators.radon import Radon, num_detectors


def smooth(side):
    rows, columns = np.mgrid[0:side, 0:side] / side
    return (0.5 + 0.5 * np.sin(5 * rows + 1) * np.cos(4 * columns))[..., None].astype(np.float32)


def random(side, channels=1):
    return np.random.default_rng(side).random((side, side, channels)).astype(np.float32)


def scikit_image(image, num_angles):
    angles = np.arange(num_angles) * 180 / num_angles
    channels = [
        radon(image[..., c].astype(float), angles, circle=False) for c in range(image.shape[2])
    ]
    return np.stack(channels, -1)


@pytest.mark.parametrize(
    ("image", "num_angles"),
    [
        (random(16), 12),
        (random(17, 3), 7),
        (random(33), 4),
        (smooth(24), 30),
        (smooth(25), 1),
        (random(2), 5),
        (random(1), 3),
    ],
)
def test_a_sinogram_is_that_of_scikit_image(image, num_angles):
    expected = scikit_image(image, num_angles)
    y = jax.jit(Radon(num_angles))(jnp.asarray(image))
    np.testing.assert_allclose(y, expected, atol=3e-6 * expected.max())


@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("angles", [(0, 45, 180), (-30, 10.5, 400), tuple(np.linspace(0, 180, 9))])
def test_a_sinogram_of_any_angles_is_that_of_scikit_image(circle, angles):
    side = 17
    rows, columns = np.mgrid[:side, :side] - side // 2
    image = random(side) * (rows**2 + columns**2 <= (side // 2) ** 2)[..., None]
    expected = radon(image[..., 0].astype(float), angles, circle=circle)
    operator = Radon(len(angles), angles, side if circle else None)
    y = jax.jit(operator)(jnp.asarray(image, jnp.float32))[..., 0]
    # With circle=True, scikit-image leaves out what interpolation puts beyond the square.
    np.testing.assert_allclose(y, expected, atol=(2e-3 if circle else 3e-6) * expected.max())


@pytest.mark.parametrize(("detectors", "center"), [(31, 13.0), (9, 4.0), (20, 0.0)])
def test_a_moved_detector_sees_the_same_sums(detectors, center):
    image = jnp.asarray(random(12))
    y = np.asarray(jax.jit(Radon(5))(image))
    moved = np.asarray(jax.jit(Radon(5, (), detectors, center))(image))
    for k in range(detectors):
        source = int(k - center) + len(y) // 2
        if 0 <= source < len(y):
            np.testing.assert_allclose(moved[k], y[source], atol=1e-5)
        elif not -1 <= source <= len(y):
            assert (moved[k] == 0).all()


def test_a_center_between_two_detectors_sees_a_symmetric_image_symmetrically():
    i, j = np.mgrid[-10:11, -10:11]
    blob = np.exp(-(i**2 + j**2) / 8).astype(np.float32)[..., None]
    y = np.asarray(jax.jit(Radon(6, (), 30, 14.5))(jnp.asarray(blob)))
    np.testing.assert_allclose(y, y[::-1], atol=0.05)
    np.testing.assert_allclose(y[14], y[15], atol=0.05)


def test_the_first_angle_sums_the_columns_and_the_quarter_turn_the_rows():
    image = random(8)
    y = np.asarray(Radon(2)(jnp.asarray(image)))[..., 0]
    start = num_detectors(8) // 2 - 4
    np.testing.assert_allclose(y[start : start + 8, 0], image[..., 0].sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(y[:, 1].sum(), image.sum(), rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(row=st.integers(-3, 3), column=st.integers(-3, 3))
def test_each_angle_shows_a_blob_at_its_projected_position(row, column):
    i, j = np.mgrid[-10:11, -10:11]
    blob = np.exp(-((i - row) ** 2 + (j - column) ** 2) / 4).astype(np.float32)
    y = np.asarray(jax.jit(Radon(6))(jnp.asarray(blob[..., None])))[..., 0]
    np.testing.assert_allclose(y.sum(axis=0), blob.sum(), rtol=1e-2)
    angles = np.pi * np.arange(6) / 6
    detector = np.arange(len(y)) - len(y) // 2
    seen = (detector[:, None] * y).sum(axis=0) / y.sum(axis=0)
    np.testing.assert_allclose(seen, column * np.cos(angles) - row * np.sin(angles), atol=0.02)


@pytest.mark.parametrize(
    "operator", [Radon(5), Radon(3, (20.0, 100.0, -5.0), 7), Radon(2, (0.0, 70.0), 12, 4.3)]
)
def test_back_projection_is_the_transpose_of_the_whole_matrix(operator):
    side = 7
    points = jnp.eye(side * side).reshape(-1, side, side, 1)
    matrix = jax.jit(jax.vmap(operator))(points)
    transposed = jax.jit(jax.vmap(lambda w: jax.vjp(operator, points[0])[1](w)[0]))(
        jnp.eye(matrix[0].size).reshape(-1, *matrix[0].shape)
    )
    np.testing.assert_allclose(
        matrix.reshape(side * side, -1), transposed.reshape(-1, side * side).T, atol=3e-6
    )


def test_an_image_that_is_not_square_is_refused():
    with pytest.raises(InputError, match=r"got \[8, 9, 1\]"):
        Radon(4)(jnp.ones((8, 9, 1)))
    with pytest.raises(InputError, match="got 0"):
        Radon(0)(jnp.ones((8, 8, 1)))

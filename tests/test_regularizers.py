import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Problem
from dip_jax.operators.basic import Identity
from dip_jax.regularizers import total_variation, tv, weight_penalty


def naive_variation(image, power, add, subtract):
    total = 0.0
    for c in range(image.shape[2]):
        for i in range(image.shape[0] - 1):
            for j in range(image.shape[1] - 1):
                down = image[i + 1, j, c] - image[i, j, c]
                right = image[i, j + 1, c] - image[i, j, c]
                total += (down**2 + right**2 + add) ** power - subtract
    return total


@pytest.mark.parametrize(
    ("form", "add", "subtract"), [("isotropic", 0.0, 0.0), ("smooth", 1e-6, 1e-3)]
)
def test_total_variation_is_the_loop_over_pixels(form, add, subtract):
    image = np.random.default_rng(4).random((5, 6, 2))
    value = total_variation(jnp.asarray(image, jnp.float32), form)
    np.testing.assert_allclose(value, naive_variation(image, 0.5, add, subtract), rtol=1e-5)


def test_a_margin_adds_no_variation():
    image = np.random.default_rng(5).random((5, 6, 1)).astype(np.float32)
    canvas = np.pad(image, [(0, 3), (0, 2), (0, 0)])
    region = np.pad(np.ones((5, 6, 1), np.float32), [(0, 3), (0, 2), (0, 0)])
    whole = total_variation(jnp.asarray(canvas), "isotropic", region=jnp.asarray(region))
    np.testing.assert_allclose(whole, total_variation(jnp.asarray(image), "isotropic"), rtol=1e-6)


@pytest.mark.parametrize("form", ["isotropic", "smooth"])
def test_total_variation_of_a_flat_image_has_gradient_zero(form):
    slope = jax.grad(lambda x: total_variation(x, form))(jnp.full((4, 4, 1), 0.5))
    np.testing.assert_array_equal(slope, np.zeros((4, 4, 1)))


@pytest.mark.parametrize("form", ["isotropic", "smooth"])
def test_the_variation_of_a_signal_is_that_of_its_row(form):
    row = np.random.default_rng(6).random((1, 9, 2)).astype(np.float32)
    steps = np.abs(np.diff(row[0], axis=0))
    expected = steps.sum() if form == "isotropic" else (np.hypot(steps, 1e-3) - 1e-3).sum()
    np.testing.assert_allclose(total_variation(jnp.asarray(row), form), expected, rtol=1e-5)


def test_tv_is_the_weighted_variation_of_the_image_alone():
    rng = np.random.default_rng(7)
    image = rng.random((5, 6, 1)).astype(np.float32)
    canvas = np.pad(image, [(0, 2), (0, 3), (0, 0)])
    region = np.pad(np.ones_like(image), [(0, 2), (0, 3), (0, 0)])
    problem = Problem(Identity(), jnp.zeros(canvas.shape), 0.1, region=jnp.asarray(region))
    for form, add, subtract in (("isotropic", 0.0, 0.0), ("smooth", 1e-6, 1e-3)):
        found = tv(0.3, form=form)(jnp.asarray(canvas), {"w": jnp.ones(3)}, problem)
        expected = 0.3 * naive_variation(np.float64(image), 0.5, add, subtract)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = problem._replace(region=None)
    np.testing.assert_allclose(
        tv(2.0)(jnp.asarray(canvas), {}, plain),
        2 * naive_variation(np.float64(canvas), 0.5, 0.0, 0.0),
        rtol=1e-5,
    )


def test_the_gradient_of_the_weight_penalty_is_the_precision_times_the_weights():
    rng = np.random.default_rng(8)
    params = {"a": {"kernel": rng.normal(size=(3, 2))}, "b": rng.normal(size=4)}
    params = jax.tree.map(jnp.float32, params)
    penalty = weight_penalty(0.4)
    value, slope = jax.value_and_grad(lambda w: penalty(jnp.zeros((1, 1, 1)), w, None))(params)
    leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    np.testing.assert_allclose(value, 0.2 * np.sum(leaves**2), rtol=1e-5)
    jax.tree.map(lambda s, w: np.testing.assert_allclose(s, 0.4 * w, rtol=1e-6), slope, params)

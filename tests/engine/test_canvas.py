import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_jax.base import Case, Net, Problem
from dip_jax.engine.canvas import canvas_shape, canvas_side, pad_case
from dip_jax.fit import build_fit
from dip_jax.metrics import psnr
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.blur import Blur
from dip_jax.operators.checks import adjoint

sides_per_octave = st.sampled_from([1, 4, 8, 16, 64])


@given(side=st.integers(33, 20_000), number=sides_per_octave)
def test_a_side_grows_by_less_than_its_fraction_and_only_once(side, number):
    padded = canvas_side(side, number)
    assert side <= padded < side * (1 + 1 / number)
    assert canvas_side(padded, number) == padded


@given(low=st.integers(33, 4000), number=sides_per_octave)
def test_an_octave_has_few_sides(low, number):
    sides = {canvas_side(side, number) for side in range(low, 2 * low)}
    assert len(sides) <= number + 1


def test_usual_sides_stay_as_they_are_and_zero_rounds_nothing():
    for side in (64, 96, 128, 192, 256, 384, 512, 768, 1024):
        assert canvas_side(side, 16) == side
    assert canvas_side(501, 16) == 512
    assert canvas_side(501, 0) == 501


def case(operator):
    rng = np.random.default_rng(0)
    image = rng.random((41, 67, 3), np.float32)
    problem = Problem(operator, jnp.asarray(image), jnp.float32(0.1))
    return Case("a", problem, image.shape, rng.random(image.shape, np.float32))


def test_all_arrays_of_a_problem_grow_to_the_canvas():
    plain = case(Identity())
    ones = jnp.ones(plain.shape)
    full = plain.problem._replace(code_image=ones, weights=ones, tolerance=ones)
    problem = pad_case(plain._replace(problem=full), 4).problem
    for name in ("measurement", "code_image", "weights", "tolerance"):
        assert getattr(problem, name).shape == (48, 80, 3), name
    assert float(problem.weights.sum()) == ones.size  # the margin has weight 0
    assert float(problem.code_image.min()) == 1  # and the code has no edge there


def test_loss_average_and_psnr_see_only_the_image():
    plain = case(Identity())
    padded = pad_case(plain, 4)
    assert padded.shape == (48, 80, 3)
    image = jax.random.uniform(jax.random.key(0), padded.shape)
    net = Net(lambda key: image, lambda params, code: params + 0 * code, padded.shape, padded.shape)
    fit = build_fit(net, perturbation=0.0)
    state = fit.init(jax.random.key(0), padded.problem, padded.shape)
    _, info = jax.jit(fit.step)(padded.problem, state)
    visible = np.asarray(image)[:41, :67]
    expected = np.mean((visible - np.asarray(plain.problem.measurement)) ** 2)
    np.testing.assert_allclose(info.loss, expected, rtol=1e-6)
    assert not np.any(info.image[41:])
    assert not np.any(info.average[:, 67:])
    decibels = psnr(info.image, jnp.asarray(padded.reference), region=padded.problem.region)
    np.testing.assert_allclose(
        decibels, -10 * np.log10(np.mean((visible - plain.reference) ** 2)), rtol=1e-6
    )


def test_the_margin_has_no_gradient():
    padded = pad_case(case(Identity()), 4)
    net = Net(
        lambda key: jnp.full(padded.shape, 0.5), lambda p, z: p + 0 * z, padded.shape, padded.shape
    )
    fit = build_fit(net, perturbation=0.0)
    state = fit.init(jax.random.key(0), padded.problem, padded.shape)
    state, _ = jax.jit(fit.step)(padded.problem, state)
    moved = np.asarray(state.params["net"]) != 0.5
    assert moved[:41, :67].all()
    assert not moved[41:].any()
    assert not moved[:, 67:].any()


def test_the_margin_of_a_mask_is_missing():
    mask = (np.random.default_rng(1).random((41, 67, 1)) > 0.5).astype(np.float32)
    padded = pad_case(case(Mask(jnp.asarray(mask))), 4).problem.operator
    image = np.random.default_rng(2).random((48, 80, 3), np.float32)
    visible = np.asarray(padded(jnp.asarray(image)))
    np.testing.assert_array_equal(visible[:41, :67], image[:41, :67] * mask)
    assert not visible[41:].any()
    assert not visible[:, 67:].any()
    np.testing.assert_array_equal(adjoint(padded, (48, 80, 3))(jnp.asarray(visible)), visible)


def test_an_operator_that_is_not_pixelwise_gets_no_canvas():
    class Shift:
        is_linear = True

        def __call__(self, image):
            return jnp.roll(image, 1, 0)

    plain = case(Shift())
    assert pad_case(plain, 4) is plain
    assert pad_case(case(Identity()), 0).problem.region is None


@pytest.mark.parametrize("size", [(128, 128), (256, 384)])
def test_an_image_of_a_usual_size_is_not_enlarged(size):
    image = np.zeros((*size, 1), np.float32)
    padded = pad_case(Case("a", Problem(Identity(), jnp.asarray(image), 0.1), image.shape), 16)
    assert padded.shape == image.shape
    assert np.all(padded.problem.region == 1)


class Gain:
    """A user's own pixelwise operator."""

    is_linear = is_pixelwise = True

    def __init__(self, gain):
        self.gain = gain

    def __call__(self, image):
        return image * self.gain

    def pad(self, height, width):
        margins = [(0, height - self.gain.shape[0]), (0, width - self.gain.shape[1]), (0, 0)]
        return Gain(jnp.pad(self.gain, margins))


def test_a_users_pixelwise_operator_gets_a_canvas():
    operator = Gain(jnp.full((41, 67, 1), 0.5))
    padded = pad_case(case(operator), 4)
    assert padded.shape == canvas_shape((41, 67, 3), operator, 4) == (48, 80, 3)
    image = jnp.ones(padded.shape)
    np.testing.assert_array_equal(padded.problem.operator(image)[:41, :67], 0.5)


def test_the_canvas_is_known_from_the_class_of_the_operator():
    assert canvas_shape((41, 67, 3), Identity, 4) == (48, 80, 3)
    assert canvas_shape((41, 67, 3), Blur, 4) == (41, 67, 3)
    assert canvas_shape((41, 67, 3), Identity, 0) == (41, 67, 3)

"""Winograd's matrices, and the convolution that they compute with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.layers.winograd import winograd, winograd_matrices
from tests.layers.reference import convolve, draw


@pytest.mark.parametrize("points", [(0, 1, -1, 2, -2), (0, 1, -1, 0.5, -2)])
def test_winograd_matrices_give_a_correlation(points):
    at, g, bt = winograd_matrices(points)
    signal, taps = draw(0, 6), draw(1, 3)
    np.testing.assert_allclose(
        at @ ((g @ taps) * (bt @ signal)), np.correlate(signal, taps, "valid"), atol=1e-12
    )


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_winograd_and_its_gradients_are_exact_in_float64(padding, double):
    x, kernel, dy = draw(0, 15, 19, 3), draw(1, 3, 3, 3, 4), draw(2, 15, 19, 4)

    @jax.jit
    def compute(x, kernel, dy):
        y, transpose = jax.vjp(lambda x, kernel: winograd(x, kernel, padding), x, kernel)
        return y, *transpose(dy)

    y, dx, dkernel = compute(*map(jnp.array, (x, kernel, dy)))
    np.testing.assert_allclose(y, convolve(x, kernel, 1, padding), rtol=1e-9, atol=1e-12)
    # <conv(x', k), dy> = <x', dx> and <conv(x, k'), dy> = <k', dk>
    other_x, other_kernel = draw(3, *x.shape), draw(4, *kernel.shape)
    along_x = np.vdot(convolve(other_x, kernel, 1, padding), dy)
    along_kernel = np.vdot(convolve(x, other_kernel, 1, padding), dy)
    np.testing.assert_allclose(np.vdot(other_x, dx), along_x, rtol=1e-9)
    np.testing.assert_allclose(np.vdot(other_kernel, dkernel), along_kernel, rtol=1e-9)

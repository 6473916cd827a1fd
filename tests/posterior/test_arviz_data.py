"""The data of ArviZ, and its diagnostics against our own."""

import ast
import sys

import numpy as np
import pytest

from dip_jax.base import Posterior
from dip_jax.errors import InputError
from dip_jax.posterior import diagnose, to_arviz
from dip_jax.posterior.moments import trace_names
from tests.posterior.test_convergence import autoregressive, independent

SHAPE = (5, 7, 3)
NO_SAMPLES = np.zeros((0, *SHAPE), np.float32)


def posterior_of(traces, names, samples=NO_SAMPLES):
    image = np.zeros(SHAPE)
    means = np.zeros((len(traces), *SHAPE))
    return Posterior(image, image, means, traces.shape[0] * traces.shape[1], traces, names, samples)


@pytest.mark.slow
@pytest.mark.parametrize("chains", ["independent", "autoregressive", "apart"])
def test_the_diagnostics_of_arviz_agree_with_ours(chains):
    traces = independent() if chains == "independent" else autoregressive(0.7, (4, 300, 12))
    if chains == "apart":
        traces[0] += np.linspace(0, 4, 12)
    names = (*(f"x[{i},{2 * i},0]" for i in range(11)), "misfit")
    expected = diagnose(traces, names)
    data = to_arviz(posterior_of(traces, names))
    arviz = sys.modules["arviz"]
    for found, ours, rtol in (
        (arviz.rhat(data), expected.rhat, 1e-3),
        (arviz.ess(data, method="bulk"), expected.ess_bulk, 0.02),
        (arviz.ess(data, method="tail", prob=(0.05, 0.95)), expected.ess_tail, 0.02),
    ):
        np.testing.assert_allclose(found["x"], ours[:11], rtol=rtol)
        np.testing.assert_allclose(found["misfit"], ours[11], rtol=rtol)


def test_each_quantity_of_a_small_image_keeps_its_name_and_its_values():
    names = trace_names(SHAPE)
    assert len(set(names)) < len(names)  # some pixels of a small image are traced twice
    x = np.random.default_rng(0).random((2, 9, *SHAPE))
    pixels = [ast.literal_eval(name[1:]) for name in names[:-3]]
    columns = [x[:, :, row, column, channel] for row, column, channel in pixels]
    traces = np.stack([*columns, *np.arange(3 * 18).reshape(3, 2, 9)], axis=-1)
    group = to_arviz(posterior_of(traces, names))["posterior"]
    assert dict(group.sizes) == {"chain": 2, "draw": 9, "pixel": len(set(names)) - 3}
    for row, column, channel in pixels:
        found = group["x"].sel(pixel=f"{row},{column},{channel}")
        np.testing.assert_array_equal(found, x[:, :, row, column, channel])
    np.testing.assert_array_equal(group["contrast"], np.arange(36, 54).reshape(2, 9))


def test_kept_samples_have_named_dimensions_of_their_own():
    samples = np.random.default_rng(0).random((3, *SHAPE))
    traces = np.zeros((2, 9, 1))
    data = to_arviz(posterior_of(traces, ("misfit",), samples))
    image = data["kept"]["image"]
    assert dict(image.sizes) == {"sample": 3, "row": 5, "column": 7, "channel": 3}
    np.testing.assert_array_equal(image, samples)
    assert "kept" not in to_arviz(posterior_of(traces, ("misfit",)))


def test_several_seeds_are_refused():
    with pytest.raises(InputError, match="expects the samples of chains, got a posterior without"):
        to_arviz(posterior_of(np.zeros((3, 0, 0)), ()))


def test_without_arviz_one_sentence_tells_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(InputError, match=r"expects the package arviz.*`pip install arviz`"):
        to_arviz(posterior_of(np.zeros((2, 9, 1)), ("misfit",)))

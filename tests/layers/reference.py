"""Convolutions by their definitions, computed by scipy in float64."""

import numpy as np
from scipy import signal

NUMPY_MODES = {"reflect": "reflect", "zero": "constant"}


def draw(seed, *shape):
    """Normal random numbers, float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def relative(a, b):
    """The norm of a - b, relative to the norm of b."""
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def convolve_valid(x, kernel, stride):
    """The convolution of a padded image: one correlation for each pair of channels."""
    x, kernel = np.float64(x), np.float64(kernel)
    y = [
        sum(
            signal.correlate2d(x[..., c], kernel[..., c, o], mode="valid")
            for c in range(kernel.shape[2])
        )
        for o in range(kernel.shape[3])
    ]
    return np.stack(y, axis=-1)[::stride, ::stride]


def convolve(x, kernel, stride, padding):
    """The convolution of an image with its padding."""
    p, q = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(x, ((p, p), (q, q), (0, 0)), mode=NUMPY_MODES[padding])
    return convolve_valid(padded, kernel, stride)


def convolve_transposed(x, kernel):
    """The transposed convolution: zeros between the pixels, then a convolution."""
    steps = [1 if side == 1 else 2 for side in kernel.shape[:2]]
    height, width = (step * (n - 1) + 1 for step, n in zip(steps, x.shape, strict=False))
    dilated = np.zeros((height, width, x.shape[2]))
    dilated[:: steps[0], :: steps[1]] = x
    y = [
        sum(signal.convolve2d(dilated[..., c], kernel[..., c, o]) for c in range(x.shape[2]))
        for o in range(kernel.shape[3])
    ]
    top, left = (side // 4 for side in kernel.shape[:2])  # the padding
    return np.stack(y, axis=-1)[top : top + steps[0] * x.shape[0], left : left + 2 * x.shape[1]]

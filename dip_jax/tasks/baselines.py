"""Classical methods, one or two per task, for previews and comparisons."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import restoration
from skimage.transform import iradon

from dip_jax.errors import InputError
from dip_jax.operators.bayer import require_pattern
from dip_jax.operators.radon import num_detectors


def upsample_bicubic(image: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    """Enlarges an image by Pillow's BICUBIC, without rounding or clipping.

    Args:
      image: `[h, w, C]`.
      factor: Factor by which each side grows.
      shape: `(H, W)` or `(H, W, C)`; the result is cropped to it at the bottom and right.

    Returns:
      `[H, W, C]` float32.

    Raises:
      InputError: If the enlarged image is smaller than `shape`.

    References:
      Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, equation 15.

    Example:
      >>> import numpy as np
      >>> upsample_bicubic(np.ones((5, 6, 1)), 2, (9, 12)).shape
      (9, 12, 1)
    """
    image = np.asarray(image, np.float32)
    rows, columns = image.shape[0] * factor, image.shape[1] * factor
    height, width = shape[:2]
    if rows < height or columns < width:
        raise InputError(
            f"An image of {image.shape[0]} x {image.shape[1]}, enlarged {factor} times, is {rows} x "
            f"{columns}, which does not cover {height} x {width}; check task.factor."
        )
    enlarged = [
        np.asarray(Image.fromarray(channel).resize((columns, rows), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(enlarged, axis=-1)[:height, :width]


def demosaic_bilinear(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Fills each channel of a Bayer mosaic by the mean of the nearest measured neighbors.

    Args:
      mosaic: `[H, W, 1]`, at least 2 x 2.
      pattern: See `Bayer`.

    Returns:
      `[H, W, 3]` float32 with the measured values unchanged.

    Raises:
      InputError: If the mosaic has another shape or the pattern is unknown.

    References:
      Gunturk et al., Demosaicking: Color Filter Array Interpolation, 2005 (bilinear interpolation).

    Example:
      >>> import numpy as np
      >>> mosaic = np.array([[1, 2, 1], [2, 3, 2], [1, 2, 1]])[..., None]  # red 1, green 2, blue 3
      >>> demosaic_bilinear(mosaic, "RGGB")[1, 1].tolist()
      [1.0, 2.0, 3.0]
    """
    require_pattern(pattern)
    mosaic = np.asarray(mosaic, np.float32)
    if mosaic.ndim != 3 or mosaic.shape[2] != 1 or min(mosaic.shape[:2]) < 2:
        raise InputError(
            f"A mosaic must be [H, W, 1] and at least 2 x 2, got {list(mosaic.shape)}."
        )
    height, width, _ = mosaic.shape
    filters = np.array(list(pattern)).reshape(2, 2)
    filters = np.tile(filters, (-(-height // 2), -(-width // 2)))[:height, :width]
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32)
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)

    def spread(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return ndimage.convolve(values, weights, mode="constant")

    channels = []
    for name in "RGB":
        measured = (filters == name).astype(np.float32)
        weights = cross if name == "G" else square
        # Division by the weights of the measured neighbors gives their mean, also at the border.
        channels.append(spread(mosaic[..., 0] * measured, weights) / spread(measured, weights))
    return np.stack(channels, axis=-1)


def filtered_back_projection(
    sinogram: np.ndarray,
    shape: tuple[int, ...],
    *,
    angles: Sequence[float] = (),
    center: float | None = None,
) -> np.ndarray:
    """Reconstructs an image from its sinogram by scikit-image's `iradon` with the ramp filter; not clipped.

    Args:
      sinogram: `[P, num_angles, C]`, the measurement of `Radon`; P is N or the diagonal.
      shape: `(N, N)` or `(N, N, C)` of the image.
      angles: The angles in degrees; by default equally spaced in [0, 180).
      center: Index of the detector that sees the center of rotation; by default the middle.

    Returns:
      `[N, N, C]` float32.

    Raises:
      InputError: If the sinogram is not that of a square image of `shape`.

    References:
      Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.3.

    Example:
      >>> import numpy as np
      >>> filtered_back_projection(np.ones((12, 4, 1)), (8, 8)).shape
      (8, 8, 1)
    """
    sinogram = np.asarray(sinogram, np.float32)
    expected = num_detectors(shape[0])
    lengths = (shape[0], expected)
    if shape[0] != shape[1] or sinogram.ndim != 3 or sinogram.shape[0] not in lengths:
        raise InputError(
            f"A square image {list(shape)} needs a sinogram [{expected}, angles, C], got "
            f"{list(sinogram.shape)}."
        )
    if center is not None:
        shift = (sinogram.shape[0] // 2 - center, 0, 0)
        sinogram = ndimage.shift(sinogram, shift, order=1)
    theta = list(angles) or None
    channels = [
        iradon(sinogram[..., c], theta, output_size=shape[0], circle=False)
        for c in range(sinogram.shape[2])
    ]
    return np.stack(channels, axis=-1).astype(np.float32)


def denoising_baselines(noisy: np.ndarray) -> dict[str, np.ndarray]:
    """Denoises an image by scikit-image's total variation and non-local means.

    The noise level sigma is estimated from the image. Total variation has the weight sigma; non-local means have
    h = 0.8 sigma and no fast mode, as recommended in scikit-image's example.

    Args:
      noisy: `[H, W, C]` in [0, 1].

    Returns:
      An image `[H, W, C]` for each name of a method.

    References:
      Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994 (sigma).
      Chambolle, An algorithm for total variation minimization and applications, 2004.
      Buades, Coll and Morel, A non-local algorithm for image denoising, 2005.
      scikit-image's gallery, "Non-local means denoising for preserving textures".

    Example:
      >>> import numpy as np
      >>> noisy = np.random.default_rng(0).random((16, 16, 1))
      >>> sorted(denoising_baselines(noisy))
      ['non-local means', 'total variation']
    """
    sigma = float(np.mean(restoration.estimate_sigma(noisy, channel_axis=-1)))
    total_variation = restoration.denoise_tv_chambolle(noisy, weight=sigma, channel_axis=-1)
    non_local_means = restoration.denoise_nl_means(
        noisy,
        h=0.8 * sigma,
        sigma=sigma,
        patch_size=5,
        patch_distance=6,
        fast_mode=False,
        channel_axis=-1,
    )
    return {
        "total variation": total_variation,
        # scikit-image drops the axis of a single channel.
        "non-local means": non_local_means.reshape(noisy.shape),
    }

"""Classical methods, for previews and for comparison."""

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import restoration
from skimage.transform import iradon

from dip_jax.base import InputError
from dip_jax.operators.bayer import require_pattern
from dip_jax.operators.radon import num_detectors


def upsample_bicubic(image: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    """Enlarges a picture by Pillow's BICUBIC, without rounding or clipping.

    Args:
      image: `[h, w, C]`.
      factor: How many times larger.
      shape: `(H, W)` or `(H, W, C)` to which the result is cropped, at the bottom and right.

    Returns:
      `[H, W, C]` float32.

    Raises:
      InputError: If the enlarged picture is smaller than `shape`.
    """
    image = np.asarray(image, np.float32)
    rows, columns = image.shape[0] * factor, image.shape[1] * factor
    height, width = shape[:2]
    if rows < height or columns < width:
        raise InputError(
            f"A picture of {image.shape[0]} x {image.shape[1]}, {factor} times larger, is {rows} x "
            f"{columns}, which does not cover {height} x {width}; check task.factor."
        )
    enlarged = [
        np.asarray(Image.fromarray(channel).resize((columns, rows), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack(enlarged, axis=-1)[:height, :width]


def demosaic_bilinear(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Fills in the channels of a Bayer mosaic by the mean of their nearest neighbors.

    Args:
      mosaic: `[H, W, 1]`, at least 2 x 2.
      pattern: As for `Bayer`.

    Returns:
      `[H, W, 3]` float32; what was measured is kept.

    Raises:
      InputError: On another shape or an unknown pattern.
    """
    require_pattern(pattern)
    mosaic = np.asarray(mosaic, np.float32)
    if mosaic.ndim != 3 or mosaic.shape[2] != 1 or min(mosaic.shape[:2]) < 2:
        raise InputError(
            f"A mosaic must be [H, W, 1] and at least 2 x 2, came {list(mosaic.shape)}."
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
        seen = (filters == name).astype(np.float32)
        weights = cross if name == "G" else square
        # Dividing by the weights that met a measured pixel makes it a mean, also at the border.
        channels.append(spread(mosaic[..., 0] * seen, weights) / spread(seen, weights))
    return np.stack(channels, axis=-1)


def filtered_back_projection(sinogram: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The classical reconstruction, by scikit-image with its ramp filter; not clipped.

    Args:
      sinogram: `[P, num_angles, C]`, as `Radon` measures it.
      shape: `(N, N)` or `(N, N, C)` of the picture.

    Returns:
      `[N, N, C]` float32.

    Raises:
      InputError: If the sinogram is not that of a square picture of `shape`.
    """
    sinogram = np.asarray(sinogram, np.float32)
    expected = num_detectors(shape[0])
    if shape[0] != shape[1] or sinogram.ndim != 3 or sinogram.shape[0] != expected:
        raise InputError(
            f"A sinogram [{expected}, angles, C] of a square picture is needed for {list(shape)}, came "
            f"{list(sinogram.shape)}."
        )
    channels = [
        iradon(sinogram[..., c], output_size=shape[0], circle=False)
        for c in range(sinogram.shape[2])
    ]
    return np.stack(channels, axis=-1).astype(np.float32)


def baselines(noisy: np.ndarray) -> dict[str, np.ndarray]:
    """What scikit-image makes of a noisy picture `[H, W, C]`, its noise estimated from the picture.

    Total variation with the estimated noise as its weight, and non-local means with h = 0.8 sigma and
    fast_mode off, as scikit-image's own example recommends for it.

    References:
      Chambolle 2004; Buades, Coll and Morel 2005; scikit-image's gallery, "Non-local means denoising
      for preserving textures".
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
    return {"total variation": total_variation, "non-local means": non_local_means}

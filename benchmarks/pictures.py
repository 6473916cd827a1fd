"""The twelve color crops of the denoising protocol, in two disjoint halves, and their noise.

Settings are chosen on `development`. `test` is looked at once per decision. All images come with scikit-image,
scikit-learn or Matplotlib, so the protocol needs no download.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
from matplotlib import cbook
from scipy import ndimage
from skimage import data, io
from sklearn.datasets import load_sample_image

_BLUR = 0.7
_JPEG_QUALITY = 85


class Picture(NamedTuple):
    """A clean image, and the corner of its crop."""

    read: Callable[[], np.ndarray]
    top: int
    left: int


def _hopper() -> np.ndarray:
    return io.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def _motorcycle() -> np.ndarray:
    return data.stereo_motorcycle()[0]


HALVES: dict[str, dict[str, Picture]] = {
    "development": {
        "astronaut": Picture(data.astronaut, 10, 130),
        "chelsea": Picture(data.chelsea, 22, 130),
        "coffee": Picture(data.coffee, 90, 180),
        "rocket": Picture(data.rocket, 100, 220),
        "motorcycle": Picture(_motorcycle, 150, 256),
        "garage": Picture(_motorcycle, 0, 0),
    },
    "test": {
        "ihc": Picture(data.immunohistochemistry, 0, 0),
        "retina": Picture(data.retina, 300, 150),
        "hubble": Picture(data.hubble_deep_field, 400, 0),
        "china": Picture(lambda: load_sample_image("china.jpg"), 80, 80),
        "flower": Picture(lambda: load_sample_image("flower.jpg"), 80, 180),
        "hopper": Picture(_hopper, 100, 100),
    },
}


def _bundled(name: str) -> Callable[[], np.ndarray]:
    """A picture of scikit-image, with an axis of channels."""

    def read() -> np.ndarray:
        pixels = np.asarray(getattr(data, name)())
        return pixels if pixels.ndim == 3 else pixels[..., None]

    return read


INTERVALS: dict[str, Picture] = {
    **HALVES["test"],
    "ihc2": Picture(data.immunohistochemistry, 300, 300),
    "china2": Picture(lambda: load_sample_image("china.jpg"), 220, 400),
    "flower2": Picture(lambda: load_sample_image("flower.jpg"), 200, 400),
    "hopper2": Picture(_hopper, 330, 250),
    "camera": Picture(_bundled("camera"), 80, 180),
    "brick": Picture(_bundled("brick"), 100, 100),
    "grass": Picture(_bundled("grass"), 100, 100),
    "gravel": Picture(_bundled("gravel"), 100, 100),
    "coins": Picture(_bundled("coins"), 80, 100),
    "moon": Picture(_bundled("moon"), 150, 150),
    "page": Picture(_bundled("page"), 50, 100),
    "clock": Picture(_bundled("clock"), 100, 130),
    "cell": Picture(_bundled("cell"), 280, 200),
    "text": Picture(_bundled("text"), 20, 100),
}
"""Twenty crops for intervals, ten of them gray. No setting was chosen on them."""


def clean_crop(picture: Picture, side: int) -> np.ndarray:
    """Returns a crop `[side, side, C]` in [0, 1].

    The crop has twice the side and is halved, which removes the traces of JPEG, if the image is large enough. Its
    corner moves if the crop would not fit.

    Args:
      picture: The picture.
      side: Height and width.
    """
    pixels = np.asarray(picture.read(), np.float32)[..., :3] / 255
    factor = 2 if min(pixels.shape[:2]) >= 2 * side else 1
    top, left = (
        max(0, min(first, n - factor * side))
        for first, n in zip((picture.top, picture.left), pixels.shape[:2], strict=True)
    )
    crop = pixels[top : top + factor * side, left : left + factor * side]
    return crop.reshape(side, factor, side, factor, -1).mean(axis=(1, 3))


def noisy_image(
    clean: np.ndarray, name: str, noise_std: float, *, seed: int, clip: bool, noise: str = "white"
) -> np.ndarray:
    """Adds noise to a clean image.

    Args:
      clean: `[H, W, C]`.
      name: Name of the picture.
      noise_std: Noise level in gray levels.
      seed: Seed of the noise.
      clip: Clip to [0, 1].
      noise: `white`; `blurred` by 0.7 pixels, at the same level; or `jpeg`, white noise in a file of quality 85.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = random.normal(size=clean.shape).astype(np.float32)
    if noise == "blurred":
        values = ndimage.gaussian_filter(values, (_BLUR, _BLUR, 0))
        values /= values.std()
    noisy = clean + values * noise_std / 255
    if noise == "jpeg":
        stored = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
        file = iio.imwrite("<bytes>", stored, extension=".jpg", quality=_JPEG_QUALITY)
        noisy = iio.imread(file).astype(np.float32) / 255
    return (np.clip(noisy, 0, 1) if clip else noisy).astype(np.float32)

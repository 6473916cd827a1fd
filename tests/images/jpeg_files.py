"""JPEG files for tests: a photo detail, saved by Pillow or jpeglib."""

import functools

import jpeglib
import numpy as np
import skimage.data
from PIL import Image, ImageOps

SUBSAMPLING_NAMES = ["4:4:4", "4:2:2", "4:2:0", "4:4:0"]


@functools.cache
def astronaut(height=93, width=85, channels=3):
    """A detail of a photo with face and helmet, uint8; by default no side is a multiple of 8."""
    pixels = skimage.data.astronaut()[60 : 60 + height, 180 : 180 + width]
    return pixels if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def save(path, pixels, quality=50, subsampling="4:2:0", **options):
    """Saves by Pillow, or 4:4:0 by jpeglib because Pillow cannot; returns the decoded pixels in [0, 1]."""
    if pixels.shape[-1] == 1:
        Image.fromarray(pixels[..., 0]).save(path, quality=quality, **options)
    elif subsampling == "4:4:0":
        spatial = jpeglib.from_spatial(np.ascontiguousarray(pixels))
        spatial.samp_factor = ((2, 1), (1, 1), (1, 1))
        spatial.write_spatial(str(path), quality)
    else:
        Image.fromarray(pixels).save(path, quality=quality, subsampling=subsampling, **options)
    with Image.open(path) as image:
        decoded = np.asarray(ImageOps.exif_transpose(image), np.float32) / 255
    return decoded if decoded.ndim == 3 else decoded[..., None]

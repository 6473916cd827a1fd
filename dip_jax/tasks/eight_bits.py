"""Clean images in 8 bits, as Pillow degrades them."""

import numpy as np
from PIL import Image


def eight_bit_channels(image: np.ndarray) -> list[Image.Image]:
    """Returns each channel of an image as an 8-bit image.

    Args:
      image: `[H, W, C]` in [0, 1]; other values are clipped.

    Example:
      >>> import numpy as np
      >>> [channel] = eight_bit_channels(np.full((2, 3, 1), 0.5))
      >>> channel.size, channel.getpixel((0, 0))
      ((3, 2), 128)
    """
    stored = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return [Image.fromarray(stored[..., c]) for c in range(image.shape[-1])]

"""JPEG files that lack their end: whether the image is complete nevertheless.

A decoder fills in missing data without an error, so success proves nothing. An image is complete if it does not depend
on the bytes that follow the end of the file, and if every coefficient was sent to its last bit.

References:
  ITU-T T.81, 1992, annexes B (markers) and G (progressive scans).
"""

import io
import re
import struct

import numpy as np

from dip_jax.images.open_pillow import open_image

_END = b"\xff\xd9"
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that is no restart marker
# Between them, they differ from each other and from zeros in the first missing bit.
_FILLERS = (b"", b"\x55" * 64, b"\xaa" * 64)
_NUM_COEFFICIENTS = 64


def complete_jpeg(data: bytes) -> bytes | None:
    """Returns a JPEG file with its end marker; None if more than the marker is missing.

    Args:
      data: The content of a file that a decoder refuses as truncated.
    """
    data = data.removesuffix(_END[:1])  # half a marker
    try:
        if not _is_fully_refined(data):
            return None
        files = [io.BytesIO(data + filler + _END) for filler in _FILLERS]
        images = [open_image(file).read(index=0) for file in files]
    except Exception:  # the decoder may raise anything on a damaged file
        return None
    is_complete = all(np.array_equal(image, images[0]) for image in images)
    return data + _END if is_complete else None


def _is_fully_refined(data: bytes) -> bool:
    """Whether the scans of a file hold all bits of all coefficients; progressive files send them step by step."""
    components, missing_bits = b"", dict[tuple[int, int], int]()
    position = len(_END)
    while position + 4 <= len(data):
        marker, length = struct.unpack_from(">xBH", data, position)
        segment = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker in (0xC0, 0xC1, 0xC2):  # the frame
            components = segment[6::3]
        elif marker == 0xDA:  # a scan
            end = 1 + 2 * segment[0]
            first, last, bits = segment[end : end + 3]
            for component in segment[1:end:2]:
                for k in range(first, last + 1):
                    missing_bits[component, k] = bits & 15
            match = _AFTER_SCAN.search(data, position)
            position = match.start() if match else len(data)
    coefficients = [(c, k) for c in components for k in range(_NUM_COEFFICIENTS)]
    return bool(coefficients) and all(missing_bits.get(key) == 0 for key in coefficients)

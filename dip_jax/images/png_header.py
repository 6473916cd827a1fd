"""The chunks of a PNG file that precede its pixels.

References:
  W3C, Portable Network Graphics Specification, Third Edition, 2025, sections 5.3 (chunk layout) and 11.3.3.5 (eXIf).
"""

import struct
from typing import BinaryIO

_SIGNATURE_BYTES, _CHECKSUM_BYTES = 8, 4


def exif_before_pixels(file: BinaryIO) -> bytes | None:
    """Returns the Exif data that precede the pixels of a PNG file; None if there are none.

    The pixels are not read. Exif data behind them are allowed, but only reading all pixels finds them.

    Args:
      file: The file, at any position.
    """
    file.seek(_SIGNATURE_BYTES)
    while len(start := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", start)
        if name == b"eXIf":
            return file.read(size)
        if name == b"IDAT":
            break
        file.seek(size + _CHECKSUM_BYTES, 1)
    return None

"""PNG files of 16 bits per sample; Pillow, and so imageio, would reduce colors to 8 bits and ignore a transparent gray.

libpng writes its warnings to the terminal. It gets only chunks that cause none: the rows of one image without
interlacing, and the transparent color. The image of each pass of an interlaced file is decoded by itself.

References:
  W3C, Portable Network Graphics Specification, Second Edition, 2003, sections 4.5.2 (interlacing) and 5 (chunks).
"""

import struct
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np

HEADER_END = 33
"""Size of the signature and the IHDR chunk, which the PNG standard puts first."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}  # by color type
# First row, first column, distance of rows, distance of columns.
_PASSES = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)


def has_16_bits(start: bytes) -> bool:
    """Whether a file that starts with these bytes, at least `HEADER_END`, is a PNG of 16 bits per sample."""
    return start.startswith(_SIGNATURE) and len(start) >= HEADER_END and start[24] == 16


def decode_png16(data: bytes) -> np.ndarray:
    """Decodes a PNG file of 16 bits per sample.

    Args:
      data: The content of the file.

    Returns:
      uint16 `[H, W, channels]`; a transparent color becomes alpha.

    Raises:
      ValueError: If the file is damaged.
    """
    chunks = dict[bytes, bytes]()
    for name, body in _read_chunks(data):
        chunks[name] = chunks.get(name, b"") + body if name == b"IDAT" else body
    width, height, depth, color_type, compression, filtering, interlacing = struct.unpack(
        ">IIBBBBB", chunks[b"IHDR"]
    )
    if color_type not in _SAMPLES or depth != 16 or compression or filtering or interlacing > 1:
        raise ValueError("its header has values that the PNG standard does not allow")
    transparent = [(b"tRNS", chunks[b"tRNS"])] if b"tRNS" in chunks else []
    passes = _PASSES if interlacing else ((0, 0, 1, 1),)
    shapes = [(-(-(height - y) // dy), -(-(width - x) // dx)) for y, x, dy, dx in passes]
    # Each row starts with the number of its filter. An empty pass has no rows.
    sizes = [h * (1 + w * 2 * _SAMPLES[color_type]) if w > 0 else 0 for h, w in shapes]
    rows = zlib.decompressobj().decompress(chunks.get(b"IDAT", b""), sum(sizes))
    if len(rows) < sum(sizes):
        raise ValueError("the file ends before its data")
    image, start = None, 0
    for (y, x, dy, dx), (h, w), size in zip(passes, shapes, sizes, strict=True):
        if size:
            header = struct.pack(">IIBBBBB", w, h, 16, color_type, 0, 0, 0)
            idat = zlib.compress(rows[start : start + size], level=0)
            part = imagecodecs.png_decode(
                _SIGNATURE
                + b"".join(
                    _chunk(name, body)
                    for name, body in [
                        (b"IHDR", header),
                        *transparent,
                        (b"IDAT", idat),
                        (b"IEND", b""),
                    ]
                )
            ).reshape(h, w, -1)
            if image is None:
                image = np.empty((height, width, part.shape[-1]), np.uint16)
            image[y::dy, x::dx] = part
        start += size
    if image is None:
        raise ValueError("it has no pixels")
    return image


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and contents of the chunks that libpng needs."""
    position = len(_SIGNATURE)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        if name == b"IEND":
            return
        if name in (b"IHDR", b"IDAT", b"tRNS"):
            if _chunk(name, body) != data[position : position + 12 + length]:
                raise ValueError(f"the chunk {name.decode()} has a wrong checksum")
            yield name, body
        position += 12 + length
    raise ValueError("the file ends before its last chunk")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

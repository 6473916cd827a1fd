"""Exif data of a photo, cleaned for the restored image.

Exif data are a small TIFF file whose parts point to each other by offsets. The entries are edited in place, so all
others stay the same to the byte, also the maker's notes, whose inner offsets nobody else knows.

References:
  CIPA DC-008, Exchangeable image file format for digital still cameras: Exif, 2019.
"""

import struct

_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # by the start of the TIFF file
_ORIENTATION, _DETAILS = 0x0112, 0x8769
_UPRIGHT = (_ORIENTATION, 3, 1, 1, 0)  # one short integer, 1
_THUMBNAIL_OFFSET, _THUMBNAIL_SIZE = 0x0201, 0x0202
# Size, layout, resolution, XMP and color profile: the restored file states its own.
_STATED_BY_FILE = frozenset(
    (
        *(0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0115, 0x0116, 0x0117, 0x011C),
        *(0x011A, 0x011B, 0x0128, 0x02BC, 0x8773),
    )
)
_SIZES = frozenset((0xA002, 0xA003))
_ENTRY_SIZE = 12


def clean(data: bytes | None) -> bytes | None:
    """Cleans Exif data.

    The orientation becomes 1, because the image is turned upright. The thumbnail, which shows the degraded image, and
    the tags that the restored file states itself are removed.

    Args:
      data: Exif data, with or without the prefix that they have in a JPEG file.

    Returns:
      The data from the TIFF header on; None if nothing is left, or if they are damaged.
    """
    content = bytearray(data or b"")
    while content.startswith(_PREFIX):
        del content[: len(_PREFIX)]
    order = _BYTE_ORDERS.get(bytes(content[:4]))
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}L", content, 4)
        entries, thumbnail = _edit_directory(content, order, start, _STATED_BY_FILE)
        if entries.keys() <= {_ORIENTATION}:
            return None
        if _DETAILS in entries:
            _edit_directory(content, order, entries[_DETAILS], _SIZES)
        if thumbnail:
            _erase_thumbnail(content, order, thumbnail)
    except (struct.error, IndexError):
        return None
    return bytes(content)


def orientation(data: bytes | None) -> int:
    """Returns the orientation of an image by its Exif data; 1 (upright) if they do not state a valid one.

    Args:
      data: Exif data, as for `clean`; None for none.
    """
    content = (data or b"").removeprefix(_PREFIX)
    order = _BYTE_ORDERS.get(content[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}L", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        for position in range(start + 2, start + 2 + _ENTRY_SIZE * count, _ENTRY_SIZE):
            tag, value = struct.unpack_from(f"{order}H6xH", content, position)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _edit_directory(
    content: bytearray, order: str, start: int, removed: frozenset[int]
) -> tuple[dict[int, int], int]:
    """Removes entries of a directory, and its link to the next one.

    Returns:
      The values of the entries that are kept, read as offsets, by tag; and the offset of the next directory.
    """
    (count,) = struct.unpack_from(f"{order}H", content, start)
    table, end = start + 2, start + 2 + _ENTRY_SIZE * count
    (following,) = struct.unpack_from(f"{order}L", content, end)
    kept, values = b"", dict[int, int]()
    for position in range(table, end, _ENTRY_SIZE):
        tag, value = struct.unpack_from(f"{order}H6xL", content, position)
        if tag not in removed:
            entry = content[position : position + _ENTRY_SIZE]
            kept += struct.pack(f"{order}HHLHH", *_UPRIGHT) if tag == _ORIENTATION else entry
            values[tag] = value
    edited = struct.pack(f"{order}H", len(values)) + kept
    content[start : end + 4] = edited.ljust(end + 4 - start, b"\0")
    return values, following


def _erase_thumbnail(content: bytearray, order: str, directory: int) -> None:
    entries, _ = _edit_directory(content, order, directory, frozenset())
    start, size = entries.get(_THUMBNAIL_OFFSET, 0), entries.get(_THUMBNAIL_SIZE, 0)
    if start + size >= len(content):  # it is usually the last part
        del content[max(start, directory) :]
    else:
        content[start : start + size] = bytes(size)

"""Texts of a TIFF file about its origin: camera, date, artist and copyright."""

from collections.abc import Sequence

import tifffile

_CODES = (271, 272, 306, 315, 33432)  # Make, Model, DateTime, Artist, Copyright


def read_texts(page: tifffile.TiffPage) -> tuple[tuple[int, str], ...]:
    """Returns the codes and texts of the tags of a page."""
    texts = ((tag.code, tag.value) for tag in page.tags if tag.code in _CODES)
    return tuple((code, text) for code, text in texts if isinstance(text, str) and text)


def to_extratags(texts: Sequence[tuple[int, str]]) -> list[tuple[int, str, int, bytes, bool]]:
    """Returns texts as the argument `extratags` of tifffile; as bytes, because it refuses text that is not ASCII."""
    return [(code, "s", 0, text.encode(), True) for code, text in texts]

"""A TIFF file of several pages, joined again after its pages were restored one by one."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import tifffile

from dip_jax.images.decode import stack_pages
from dip_jax.images.tiff_texts import read_texts, to_extratags
from dip_jax.storage import atomic
from dip_jax.storage.paths import AnyPath, local_copy


def write_stack(path: AnyPath, pages: Sequence[AnyPath], source: AnyPath) -> None:
    """Joins TIFF files of one page each, whole or not at all.

    Args:
      path: The file to write; an existing one is replaced.
      pages: The files of the pages, in order.
      source: The file that the pages are from; its text (pixel sizes of ImageJ and OME) is copied.

    Raises:
      OSError: If the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(local_copy(page)) for page in (source, *pages)]
        atomic.write(path, lambda file: _join(file, copies[1:], copies[0]), durable=True)


def _join(file: BinaryIO, pages: Sequence[Path], source: Path) -> None:
    with tifffile.TiffFile(source) as tiff:
        image = tiff.pages[stack_pages(source)[0]].aspage()
        text = image.description
    with tifffile.TiffFile(pages[0]) as restored:
        is_same_size = restored.pages.first.shape == image.shape
    # The texts of tifffile and OME state the shape.
    states_shape = image.is_shaped or "<OME" in text
    description = text.encode() or None if is_same_size or not states_shape else None
    with tifffile.TiffWriter(file, bigtiff=sum(p.stat().st_size for p in pages) > 2**32) as writer:
        for number, page in enumerate(pages):
            with tifffile.TiffFile(page) as restored:
                first = restored.pages.first.aspage()
                x, y = (
                    first.tags.valueof(name) or (1, 1) for name in ("XResolution", "YResolution")
                )
                writer.write(
                    first.asarray(),
                    photometric=first.photometric,
                    planarconfig=first.planarconfig if first.samplesperpixel > 1 else None,
                    extrasamples=first.extrasamples or None,
                    resolution=(x[0] / x[1], y[0] / y[1]),
                    resolutionunit=first.tags.valueof("ResolutionUnit", 1),
                    iccprofile=first.tags.valueof("InterColorProfile"),
                    description=description if number == 0 else None,
                    metadata=None,
                    extratags=to_extratags(read_texts(first)),
                    contiguous=False,
                )

"""A TIFF file of several pages, joined again after its pages were restored one by one."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import imageio.v3 as iio
import tifffile

from dip_jax.images.decode import decode, stack_pages
from dip_jax.images.decoded import Decoded
from dip_jax.images.encode_tiff import write_pages
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
    with tifffile.TiffFile(source) as tiff:  # imageio has no access to the image in a preview
        image = tiff.pages[stack_pages(source)[0]].aspage()
        text = image.description
    is_same_size = iio.improps(pages[0], plugin="tifffile").shape == image.shape
    # The texts of tifffile and OME state the shape.
    states_shape = image.is_shaped or "<OME" in text
    first_text = text if is_same_size or not states_shape else None
    write_pages(file, _read(pages, first_text), sum(page.stat().st_size for page in pages))


def _read(pages: Sequence[Path], text: str | None) -> Iterator[Decoded]:
    """Reads the restored pages; the first one gets a text."""
    for page in pages:
        decoded = decode(page, sys.maxsize)
        yield decoded._replace(tags=decoded.tags._replace(description=text))
        text = None

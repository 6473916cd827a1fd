"""A TIFF file of several pages, joined again after its pages were restored one by one."""

import io
from collections.abc import Sequence
from pathlib import Path

import tifffile

from dip_jax.images import atomic
from dip_jax.report.manifest import Manifest


def page_name(stack: str, page: int) -> str:
    """The name of a page as an image of the run.

    Example:
      >>> page_name("cells", 0)
      'cells/page-0001'
    """
    return f"{stack}/page-{page + 1:04d}"


def write_stack(output: Path, stack: str, source: Path, num_pages: int) -> Path | None:
    """Joins the restored pages of a TIFF file into `restored.tif` in the folder of the stack.

    The text of the file (pixel sizes of ImageJ and OME) and its resolution are copied.

    Args:
      output: The output folder of the run.
      stack: The name of the stack.
      source: The file with the pages.
      num_pages: Number of its pages.

    Returns:
      The file; None if a page is missing.

    Raises:
      OSError: If the file cannot be written.
    """
    pages = [output / page_name(stack, page) / "restored.tif" for page in range(num_pages)]
    if not all(page.is_file() for page in pages):
        return None
    path = Manifest(output, stack).path("restored.tif")
    data = _join(pages, source)
    atomic.write(path, lambda file: file.write(data), durable=True)
    return path


def _join(pages: Sequence[Path], source: Path) -> bytes:
    with tifffile.TiffFile(source) as tiff:
        description = tiff.pages.first.aspage().description or None
    buffer = io.BytesIO()
    with tifffile.TiffWriter(
        buffer, bigtiff=sum(p.stat().st_size for p in pages) > 2**32
    ) as writer:
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
                    contiguous=False,
                )
    return buffer.getvalue()

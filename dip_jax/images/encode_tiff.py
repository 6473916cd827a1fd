"""TIFF files of one or several pages, written by tifffile through imageio."""

from collections.abc import Iterable
from typing import Any, BinaryIO

import imageio.v3 as iio

from dip_jax.images.decoded import Decoded

_MAX_BYTES = 2**32 - 2**25  # offsets have 32 bits; the rest is for the tags


def write_pages(file: BinaryIO, pages: Iterable[Decoded], num_bytes: int) -> None:
    """Writes a TIFF file.

    Args:
      file: An empty file.
      pages: The pages, upright, with the tags to write.
      num_bytes: The size of all values; a BigTIFF file is written if it needs offsets of 64 bits.
    """
    options: dict[str, Any] = {"extension": ".tif", "bigtiff": num_bytes > _MAX_BYTES}
    with iio.imopen(file, "w", plugin="tifffile", **options) as writer:
        for page in pages:
            values, tags, has_alpha = page.values, page.tags, page.has_alpha
            channels = values.shape[-1]
            is_rgb = channels - has_alpha == 3
            num_bands = channels - has_alpha - (3 if is_rgb else 1)
            writer.write(
                values if channels > 1 else values[..., 0],
                photometric="rgb" if is_rgb else "minisblack",
                planarconfig="contig" if channels > 1 else None,
                extrasamples=("unspecified",) * num_bands + ("unassalpha",) * has_alpha or None,
                iccprofile=tags.icc_profile,
                resolution=tags.dpi or tags.pixels_per_unit,
                resolutionunit="inch" if tags.dpi else "none",
                # As bytes, because tifffile refuses text that is not ASCII, such as a micrometer.
                description=tags.description.encode() if tags.description else None,
                extratags=[(code, "s", 0, text.encode(), True) for code, text in tags.texts],
                metadata=None,  # otherwise tifffile adds a description of its own
                contiguous=False,
            )

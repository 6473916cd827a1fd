"""TIFF files, decoded by tifffile: imageio reaches no sub-images, and fails for a file with an unknown unit of resolution.

A file may hold its image in several sizes: a preview before the image, thumbnails after it, or a pyramid. A page does
not count as an image if its tag says that it is a reduced image or a mask, or if it may be a smaller copy of another
page by its size.
"""

import logging
from typing import BinaryIO

import numpy as np
import tifffile

from dip_jax.errors import InputError
from dip_jax.images.decoded import (
    ZERO_IS_WHITE,
    Decoded,
    Header,
    Tags,
    band_notes,
    check_dtype,
    check_page,
    check_size,
    split_alpha,
    unknown_colors,
    upright_resolution,
    upright_shape,
    widen,
)
from dip_jax.images.value_range import full_scale

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF

# Without a handler, Python writes the log of tifffile about damaged tags to the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_GDAL_NODATA = 42113  # the TIFF tag
_CFA_PATTERN = 33422  # the TIFF tag of TIFF/EP
_TEXTS = (271, 272, 306, 315, 33432)  # Make, Model, DateTime, Artist, Copyright
_REDUCED_OR_MASK = 0b101  # bits of the tag NewSubfileType


def peek_tiff(file: BinaryIO, page: int | None) -> Header:
    """Reads the header of a page; the errors are those of tifffile."""
    with tifffile.TiffFile(file) as tiff:
        number = _image_pages(tiff)[0] if page is None else page
        kept = _full_image(tiff.pages[number].aspage())
        is_palette = kept.photometric == tifffile.PHOTOMETRIC.PALETTE
        num_alpha = tifffile.EXTRASAMPLE.UNASSALPHA in kept.extrasamples
        channels = 3 if is_palette else kept.samplesperpixel - num_alpha
        orientation = kept.tags.valueof("Orientation", 1)
        shape = upright_shape(kept.imagelength, kept.imagewidth, channels, orientation)
        return Header(shape, len(tiff.pages))


def stack_pages(file: BinaryIO) -> tuple[int, ...]:
    """Returns the indices of the pages of a stack: of all images of the file, if they have the same shape and type.

    The errors are those of tifffile.
    """
    with tifffile.TiffFile(file) as tiff:
        numbers = _image_pages(tiff)
        images = [_full_image(tiff.pages[number].aspage()) for number in numbers]
        kinds = {(image.shape, image.dtype, image.photometric) for image in images}
        return numbers if len(kinds) == 1 else numbers[:1]


def decode_tiff(file: BinaryIO, max_pixels: int, page: int | None) -> Decoded:
    """Decodes a page of a file, by default the first image; the arguments and errors are those of `decode.decode`."""
    with tifffile.TiffFile(file) as tiff:
        num_pages = len(tiff.pages)
        check_page(page, num_pages)
        numbers = _image_pages(tiff) if page is None else (page,)
        first = tiff.pages[numbers[0]].aspage()
        kept = _full_image(first)
        check_size(kept.imagewidth, kept.imagelength, max_pixels)
        _check_kind(kept)
        # Some decoders silently fill in the missing end of a file.
        ends = map(sum, zip(kept.dataoffsets, kept.databytecounts, strict=False))
        if max(ends) > tiff.filehandle.size:
            raise ValueError("the file ends before its data")
        planes = kept.asarray(squeeze=False)[:, 0]  # [planes, H, W, samples of a plane]

    values = np.moveaxis(planes, 0, -2).reshape(kept.imagelength, kept.imagewidth, -1)
    bits = kept.bitspersample
    notes: tuple[str, ...] = ()
    if kept is not first:
        notes += (f"page {numbers[0] + 1} is a preview; the full image in it is taken",)
    if page is None and len(numbers) < num_pages:
        num_copies = num_pages - len(numbers)
        notes += (
            f"page {numbers[0] + 1} of {num_pages} taken; {num_copies} of the pages are previews, masks or smaller "
            "copies; --page takes another one",
        )
    if kept.photometric == tifffile.PHOTOMETRIC.PALETTE:
        # A palette has 16 bits per color; by convention only the upper 8 are used.
        palette = (np.asarray(kept.colormap) >> 8).astype(np.uint8)  # [3, colors]
        values = np.moveaxis(palette[:, values[..., 0].astype(int)], 0, -1)
        notes += ("palette expanded to RGB",)
    elif values.dtype.kind == "b" or (values.dtype.kind == "u" and bits < 8 * values.itemsize):
        values, widening = widen(values, bits)
        notes += widening
    has_alpha = _has_alpha(kept)
    if kept.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        colors, _ = split_alpha(values, has_alpha)
        colors[...] = sum(full_scale(values.dtype)) - colors
        notes += (f"{ZERO_IS_WHITE}; written with 0 as black",)
    orientation = kept.tags.valueof("Orientation", 1)
    resolution, per_inch = _resolution(kept)
    resolution = upright_resolution(resolution, orientation)
    tags = Tags(
        kept.tags.valueof("InterColorProfile"),
        dpi=resolution if per_inch else None,
        pixels_per_unit=None if per_inch else resolution,
        # The text of ImageJ and OME counts the pages, and one page is written.
        # That of tifffile states the shape, which differs if the bands were planes.
        description=kept.description or None if num_pages == 1 and not kept.is_shaped else None,
        texts=_texts(kept),
        bayer_pattern=_bayer_pattern(kept) if orientation == 1 else None,
    )
    if len(kept.extrasamples) - has_alpha > 0:
        notes += band_notes(values.shape[-1] - has_alpha)
    nodata = _nodata(kept)
    return Decoded(values, ".tif", orientation, len(numbers), tags, notes, has_alpha, nodata)


def _bayer_pattern(page: tifffile.TiffPage) -> str | None:
    """The colors of the 2 x 2 pixels of a raw mosaic, row by row; None if the file does not state them."""
    try:
        colors = bytes(page.tags.valueof(_CFA_PATTERN))
    except TypeError:  # no tag, or no bytes
        return None
    is_known = len(colors) == 4 and set(colors) <= {0, 1, 2}
    return "".join("RGB"[color] for color in colors) if is_known else None


def _image_pages(tiff: tifffile.TiffFile) -> tuple[int, ...]:
    """The indices of the pages that are images of their own; at least one."""
    # `len` also finds out where a damaged list of pages ends; an iteration would raise an error.
    images = [_full_image(tiff.pages[i].aspage()) for i in range(len(tiff.pages))]
    full = [i for i, image in enumerate(images) if not _is_reduced(image)]
    sizes = {i: (images[i].imagelength, images[i].imagewidth) for i in full or range(len(images))}
    different = set(sizes.values())
    return tuple(i for i, size in sizes.items() if not any(_is_copy(size, d) for d in different))


def _full_image(page: tifffile.TiffPage) -> tifffile.TiffPage:
    """The page itself; of a preview, the largest full image in its sub-images, if there is one."""
    if not _is_reduced(page):
        return page
    children = [child.aspage() for child in page.pages or ()]
    full = [child for child in children if not _is_reduced(child)]
    return max(full or [page], key=lambda image: image.imagelength * image.imagewidth)


def _is_reduced(page: tifffile.TiffPage) -> bool:
    return bool(page.subfiletype & _REDUCED_OR_MASK)


def _is_copy(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether an image of one size may be another one at half its size or less, with sides rounded to pixels."""
    (height, width), (other_height, other_width) = size, other
    is_small = 2 * height <= other_height + 1 and 2 * width <= other_width + 1
    error = abs(height * other_width - width * other_height)
    return is_small and error <= max(other_height, other_width)


def _resolution(page: tifffile.TiffPage) -> tuple[tuple[float, float] | None, bool]:
    """Pixels per inch or per another unit, horizontal and vertical, and whether the unit is the inch."""
    x, y = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
    factor = {2: 1.0, 3: 2.54}.get(page.tags.valueof("ResolutionUnit", 2))
    if not x or not y or not x[1] or not y[1]:
        return None, True
    scale = factor or 1.0
    return (scale * x[0] / x[1], scale * y[0] / y[1]), factor is not None


def _texts(page: tifffile.TiffPage) -> tuple[tuple[int, str], ...]:
    """The codes and texts of the tags about the origin of the image."""
    texts = ((tag.code, tag.value) for tag in page.tags if tag.code in _TEXTS)
    return tuple((code, text) for code, text in texts if isinstance(text, str) and text)


def _has_alpha(page: tifffile.TiffPage) -> bool:
    """Whether the file says that its last sample is alpha; samples of unknown meaning are bands."""
    extra = tuple(page.extrasamples)
    return bool(extra) and extra[-1] == tifffile.EXTRASAMPLE.UNASSALPHA


def _nodata(page: tifffile.TiffPage) -> float | None:
    """The value of the tag by which GDAL marks pixels without data."""
    try:
        return float(page.tags.valueof(_GDAL_NODATA))
    except (TypeError, ValueError):  # no tag, or no number
        return None


def _check_kind(page: tifffile.TiffPage) -> None:
    """Refuses a page that is not a plain gray or RGB image, before it is decoded."""
    kinds = tifffile.PHOTOMETRIC
    known = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
    # A raw mosaic (CFA) is gray until it is demosaiced.
    known |= page.photometric in (kinds.PALETTE, kinds.CFA) and page.samplesperpixel == 1
    # Only the JPEG decoder converts YCbCr to RGB.
    known |= page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if not known:
        raise unknown_colors(getattr(page.photometric, "name", str(page.photometric)))
    if page.imagedepth > 1:
        raise unknown_colors(f"{page.imagedepth} planes deep")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
        fault = "got colors multiplied by alpha; save it with unassociated alpha, or without"
        raise InputError(f"expected straight alpha, {fault}")
    check_dtype(np.dtype(page.dtype or object))

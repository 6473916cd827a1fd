"""Exif data reach the restored file, upright and without the thumbnail of the degraded image."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from dip_jax.images.exif import clean
from dip_jax.images.read import read_image
from dip_jax.images.write import write_image
from tests.images.image_files import noise, png_bytes, round_trip, save_tiff, smooth

THUMBNAIL = b"\xff\xd8" + b"thumbnail" * 20 + b"\xff\xd9"


def exif_bytes(order=">", orientation=6, with_thumbnail=True):
    """Exif data by the specification: camera, orientation, details with exposure and size, thumbnail."""
    pack = lambda layout, *values: struct.pack(order + layout, *values)  # noqa: E731
    short = lambda value: pack("HH", value, 0)  # noqa: E731
    model = "J\u00fcrgen".encode() + b"\0"
    start = {"base": 8}
    start["details"] = start["base"] + 2 + 12 * 3 + 4
    start["thumbnail"] = start["details"] + 2 + 12 * 2 + 4
    start["model"] = start["thumbnail"] + 2 + 12 * 2 + 4
    start["exposure"] = start["model"] + len(model)
    start["jpeg"] = start["exposure"] + 8
    base = [
        pack("HHL", 0x0110, 2, len(model)) + pack("L", start["model"]),
        pack("HHL", 0x0112, 3, 1) + short(orientation),
        pack("HHLL", 0x8769, 4, 1, start["details"]),
    ]
    details = [
        pack("HHL", 0x829A, 5, 1) + pack("L", start["exposure"]),
        pack("HHLL", 0xA002, 4, 1, 45),
    ]
    thumbnail = [
        pack("HHLL", 0x0201, 4, 1, start["jpeg"]),
        pack("HHLL", 0x0202, 4, 1, len(THUMBNAIL)),
    ]
    return (
        {">": b"MM\0*", "<": b"II*\0"}[order]
        + pack("L", start["base"])
        + pack("H", 3) + b"".join(base) + pack("L", start["thumbnail"] if with_thumbnail else 0)
        + pack("H", 2) + b"".join(details) + pack("L", 0)
        + pack("H", 2) + b"".join(thumbnail) + pack("L", 0)
        + model + pack("LL", 1, 250) + THUMBNAIL
    )  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_data_are_upright_without_thumbnail_and_otherwise_the_same(order, prefix):
    cleaned = clean(prefix + exif_bytes(order))
    exif = Image.Exif()
    exif.load(cleaned)
    assert exif[ExifTags.Base.Orientation] == 1
    assert exif[ExifTags.Base.Model].encode("latin-1").decode() == "Jürgen"
    assert dict(exif.get_ifd(ExifTags.IFD.Exif)) == {ExifTags.Base.ExposureTime: 1 / 250}
    assert exif.get_ifd(ExifTags.IFD.IFD1) == {}
    assert b"thumbnail" not in cleaned


@pytest.mark.parametrize(
    "data", [None, b"", b"no exif", b"MM\0*\0\0\0\x08\0\x05", b"II*\0\xff\xff\xff\xff"]
)
def test_damaged_or_empty_exif_data_are_left_out(data):
    assert clean(data) is None


def test_an_orientation_alone_is_left_out():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert clean(exif.tobytes()) is None


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # of Pillow
@pytest.mark.parametrize("cut", range(8, 150, 7))
def test_exif_data_cut_anywhere_are_left_out_or_can_be_read(cut):
    cleaned = clean(exif_bytes()[:cut])
    if cleaned is not None:
        exif = Image.Exif()
        exif.load(cleaned)
        assert exif.get(ExifTags.Base.Orientation, 1) == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_data_are_carried_to_a_png(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    Image.fromarray(smooth()).save(path, exif=b"Exif\0\0" + exif_bytes())
    _, target = round_trip(path)
    with Image.open(target) as written:
        written.verify()  # the checksums
        exif = written.getexif()
    assert exif[ExifTags.Base.Orientation] == 1
    assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] == 1 / 250
    np.testing.assert_array_equal(read_image(target).pixels, read_image(path).pixels)


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "behind"])
def test_exif_data_of_a_16_bit_png_are_carried_over(tmp_path, is_late):
    data = png_bytes(noise(3, np.uint16), (b"eXIf", exif_bytes()))
    if is_late:  # behind the pixels
        start, end = data.index(b"eXIf") - 4, data.index(b"IDAT") - 4
        data = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    (tmp_path / "in.png").write_bytes(data)
    stored, target = round_trip(tmp_path / "in.png")
    with Image.open(target) as written:
        assert written.getexif()[ExifTags.Base.Orientation] == 1
    assert stored.tags.exif == clean(exif_bytes())


def test_the_texts_of_a_tiff_about_camera_date_and_author_are_carried_over(tmp_path):
    texts = {
        271: "Maker",
        272: "Model",
        306: "2026:01:02 03:04:05",
        315: "Jürgen",
        33432: "© Jürgen",
    }
    tags = [(code, "s", 0, text.encode(), True) for code, text in texts.items()]
    save_tiff(tmp_path / "in.tif", smooth(), extratags=[*tags, (274, "H", 1, 3, True)])
    stored = read_image(tmp_path / "in.tif")
    write_image(tmp_path / "out.tif", stored.pixels, stored)
    with tifffile.TiffFile(tmp_path / "out.tif") as written:
        found = {code: written.pages.first.tags.valueof(code) for code in texts}
        assert written.pages.first.tags.valueof("Orientation", 1) == 1
    assert found == texts

"""A JPEG file without its end marker is read; one whose data are cut is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.images.jpeg_end import complete_jpeg
from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.images.read import read_image
from tests.images.jpeg_files import astronaut

NOTE = "the JPEG file lacks its end marker, but its image is complete"
KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "gray": {},
    "restarts": {"restart_marker_blocks": 3},
}


def encoded(kind):
    buffer = io.BytesIO()
    pixels = astronaut(channels=1)[..., 0] if kind == "gray" else astronaut()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80, **KINDS[kind])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_missing", [1, 2])
def test_a_missing_end_marker_is_added_with_a_note(tmp_path, kind, num_missing):
    data = encoded(kind)
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(data[:-num_missing])
    whole, cut = read_image(tmp_path / "whole.jpg"), read_image(tmp_path / "cut.jpg")
    np.testing.assert_array_equal(cut.pixels, whole.pixels)
    assert (whole.notes, cut.notes) == ((), (NOTE,))
    one, other = read_jpeg(tmp_path / "whole.jpg"), read_jpeg(tmp_path / "cut.jpg")
    for a, b in zip(one.coefficients, other.coefficients, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_missing", [3, 4, 5, 6, 10, 50, 400])
def test_missing_data_are_refused(tmp_path, kind, num_missing):
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded(kind)[:-num_missing])
    with pytest.raises(InputError, match="cut short"):
        read_image(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_jpeg(path)


def test_a_progressive_file_that_lacks_whole_scans_is_refused():
    data = encoded("progressive")
    scans = [i for i in range(len(data)) if data.startswith(b"\xff\xda", i)]
    tables = data.rindex(b"\xff\xc4", 0, scans[-1])  # of the last scan
    assert len(scans) > 5
    for end in (*scans[1:], tables):
        assert complete_jpeg(data[:end]) is None
    assert complete_jpeg(data[:-2]) == data


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda\0\x03\x09", b"text" * 9])
def test_what_has_no_image_is_not_completed(data):
    assert complete_jpeg(data) is None

import io

import jax
import numpy as np
import pytest
import scipy.fft
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import SUBSAMPLINGS, read_jpeg
from tests.images.jpeg_files import SUBSAMPLING_NAMES, astronaut, save


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (93, 85), (40, 97)])
def test_the_luma_of_the_coefficients_is_the_luma_that_pillow_decodes(tmp_path, size, progressive):
    path = tmp_path / "a.jpg"
    decoded = save(path, astronaut(*size, 1), 40, progressive=progressive)
    file = read_jpeg(path)
    assert file.shape == (*size, 1)
    blocks = file.coefficients[0] * file.tables[0].astype(float)
    pixels = scipy.fft.idctn(blocks, axes=(2, 3), norm="ortho") + 128
    image = pixels.swapaxes(1, 2).reshape(8 * blocks.shape[0], -1)[: size[0], : size[1]]
    np.testing.assert_allclose(np.clip(image, 0, 255), 255 * decoded[..., 0], atol=0.6)


@pytest.mark.parametrize("subsampling", SUBSAMPLING_NAMES)
def test_a_file_has_its_size_subsampling_and_tables(tmp_path, subsampling):
    path = tmp_path / "a.jpg"
    save(path, astronaut(), 30, subsampling)
    file = read_jpeg(path)
    v, h = SUBSAMPLINGS[subsampling]
    assert file[:4] == (93, 85, subsampling, 1)
    assert [part.shape[:2] for part in file.coefficients] == [
        (12, 11),
        *[(-(-93 // (8 * v)), -(-85 // (8 * h)))] * 2,
    ]
    with Image.open(path) as image:
        tables = image.quantization
    np.testing.assert_array_equal(file.tables[0].ravel(), tables[0])
    np.testing.assert_array_equal(file.tables[2].ravel(), tables[1])


def test_a_progressive_file_has_the_coefficients_of_a_baseline_one(tmp_path):
    save(tmp_path / "a.jpg", astronaut())
    save(tmp_path / "b.jpg", astronaut(), progressive=True)
    one, other = read_jpeg(tmp_path / "a.jpg"), read_jpeg(tmp_path / "b.jpg")
    jax.tree.map(np.testing.assert_array_equal, one.coefficients, other.coefficients)


def encoded(mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(astronaut()).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: encoded("CMYK"), "its colors are CMYK"),
        (lambda: encoded(keep_rgb=True), "its colors are RGB"),
        (lambda: encoded()[:1500], "cannot be read"),
        (lambda: encoded().replace(b"\xff\xdb", b"\xff\xe5"), "cannot be read"),  # no tables
        (lambda: encoded().replace(b"\xff\xc0", b"\xff\xc9", 1), "cannot be read"),  # arithmetic
        (lambda: encoded().replace(b"\x22\x00", b"\x41\x00", 1), "its sampling factors are"),
        (lambda: b"", "it is not one"),
        (lambda: b"GIF89a" * 50, "it is not one"),
    ],
)
def test_another_kind_of_file_is_refused_with_a_remedy(tmp_path, data, words):
    path = tmp_path / "a.jpg"
    path.write_bytes(data())
    with pytest.raises(InputError, match=rf"a\.jpg: expected .*{words}.*task\.jpeg=decoded"):
        read_jpeg(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jpg.*No such file"):
        read_jpeg(tmp_path / "none.jpg")

import functools
import io

import jax
import jax.numpy as jnp
import jpeglib
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import SUBSAMPLINGS, read_jpeg
from dip_jax.operators import jpeg
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.jpeg import Coefficients, Jpeg, fraction_kept, intervals, matches, project

NAMES = ["4:4:4", "4:2:2", "4:2:0", "4:4:0"]


@functools.cache
def astronaut(height=93, width=85, channels=3):
    """A detail with face and helmet, uint8; by default no side is a multiple of 8."""
    picture = skimage.data.astronaut()[60 : 60 + height, 180 : 180 + width]
    return (
        picture if channels == 3 else np.asarray(Image.fromarray(picture).convert("L"))[..., None]
    )


def save(path, pixels, quality=50, subsampling="4:2:0", **options):
    """Saves by Pillow, 4:4:0 by jpeglib, as Pillow cannot; returns the decoded pixels in [0, 1]."""
    if pixels.shape[-1] == 1:
        Image.fromarray(pixels[..., 0]).save(path, quality=quality, **options)
    elif subsampling == "4:4:0":
        picture = jpeglib.from_spatial(np.ascontiguousarray(pixels))
        picture.samp_factor = ((2, 1), (1, 1), (1, 1))
        picture.write_spatial(str(path), quality)
    else:
        Image.fromarray(pixels).save(path, quality=quality, subsampling=subsampling, **options)
    with Image.open(path) as picture:
        decoded = np.asarray(ImageOps.exif_transpose(picture), np.float32) / 255
    return decoded if decoded.ndim == 3 else decoded[..., None]


@jax.jit
def apply(operator, image):
    return operator(image)


class Compiled:
    """An operator whose operations are compiled together, as in a fit, and not one by one."""

    def __init__(self, operator):
        self.operator, self.is_linear = operator, operator.is_linear

    def __call__(self, image):
        return apply(self.operator, image)


def unit(pixels):
    return jnp.asarray(pixels, jnp.float32) / 255


# What a file says.


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (93, 85), (40, 97)])
def test_the_luma_that_is_read_is_the_luma_that_pillow_decodes(tmp_path, size, progressive):
    path = tmp_path / "a.jpg"
    decoded = save(path, astronaut(*size, 1), 40, progressive=progressive)
    file = read_jpeg(path)
    assert file.shape == (*size, 1)
    blocks = file.coefficients[0] * file.tables[0].astype(float)
    pixels = scipy.fft.idctn(blocks, axes=(2, 3), norm="ortho") + 128
    picture = pixels.swapaxes(1, 2).reshape(8 * blocks.shape[0], -1)[: size[0], : size[1]]
    np.testing.assert_allclose(np.clip(picture, 0, 255), 255 * decoded[..., 0], atol=0.6)


@pytest.mark.parametrize("subsampling", NAMES)
def test_a_file_says_its_size_sampling_and_tables(tmp_path, subsampling):
    path = tmp_path / "a.jpg"
    save(path, astronaut(), 30, subsampling)
    file = read_jpeg(path)
    v, h = SUBSAMPLINGS[subsampling]
    assert file[:4] == (93, 85, subsampling, 1)
    assert [part.shape[:2] for part in file.coefficients] == [
        (12, 11),
        *[(-(-93 // (8 * v)), -(-85 // (8 * h)))] * 2,
    ]
    with Image.open(path) as picture:
        tables = picture.quantization
    np.testing.assert_array_equal(file.tables[0].ravel(), tables[0])
    np.testing.assert_array_equal(file.tables[2].ravel(), tables[1])


def test_a_progressive_file_says_the_same_as_a_baseline_one(tmp_path):
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
        (lambda: b"", "it is none"),
        (lambda: b"GIF89a" * 50, "it is none"),
    ],
)
def test_what_is_no_such_file_is_refused_with_a_way_out(tmp_path, data, words):
    path = tmp_path / "a.jpg"
    path.write_bytes(data())
    with pytest.raises(InputError, match=rf"a\.jpg: expected .*{words}.*task\.jpeg=decoded"):
        read_jpeg(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jpg.*No such file"):
        read_jpeg(tmp_path / "none.jpg")


# The operator.


def test_the_coefficients_of_luma_are_scipys_cosine_transform():
    pixels = astronaut(40, 48, 3)
    luma = np.asarray(pixels / 255 @ np.array([0.299, 0.587, 0.114])).reshape(5, 8, 6, 8)
    expected = scipy.fft.dctn(luma, axes=(1, 3), norm="ortho").swapaxes(1, 2)
    came = apply(Coefficients("4:4:4"), unit(pixels))[: luma.size]
    np.testing.assert_allclose(came, expected.ravel(), atol=2e-6)


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize(
    ("subsampling", "channels", "size"),
    [("4:2:0", 3, (93, 85)), ("4:4:4", 3, (93, 85)), ("4:2:2", 3, (81, 97)), ("4:2:0", 3, (82, 90)),
     ("4:4:0", 3, (90, 81)), ("4:4:4", 1, (93, 85))],
)  # fmt: skip
def test_the_picture_that_was_saved_lies_within_the_intervals(
    tmp_path, subsampling, channels, size, quality
):
    path = tmp_path / "a.jpg"
    pixels = astronaut(*size, channels)
    save(path, pixels, quality, subsampling)
    file = read_jpeg(path)
    y, tolerance = intervals(file)
    assert y.dtype == tolerance.dtype == np.float32
    gap = np.abs(apply(jpeg.coefficients_of(file), unit(pixels)) - y) - tolerance
    # The encoder rounds colors to gray levels; of a gray picture there is nothing to round.
    levels = 0.2 if channels == 1 else 2.5 if subsampling == "4:4:0" else 1.5
    assert np.mean(gap <= levels / 255) > 0.999
    assert gap.max() < 4 / 255


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (40, 22)])
@pytest.mark.parametrize(
    ("subsampling", "channels"), [("4:4:4", 1), *[(name, 3) for name in NAMES]]
)
def test_the_adjoint_of_the_coefficients_passes_the_dot_product_test(subsampling, size, channels):
    operator = Coefficients(subsampling, orientation=6)
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.standard_normal((*size, channels)))
    y = apply(operator, x)
    v = jnp.float32(rng.standard_normal(y.shape))
    left, right = jnp.vdot(y, v), jnp.vdot(x, jax.jit(adjoint(operator, x.shape))(v))
    assert abs(left - right) < 1e-4 * jnp.linalg.norm(y) * jnp.linalg.norm(v)
    if size == (33, 47) and subsampling in ("4:4:4", "4:2:0"):
        check_operator(Compiled(operator), x.shape)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([8, 24]), columns=st.sampled_from([16]))
def test_on_whole_blocks_of_gray_the_coefficients_keep_all_lengths(seed, rows, columns):
    x = np.random.default_rng(seed).standard_normal((rows, columns, 1)).astype(np.float32)
    length = np.linalg.norm(apply(Coefficients(), jnp.asarray(x)))
    np.testing.assert_allclose(length, np.linalg.norm(x), rtol=1e-5)


def test_an_unknown_subsampling_is_refused():
    with pytest.raises(InputError, match=r"4:4:0, came '4:1:1'"):
        Coefficients("4:1:1")(jnp.zeros((8, 8, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_file_is_asked_about_the_upright_picture(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = save(path, astronaut(), 75, exif=exif)
    file = read_jpeg(path)
    assert file.shape == decoded.shape
    assert matches(file, decoded) > jpeg.MIN_MATCHING_FRACTION
    assert fraction_kept(file, decoded) > 0.99
    if orientation == 6:  # how a telephone held upright stores
        assert fraction_kept(file, project(file, decoded)) > 0.999


# Going back to a file.


@pytest.mark.parametrize(
    ("quality", "least"), [(10, 0.999), (30, 0.999), (50, 0.999), (75, 0.999), (90, 0.995)]
)
@pytest.mark.parametrize(("subsampling", "channels"), [("4:4:4", 1), ("4:2:0", 3), ("4:4:4", 3)])
def test_a_projected_picture_saves_to_the_file_again(
    tmp_path, subsampling, channels, quality, least
):
    path = tmp_path / "a.jpg"
    save(path, astronaut(93, 85, channels), quality, subsampling)
    file = read_jpeg(path)
    blurred = scipy.ndimage.gaussian_filter(astronaut(93, 85, channels) / 255.0, (1, 1, 0))
    estimate = project(file, blurred)
    assert estimate.dtype == np.float32
    assert estimate.min() >= 0
    assert estimate.max() <= 1
    assert fraction_kept(file, blurred) < 0.997
    assert fraction_kept(file, estimate) > least


def test_a_picture_inside_the_intervals_is_left_as_it_is(tmp_path):
    path = tmp_path / "a.jpg"
    pixels = astronaut(64, 64, 1)
    save(path, pixels, 30)
    estimate = project(read_jpeg(path), pixels / 255, margin=0.0)
    # A few coefficients lie outside, by the encoder's rounding.
    np.testing.assert_allclose(estimate, pixels / 255, atol=0.2 / 255)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "4:4:0"])
def test_the_share_that_is_kept_agrees_with_pillow_and_jpeglib(tmp_path, subsampling):
    path = tmp_path / "a.jpg"
    save(path, astronaut(), 60, subsampling)
    assert fraction_kept(read_jpeg(path), astronaut() / 255) == 1.0


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_files_own_pixels_match_and_shifted_ones_do_not(tmp_path, subsampling, quality):
    path = tmp_path / "a.jpg"
    decoded = save(path, astronaut(), quality, subsampling)
    file = read_jpeg(path)
    assert matches(file, decoded) > jpeg.MIN_MATCHING_FRACTION
    assert matches(file, np.roll(decoded, 1, axis=0)) < jpeg.MIN_MATCHING_FRACTION
    assert matches(file, decoded[:-1]) == 0


# Compression.


@pytest.mark.parametrize("quality", [1, 10, 50, 95, 100])
def test_the_standard_tables_are_pillows(quality):
    buffer = io.BytesIO()
    Image.fromarray(astronaut()).save(buffer, "JPEG", quality=quality)
    tables = Image.open(buffer).quantization
    came = jpeg.standard_tables(quality)
    np.testing.assert_array_equal(came[0].ravel(), tables[0])
    np.testing.assert_array_equal(came[1], came[2])
    np.testing.assert_array_equal(came[2].ravel(), tables[1])
    assert jpeg.standard_tables(quality, 1).shape == (1, 8, 8)


@pytest.mark.parametrize("quality", [0, 101])
def test_there_is_no_other_quality(quality):
    with pytest.raises(InputError, match="1 to 100"):
        jpeg.standard_tables(quality)


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize(
    ("subsampling", "channels"), [("4:4:4", 1), *[(name, 3) for name in NAMES]]
)
def test_compression_is_pillows(tmp_path, subsampling, channels, quality):
    path = tmp_path / "a.jpg"
    pixels = astronaut(93, 85, channels)
    decoded = save(path, pixels, quality, subsampling)
    file = read_jpeg(path)
    operator = Jpeg(jnp.asarray(file.tables, jnp.float32), subsampling)
    # Where a coefficient of the original is at the border of two intervals, the encoder's integers decide.
    gap = 255 * np.abs(apply(operator, unit(pixels)) - decoded)
    assert gap.mean() < (1.2 if channels == 3 else 0.5)
    # Away from the borders there is only the decoder's rounding.
    gap = 255 * np.abs(apply(operator, jnp.asarray(project(file, decoded))) - decoded)
    assert gap.max() < (3 if channels == 3 else 1)


def test_hard_rounding_passes_gradients_as_if_it_were_none():
    tables = jnp.asarray(jpeg.standard_tables(50, 1), jnp.float32)
    x = jnp.asarray(0.3 + 0.4 * np.random.default_rng(0).random((16, 24, 1)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).random(x.shape), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(weights * apply(Jpeg(tables), x)))(x)
    np.testing.assert_allclose(gradient, weights, atol=1e-5)


def test_soft_rounding_is_shin_and_songs():
    # Of a constant block only the mean counts: c = 8 (x - 128 / 255) 255 / q.
    value, q = 0.55, 160
    c = 8 * (value * 255 - 128) / q
    expected = ((round(c) + (c - round(c)) ** 3) * q / 8 + 128) / 255
    operator = Jpeg(jnp.full((1, 8, 8), q, jnp.float32), soft=True)
    image = jnp.full((8, 8, 1), value, jnp.float32)
    np.testing.assert_allclose(apply(operator, image), expected, rtol=1e-5)
    slope = jax.grad(lambda x: apply(operator, x).mean())(image).sum()
    np.testing.assert_allclose(slope, 3 * (c - round(c)) ** 2, rtol=1e-3)


@pytest.mark.parametrize("soft", [False, True])
def test_compression_keeps_the_contract_of_an_operator(soft):
    tables = jnp.asarray(jpeg.standard_tables(20), jnp.float32)
    assert check_operator(Compiled(Jpeg(tables, soft=soft)), (33, 35, 3)) is None


def test_compressing_twice_changes_little_more():
    tables = jnp.asarray(jpeg.standard_tables(30, 1), jnp.float32)
    once = apply(Jpeg(tables), unit(astronaut(64, 64, 1)))
    twice = apply(Jpeg(tables), once)
    assert jnp.mean(jnp.abs(twice - once) < 1e-4) > 0.9

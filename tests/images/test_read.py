"""Images and masks are read in one convention, and paths are expanded to image files."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.images.read import MIN_SIDE, peek_shape, read_image, read_mask
from tests.images.image_files import (
    HEIGHT,
    WIDTH,
    png_bytes,
    save_tiff,
    smooth,
)


def test_pixels_are_float32_in_0_1_in_the_order_height_width_channel(tmp_path):
    values = smooth()
    Image.fromarray(values).save(tmp_path / "in.png")
    pixels = read_image(str(tmp_path / "in.png")).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, values / 255, atol=1e-7)


@pytest.mark.parametrize("shape", [(MIN_SIDE - 1, 50), (50, MIN_SIDE - 1)])
def test_an_image_too_small_for_the_network_is_refused(tmp_path, shape):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "in.png")
    with pytest.raises(InputError, match=f"at least 33 .* {shape[1]} x {shape[0]}"):
        read_image(tmp_path / "in.png")


def test_the_smallest_image_is_read(tmp_path):
    Image.fromarray(np.zeros((33, 33), np.uint8)).save(tmp_path / "in.png")
    assert read_image(tmp_path / "in.png").pixels.shape == (33, 33, 1)


def black_and_white():
    """A mask with a hole, as booleans: True is known."""
    known = np.ones((HEIGHT, WIDTH), bool)
    known[5:20, 8:30] = False
    return known


@pytest.mark.parametrize("white", [1, 200, 255])
def test_a_mask_is_1_where_white_and_0_where_black(tmp_path, white):
    known = black_and_white()
    Image.fromarray((white * known).astype(np.uint8)).save(tmp_path / "mask.png")
    mask, notes = read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))
    assert (mask.dtype, notes) == (np.float32, ())
    np.testing.assert_array_equal(mask, known)


@pytest.mark.parametrize("kind", ["1 bit", "RGB", "16 bit", "float"])
def test_a_mask_may_have_many_formats(tmp_path, kind):
    known = black_and_white()
    path = tmp_path / ("mask.tif" if kind == "float" else "mask.png")
    if kind == "1 bit":
        Image.fromarray(known).save(path)
    elif kind == "RGB":
        Image.fromarray(np.stack([255 * known.astype(np.uint8)] * 3, -1)).save(path)
    elif kind == "16 bit":
        path.write_bytes(png_bytes(65535 * known.astype(np.uint16)))
    else:
        save_tiff(path, known.astype(np.float32))
    np.testing.assert_array_equal(read_mask(path, (HEIGHT, WIDTH))[0], known)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    Image.fromarray(black_and_white()).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png.*45 x 35 .* got 45 x 34"):
        read_mask(tmp_path / "mask.png", (HEIGHT + 1, WIDTH))


def test_a_mask_all_black_is_refused(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="all black: no pixel would be known"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_a_mask_all_white_is_refused(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="all white: there is nothing to fill in"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_a_few_gray_pixels_are_thresholded_and_counted(tmp_path):
    values = 255 * black_and_white().astype(np.uint8)
    values[0, :4] = (3, 127, 128, 250)
    Image.fromarray(values).save(tmp_path / "mask.png")
    mask, notes = read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))
    assert mask[0, :4].tolist() == [0, 0, 1, 1]
    assert notes == ("4 gray pixels of the mask thresholded at one half",)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_mask_may_be_lossily_compressed(tmp_path, mode, suffix):
    known = black_and_white()
    image = Image.fromarray(255 * known.astype(np.uint8)).convert(mode)
    image.save(tmp_path / f"mask{suffix}", quality=90)
    mask, _ = read_mask(tmp_path / f"mask{suffix}", (HEIGHT, WIDTH))
    np.testing.assert_array_equal(mask, known)


def test_a_photo_is_refused_as_a_mask(tmp_path):
    Image.fromarray(smooth(1)[..., 0]).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"\d+% of its pixels are neither; is this a mask\?"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_a_mask_may_have_one_gray_pixel_in_twenty(tmp_path):
    values = np.zeros((40, 50), np.uint8)
    values[:20] = 255
    values[30, :50] = values[31, :50] = 128  # 100 of 2000
    Image.fromarray(values).save(tmp_path / "mask.png")
    read_mask(tmp_path / "mask.png", (40, 50))
    values[32, 0] = 128
    Image.fromarray(values).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="is this a mask"):
        read_mask(tmp_path / "mask.png", (40, 50))


def test_a_red_mask_is_refused(tmp_path):
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[..., 0] = 255 * black_and_white()
    Image.fromarray(values).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"its color channels differ; .*save it as gray"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_the_alpha_of_a_mask_is_ignored_with_a_note(tmp_path):
    known = black_and_white()
    values = np.stack([255 * known, 99 * np.ones_like(known)], axis=-1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    mask, notes = read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))
    np.testing.assert_array_equal(mask, known)
    assert notes == ("alpha of the mask ignored",)


def test_a_mask_is_turned_upright(tmp_path):
    known = black_and_white()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(255 * known.astype(np.uint8)).save(tmp_path / "mask.png", exif=exif)
    mask, _ = read_mask(tmp_path / "mask.png", (WIDTH, HEIGHT))
    np.testing.assert_array_equal(mask, np.rot90(known, -1))


def test_a_mask_may_be_small_but_not_too_large(tmp_path):
    values = np.array([[0, 255], [255, 255]], np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (2, 2))[0].sum() == 3
    with pytest.raises(InputError, match="--max_pixels"):
        read_mask(tmp_path / "mask.png", (2, 2), max_pixels=3)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_the_header_gives_the_shape_that_reading_gives(tmp_path, image, mode):
    path = tmp_path / "x.png"
    Image.fromarray((image * 255).astype(np.uint8)).convert(mode).save(path)
    assert peek_shape(path) == read_image(path).pixels.shape


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (40, 50, 4)])
def test_the_header_of_a_tiff_gives_the_shape_too(tmp_path, shape):
    path = tmp_path / "x.tif"
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(path, np.zeros(shape, np.uint16), photometric=photometric)
    assert peek_shape(path) == read_image(path).pixels.shape


def test_the_header_of_a_rotated_image_gives_the_upright_shape(tmp_path, image):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((image * 255).astype(np.uint8)).save(path, exif=exif)
    assert peek_shape(path) == read_image(path).pixels.shape == (36, 40, 3)


def test_a_file_without_an_image_header_has_no_shape(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"no image")
    assert peek_shape(path) is None


def test_a_mask_may_be_drawn_in_the_alpha_channel(tmp_path):
    alpha = np.full((40, 36), 255, np.uint8)
    alpha[3:5] = 0
    white = np.full((40, 36, 3), 255, np.uint8)
    Image.fromarray(np.dstack([white, alpha])).save(tmp_path / "mask.png")
    mask, _ = read_mask(tmp_path / "mask.png", (40, 36))
    np.testing.assert_array_equal(mask, alpha > 0)


def test_a_mask_drawn_on_the_image_before_it_was_turned_is_noticed(tmp_path):
    Image.fromarray(np.eye(40, 36) > 0).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="turn it upright, as the image is"):
        read_mask(tmp_path / "mask.png", (36, 40))


def test_a_mask_may_be_a_boolean_tiff(tmp_path):
    known = np.eye(40, 36) == 0
    tifffile.imwrite(tmp_path / "mask.tif", known, photometric="minisblack")
    mask, _ = read_mask(tmp_path / "mask.tif", (40, 36))
    np.testing.assert_array_equal(mask, known)

"""The full image of a TIFF file is found among previews, thumbnails and pyramids; a page may be chosen."""

import numpy as np
import pytest
import tifffile

from dip_jax.errors import InputError
from dip_jax.images.decode import stack_pages
from dip_jax.images.read import peek_shape, read_image
from dip_jax.images.write import write_image
from tests.images.image_files import noise, round_trip, stored_values

FULL = noise(1, np.uint16)[:34, :44]
SMALL = np.ascontiguousarray(FULL[::2, ::2])
OTHER = noise(1, np.uint16, 1)[:34, :44]


def save(path, *pages):
    """Saves pages `(values, options)`."""
    with tifffile.TiffWriter(path) as writer:
        for values, options in pages:
            writer.write(values, photometric="minisblack", metadata=None, **options)
    return path


@pytest.mark.parametrize("options", [{"subfiletype": 1}, {}], ids=["marked", "by its size"])
def test_a_preview_before_the_image_is_skipped_with_a_note(tmp_path, options):
    path = save(tmp_path / "in.tif", (SMALL, options), (FULL, {}))
    stored, target = round_trip(path)
    np.testing.assert_array_equal(tifffile.imread(target), FULL)
    assert stored.notes[0].startswith("page 2 of 2 taken; 1 of the pages are previews")
    assert peek_shape(path) == (34, 44, 1)
    assert stack_pages(path) == (1,)


@pytest.mark.parametrize("options", [{"subfiletype": 1}, {}], ids=["marked", "by its size"])
def test_a_thumbnail_is_no_page_of_a_stack(tmp_path, options):
    path = save(tmp_path / "in.tif", (FULL, {}), (OTHER, {}), (SMALL, options))
    assert stack_pages(path) == (0, 1)
    assert stack_pages(save(tmp_path / "one.tif", (FULL, {}), (SMALL, options))) == (0,)


def test_a_mask_is_no_page_of_a_stack(tmp_path):
    path = save(tmp_path / "in.tif", (FULL, {}), (OTHER, {"subfiletype": 2}))
    assert stack_pages(path) == (0, 1)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[1].tags["NewSubfileType"].overwrite(4)
    assert stack_pages(path) == (0,)


def test_a_preview_of_another_shape_counts_only_if_it_is_marked(tmp_path):
    square = FULL[:20, :20]
    assert stack_pages(save(tmp_path / "a.tif", (square, {}), (FULL, {}))) == (0,)
    path = save(tmp_path / "b.tif", (square, {"subfiletype": 1}), (FULL, {}))
    np.testing.assert_array_equal(stored_values(path)[..., 0], FULL)


@pytest.mark.parametrize("is_preview_first", [False, True])
def test_the_full_image_of_a_pyramid_is_taken(tmp_path, is_preview_first):
    main, sub = (SMALL, FULL) if is_preview_first else (FULL, SMALL)
    with tifffile.TiffWriter(tmp_path / "in.tif") as writer:
        options = {"photometric": "minisblack", "metadata": None}
        writer.write(main, subifds=1, subfiletype=int(is_preview_first), **options)
        writer.write(sub, subfiletype=int(not is_preview_first), **options)
    stored = read_image(tmp_path / "in.tif")
    np.testing.assert_array_equal(stored_values(tmp_path / "in.tif")[..., 0], FULL)
    assert peek_shape(tmp_path / "in.tif") == (34, 44, 1)
    preview_notes = ("page 1 is a preview; the full image in it is taken",)
    assert stored.notes == (preview_notes if is_preview_first else ())


@pytest.mark.parametrize("page", [0, 1, 2])
def test_a_page_is_chosen_among_all_also_the_previews(tmp_path, page):
    pages = [SMALL, FULL, OTHER]
    path = save(tmp_path / "in.tif", (SMALL, {"subfiletype": 1}), (FULL, {}), (OTHER, {}))
    stored = read_image(path, page=page, min_side=1)
    values = stored.low + stored.pixels[..., 0] * (stored.high - stored.low)
    np.testing.assert_allclose(values, pages[page], atol=0.1)
    assert not [note for note in stored.notes if "page" in note]
    assert peek_shape(path, page=page) == (*pages[page].shape, 1)


def test_a_page_that_does_not_exist_is_refused_with_the_number_of_pages(tmp_path):
    path = save(tmp_path / "in.tif", (FULL, {}), (OTHER, {}))
    with pytest.raises(InputError, match=r"in\.tif: expected a page from 1 to 2, .*, got 3"):
        read_image(path, page=2)


def test_a_damaged_link_to_a_next_page_does_not_hide_the_first(tmp_path):
    path = save(tmp_path / "in.tif", (FULL, {}))
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages.first.offset + 2 + 12 * len(tiff.pages.first.tags)
    data[end : end + 4] = (len(data) // 2).to_bytes(4, "little")  # into the values
    path.write_bytes(data)
    assert peek_shape(path) == (34, 44, 1)
    assert stack_pages(path) == (0,)
    np.testing.assert_array_equal(stored_values(path)[..., 0], FULL)


def test_a_text_that_states_the_shape_of_planes_is_not_written_for_an_image(tmp_path):
    bands = np.random.default_rng(0).random((5, 40, 36)).astype(np.float32)
    tifffile.imwrite(tmp_path / "in.tif", bands, photometric="minisblack", planarconfig="separate")
    stored = read_image(tmp_path / "in.tif")
    write_image(tmp_path / "out.tif", stored.pixels, stored)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.pages.first.aspage().description == ""
        assert tiff.asarray().shape == (40, 36, 5)

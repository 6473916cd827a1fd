"""A stack is joined with the texts of its source."""

import numpy as np
import tifffile

from dip_jax.images.read import read_image
from dip_jax.images.stack import write_stack
from dip_jax.images.write import write_image
from tests.images.image_files import noise


def test_a_stack_behind_a_preview_keeps_its_own_text_and_its_author(tmp_path):
    pages = np.stack([noise(1, np.uint16, seed) for seed in (0, 1)])
    author = [(315, "s", 0, "Jürgen".encode(), True)]
    with tifffile.TiffWriter(tmp_path / "in.tif") as writer:
        options = {"photometric": "minisblack", "metadata": None, "contiguous": False}
        writer.write(pages[0, ::2, ::2], subfiletype=1, description="preview", **options)
        for page in pages:
            writer.write(page, description="pixel size 5 µm".encode(), extratags=author, **options)
    files = []
    for number in (1, 2):  # the preview is page 0
        stored = read_image(tmp_path / "in.tif", page=number)
        files.append(tmp_path / f"{number}.tif")
        write_image(files[-1], stored.pixels, stored)
    write_stack(tmp_path / "out.tif", files, tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), pages)
    with tifffile.TiffFile(tmp_path / "out.tif") as written:
        assert written.pages.first.description == "pixel size 5 µm"
        assert [page.aspage().tags.valueof("Artist") for page in written.pages] == ["Jürgen"] * 2

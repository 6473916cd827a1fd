"""PNG files of figures and images."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dip_jax.report.png import DPI, save_png


def test_an_image_is_stored_exactly(tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    save_png(tmp_path / "image.png", Image.fromarray(values))
    with Image.open(tmp_path / "image.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), values)


def test_equal_figures_give_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([1, 2, 4])
        save_png(tmp_path / name, figure)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in content
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.size == (2 * DPI, DPI)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  which one depends on the system
        save_png(tmp_path / "taken.png", Image.new("L", (2, 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]

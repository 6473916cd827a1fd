"""Arrays are read as measurements, and as images that come back in their own type, shape and units."""

import numpy as np
import pytest

from dip_jax.errors import InputError
from dip_jax.images.array_file import read_array
from dip_jax.images.read import peek_shape, read_image, read_mask
from dip_jax.images.side_inputs import read_guide
from tests.images.image_files import HEIGHT, WIDTH, noise, round_trip


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(np.arange(6).reshape(2, 3), np.float32), (np.ones((2, 2)) * 1j, np.complex64)],
)
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_a_measurement_is_read_in_single_precision(tmp_path, values, dtype, save):
    path = tmp_path / ("y.npy" if save is np.save else "y.npz")
    save(path, values)
    read = read_array(path)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([1.0, np.nan, np.inf]), "2 of 3"),
        (np.array(["a"]), "numbers"),
        (np.array([{}], dtype=object), "numpy.save"),
        (np.zeros(0), "numbers"),
    ],
)
def test_an_array_that_is_not_a_measurement_is_refused(tmp_path, values, words):
    np.save(tmp_path / "y.npy", values)
    with pytest.raises(InputError, match=words):
        read_array(tmp_path / "y.npy")


def test_a_missing_file_or_one_that_is_not_an_array_is_refused(tmp_path):
    (tmp_path / "y.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"numpy\.save"):
        read_array(tmp_path / "y.npy")
    with pytest.raises(InputError, match="opened"):
        read_array(tmp_path / "none.npy")


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (HEIGHT, WIDTH, 3)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "<i2", ">i2", "u4", "f2", "f4", ">f8"])
def test_an_image_comes_back_in_its_type_shape_and_units(tmp_path, shape, dtype):
    values = noise(3, np.float32)[..., 0]
    scale = 250 if np.dtype(dtype).kind in "ui" else 7.0
    values = (
        scale * np.broadcast_to(values.reshape(HEIGHT, WIDTH, *[1] * (len(shape) - 2)), shape)
    ).astype(dtype)
    np.save(tmp_path / "in.npy", values)
    stored, target = round_trip(tmp_path / "in.npy")
    written = np.load(target)
    assert target.name == "restored.npy"
    assert (written.dtype, written.shape) == (np.dtype(dtype).newbyteorder("="), shape)
    assert peek_shape(tmp_path / "in.npy") == stored.pixels.shape
    rtol = 1e-6 if np.dtype(dtype).kind == "f" else 0
    np.testing.assert_allclose(written, values, rtol=rtol, atol=10 * rtol)


def test_the_order_of_the_memory_does_not_matter(tmp_path):
    values = noise(3, np.float32)
    np.save(tmp_path / "in.npy", np.asfortranarray(values))
    np.testing.assert_allclose(read_image(tmp_path / "in.npy").pixels, values, atol=1e-6)


def test_the_range_of_an_array_is_chosen_as_that_of_a_tiff_file(tmp_path):
    np.save(tmp_path / "in.npy", 1e4 * noise(1, np.float32) - 5e3)
    stored = read_image(tmp_path / "in.npy")
    assert -6e3 < stored.low < -5e3 < 5e3 < stored.high < 6e3
    assert read_image(tmp_path / "in.npy", value_range="-1e4,1e4").high == 1e4


def test_nan_is_unknown(tmp_path):
    values = noise(3, np.float32)
    values[1, 2, 0] = np.nan
    np.save(tmp_path / "in.npy", values)
    assert np.argwhere(~read_image(tmp_path / "in.npy").is_known).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_channels_are_bands_and_never_alpha(tmp_path, channels):
    np.save(tmp_path / "in.npy", noise(channels, np.uint8))
    stored, target = round_trip(tmp_path / "in.npy")
    assert stored.alpha is None
    assert f"{channels} bands" in stored.notes[0]
    np.testing.assert_array_equal(np.load(target), noise(channels, np.uint8))


def test_an_archive_must_hold_one_array(tmp_path):
    np.savez(tmp_path / "one.npz", image=noise(1, np.uint8))
    _, target = round_trip(tmp_path / "one.npz")
    np.testing.assert_array_equal(np.load(target), noise(1, np.uint8))
    np.savez(tmp_path / "two.npz", clean=np.zeros((40, 40)), noisy=np.ones((40, 40)))
    for read in (read_image, read_array):
        with pytest.raises(InputError, match=r"two\.npz: .*got 2 \(clean, noisy\)"):
            read(tmp_path / "two.npz")


def test_a_pickle_is_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exit, (7,))

    np.save(tmp_path / "in.npy", np.full((40, 40), Bomb(), dtype=object), allow_pickle=True)
    for read in (read_image, read_array):
        with pytest.raises(InputError, match=r"object|Object"):
            read(tmp_path / "in.npy")


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((40,), "f4", r"\[H, W\] or \[H, W, C\], got the shape \(40,\)"),
        ((1, 2, 40, 40), "f4", r"got the shape \(1, 2, 40, 40\)"),
        ((0, 40), "f4", r"got the shape \(0, 40\)"),
        ((3, 40, 50), "f4", "move its first axis to the end"),
        ((40, 40), "c8", "got complex64; convert it"),
        ((40, 40), "i8", "got int64; convert it"),
    ],
)
def test_what_is_not_an_image_is_refused(tmp_path, shape, dtype, words):
    np.save(tmp_path / "in.npy", np.zeros(shape, dtype))
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "in.npy")


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": (40, 40, 9_999_999_999)}
    with (tmp_path / "in.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(1600))
    with pytest.raises(InputError, match="the file ends before its data"):
        read_image(tmp_path / "in.npy")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_mask_may_be_an_array_of_0_and_1(tmp_path, dtype):
    known = np.eye(40, 36) == 0
    np.save(tmp_path / "mask.npy", known.astype(dtype))
    mask, _ = read_mask(tmp_path / "mask.npy", (40, 36))
    np.testing.assert_array_equal(mask, known)


def test_a_guide_may_be_an_array(tmp_path):
    np.save(tmp_path / "guide.npy", noise(3, np.uint8))
    guide, _ = read_guide(tmp_path / "guide.npy", (HEIGHT, WIDTH))
    np.testing.assert_allclose(guide, noise(3, np.uint8) / 255, atol=1e-6)

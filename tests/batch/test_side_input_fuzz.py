"""Random arrays and angles as measurements, masks and kernels: an image is loaded, or refused with an `InputError`."""

import shutil
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.cli.request import read_angles
from dip_jax.errors import InputError
from dip_jax.presets import build_config

pytestmark = pytest.mark.filterwarnings("ignore")  # of numpy

MAX_SECONDS = 10.0
HEIGHT, WIDTH = 40, 36

sides = st.sampled_from([0, 1, 2, 3, 5, 33, HEIGHT, HEIGHT, WIDTH, WIDTH, 57])
dtypes = st.sampled_from(["f4", "f8", "f2", "u1", "u2", "i4", "b1", "c8", ">f4", "u8"])
values = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf")])


@st.composite
def arrays(draw) -> np.ndarray:
    """An array of few different values, often of the shape of the image."""
    shape = draw(st.sampled_from([(HEIGHT, WIDTH)] * 2 + [None]))
    shape = shape or tuple(draw(st.lists(sides, max_size=4)))
    found = draw(st.lists(values, min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    array = rng.choice(found, shape) if draw(st.booleans()) else rng.random(shape)
    with np.errstate(all="ignore"):
        array = np.asarray(array).astype(draw(dtypes))
    return np.asfortranarray(array) if draw(st.booleans()) else array


def write(path: Path, array: np.ndarray) -> Path:
    """Writes a .npy file, or an 8-bit image if the array can be one."""
    if path.suffix == ".npy":
        np.save(path, array)
        return path
    assume(array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))))
    assume(np.isrealobj(array) and np.isfinite(array).all())
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    iio.imwrite(path, (255 * np.clip(array.astype(float), 0, 1)).astype(np.uint8))
    return path


CASES = {
    "inpaint": ("inpaint", "photo.png", "mask"),
    "flash": ("flash", "photo.png", "guide"),
    "deblur": ("deblur", "photo.png", "kernel"),
    "masked frequencies": ("compressed_sensing", "spectrum.npy", "mask"),
    "frequencies": ("compressed_sensing", None, None),
    "tomography": ("ct", None, None),
}


@pytest.mark.parametrize("count", [80, pytest.param(5_000, marks=pytest.mark.slow)])
def test_random_arrays_are_loaded_or_refused(tmp_path, image, count):
    outcomes = []
    iio.imwrite(tmp_path / "photo.png", (255 * image).astype(np.uint8))
    np.save(tmp_path / "spectrum.npy", np.fft.fft2(image[..., 0]))

    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(
        st.sampled_from(sorted(CASES)), arrays(), st.sampled_from([".npy", ".png"]), st.booleans()
    )
    def check(case, array, suffix, is_changed):
        task, measurement, side_input = CASES[case]
        folder = tmp_path / "drawn"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = write(folder / f"drawn{'.npy' if side_input is None else suffix}", array)
        overrides = []
        if is_changed:
            overrides = {"deblur": ["task.normalize_kernel=true"], "ct": ["task.num_angles=5"]}.get(
                task, []
            )
        if task == "deblur":
            overrides.append("task.kernel=file")
        config = build_config(task=task, overrides=overrides)
        inputs = [path if measurement is None else tmp_path / measurement]
        side_inputs = {} if side_input is None else {f"{side_input}s": [path]}
        start = time.perf_counter()
        try:
            (lazy,) = list_inputs(config, InputFiles(inputs, **side_inputs))
            problem = lazy.load().case.problem
        except InputError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("")
            assert np.isfinite(np.asarray(problem.measurement)).all()
        assert time.perf_counter() - start < MAX_SECONDS

    check()
    assert [text for text in outcomes if not (text.isprintable() and len(text) < 1000)] == []
    assert 0.05 < np.mean([text == "" for text in outcomes]) < 0.95


# ---- angles ----

angle_texts = st.one_of(
    st.text(max_size=30),
    st.lists(st.floats().map(repr) | st.integers().map(str), max_size=9).map(",".join),
    st.sampled_from(["", ",", "1,,2", "1e999", "nan", "~", "~nobody/x", ".", "\0", "1" * 5000]),
)
angle_files = st.one_of(
    st.binary(max_size=60),
    angle_texts.map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.floats(), max_size=20).map(lambda listed: "\n".join(map(str, listed)).encode()),
    st.sampled_from([b"# only a comment", b"1 2\n3", b"1;2", b"\xff\xfe1\0", b"1\r2\r3", b"0x1"]),
)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_angles_are_finite_numbers_or_refused(tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    accepted = []

    @settings(max_examples=count, deadline=10_000, derandomize=True)
    @given(angle_texts, angle_files, st.sampled_from([None, "a.txt", "a.csv", "a"]))
    def check(text, content, name):
        if name is not None:
            Path(name).write_bytes(content)
        try:
            angles = read_angles(name or text)
        except InputError:
            accepted.append(False)
            return
        accepted.append(True)
        assert angles
        assert all(isinstance(angle, float) and np.isfinite(angle) for angle in angles)

    check()
    assert 0.05 < np.mean(accepted) < 0.95


def of_header(text: str) -> bytes:
    """A .npy file with this header and no data."""
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b""),
        ("a.npy", b"PK\x03\x04 cut"),
        ("a.npy", of_header("[" * 10_000)),
        (
            "a.npy",
            of_header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000,)}"),
        ),
        (
            "a.npy",
            of_header(
                "{'descr': [('a', '<f8'), ('b', '<f8')], 'fortran_order': False, 'shape': ()}"
            )
            + bytes(16),
        ),
        ("a.npy", of_header("{'descr': '<c8', 'fortran_order': False, 'shape': ()}") + bytes(8)),
        ("a.xz", b"not compressed"),
    ],
    ids=["empty", "zip", "deep", "huge", "structure", "complex", "xz"],
)
def test_a_file_that_holds_no_angles_is_refused(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(InputError, match="--angles"):
        read_angles(name)


def test_a_list_of_any_number_of_angles_is_read():
    assert read_angles(",".join(map(str, range(180)))) == tuple(range(180))

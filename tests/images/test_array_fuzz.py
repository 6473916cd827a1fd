"""Array files with hostile headers: every reader returns finite numbers or raises an `InputError`, in little memory."""

import contextlib
import struct
import time

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_jax.errors import InputError
from dip_jax.images.read import peek_shape, read_image, read_mask
from dip_jax.images.side_inputs import read_array, read_guide, read_kernel

MAX_SECONDS, MAX_BYTES = 10.0, 1_000_000_000
SIDE = 40

sides = st.one_of(
    st.sampled_from([0, 1, SIDE, SIDE, -1, 2**31, 2**62, 2**63, 2**64 + 1, 10**400]).map(str),
    st.integers(-5, 60).map(str),
    st.sampled_from(["None", "1.5", "'2'", "True", "(2,)", "1e9", "x"]),
)
shapes = st.lists(sides, max_size=5).map(
    lambda listed: f"({', '.join(listed)},)"
) | st.sampled_from(
    ["()", "(40, 40)", "(40, 40, 3)", "40", "[40, 40]", "None", "(" * 200 + ")" * 200]
)
dtypes = st.sampled_from(
    [f"'{order}{kind}'" for order in "<>|=" for kind in ("f8", "f4", "f2", "u1", "i4", "b1", "c8")]
    + ["'<f16'", "'O'", "'|O'", "'S5'", "'<U3'", "'<M8[s]'", "'V8'", "'f8, f8'", "'q' * 10"]
    + ["[('a', '<f8')]", "[('a', 'O')]", "('<f8', (2,))", "None", "3", "'nonsense'", "b'<f8'"]
)
codes = st.sampled_from(
    [
        "__import__('os').mkdir('code-was-run')",
        "(lambda: open('code-was-run', 'w'))()",
        "open('code-was-run', 'w')",
        "'" + "a" * 100_000 + "'",
        "[" * 5000 + "]" * 5000,
        "-" * 20_000 + "1",
    ]
)
booleans = st.sampled_from(["True", "False", "1", "None", "'F'"])


@st.composite
def hostile_headers(draw) -> bytes:
    """The dictionary of a header, of which one part may be code, or missing, or too much."""
    members = {
        "'descr'": draw(dtypes),
        "'fortran_order'": draw(booleans),
        "'shape'": draw(shapes),
    }
    match draw(st.integers(0, 7)):
        case 0:
            members[draw(st.sampled_from(sorted(members)))] = draw(codes)
        case 1:
            del members[draw(st.sampled_from(sorted(members)))]
        case 2:
            members[draw(st.sampled_from(["'more'", "1", "()", "'shape '"]))] = "0"
    text = "{" + ", ".join(f"{name}: {value}" for name, value in members.items()) + ", }"
    if draw(st.integers(0, 9)) == 0:
        position = draw(st.integers(0, len(text)))
        text = text[:position] + draw(st.text(max_size=9)) + text[position:]
    return text.encode("utf-8", "surrogatepass")


@st.composite
def numbers(draw) -> bytes:
    """A header of numbers, and as many of them as it states, or a few bytes less or more."""
    dtype = np.dtype(
        draw(st.sampled_from(["<f8", ">f4", "<f2", "|u1", ">i4", "|b1", "<c8", "<f16"]))
    )
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, SIDE, SIDE, SIDE, 50]), max_size=3))
    header = (
        f"{{'descr': {dtype.str!r}, 'fortran_order': {draw(booleans)}, 'shape': {tuple(shape)}}}"
    )
    size = int(np.prod(shape)) * dtype.itemsize + draw(st.sampled_from([0, 0, 0, 1, -1, 100]))
    data = np.random.default_rng(0).integers(0, 0x3C, max(size, 0), np.uint8)
    return packed(header.encode()) + data.tobytes()


def packed(header: bytes) -> bytes:
    """The start of a file up to its data."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


@st.composite
def hostile_files(draw) -> bytes:
    """A .npy file; the stated length of its header, its version and its data may be wrong."""
    header = draw(hostile_headers())
    version = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 0, 4, 255]))
    length = draw(st.sampled_from([len(header)] * 8 + [0, 1, 65535, 2**30, 2**32 - 1]))
    stated = struct.pack("<H", min(length, 65535)) if version == 1 else struct.pack("<I", length)
    minor = draw(st.sampled_from([0] * 9 + [1]))
    size = draw(st.sampled_from([8 * SIDE**2, 24 * SIDE**2, 4 * SIDE**2, SIDE**2, 0, 1, 37]))
    fill = draw(st.sampled_from([b"\0", b"\x3f", b"\xff", b"<"]))
    return b"\x93NUMPY" + bytes([version, minor]) + stated + header + fill * size


def read_everything(path) -> int:
    """Calls every reader of an array; returns how many of them accepted it."""
    peek_shape(path)  # never raises
    arrays = []
    for read in (
        read_array,
        lambda path: read_kernel(path)[0],
        lambda path: read_image(path, max_pixels=10**6).pixels,
        lambda path: read_mask(path, (SIDE, SIDE), max_pixels=10**6)[0],
        lambda path: read_guide(path, (SIDE, SIDE), max_pixels=10**6)[0],
    ):
        with contextlib.suppress(InputError):
            arrays.append(read(path))
    for array in arrays:
        assert array.dtype in (np.float32, np.complex64)
        assert np.isfinite(array).all()
    return len(arrays)


@pytest.mark.filterwarnings("ignore")  # of numpy
@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_an_array_with_a_hostile_header_is_read_or_refused(tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    process, accepted, grown, path = psutil.Process(), [], [], tmp_path / "y.npy"

    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(numbers() | hostile_files())
    def check(content):
        path.write_bytes(content)
        start, before = time.perf_counter(), process.memory_info().rss
        accepted.append(read_everything(path) > 0)
        assert time.perf_counter() - start < MAX_SECONDS
        grown.append(process.memory_info().rss - before)

    check()
    assert [file.name for file in tmp_path.iterdir()] == ["y.npy"]  # no code was run
    assert max(max(grown), sum(grown)) < MAX_BYTES
    assert 0.05 < np.mean(accepted) < 0.95


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_number_that_single_precision_cannot_hold_is_refused(tmp_path, dtype):
    np.save(tmp_path / "y.npy", np.full((SIDE, SIDE), 1e300, dtype))
    with pytest.raises(InputError, match="finite"):
        read_array(tmp_path / "y.npy")

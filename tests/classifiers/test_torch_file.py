"""Weights of PyTorch are read exactly, and nothing else in their file is."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from dip_jax.classifiers.torch_file import read_torch_weights
from dip_jax.errors import InputError

# Written by torch 2.13.0 with `_use_new_zipfile_serialization=False`: a matrix of 24 numbers, its transpose and a part of
# it, which share a storage, and tensors of other types and sizes.
GOLDEN = Path(__file__).parents[1] / "data" / "torch_legacy.pth"
HEAD = b"".join(
    pickle.dumps(value, protocol=2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_tensors_are_those_that_pytorch_saved():
    found = read_torch_weights(GOLDEN)
    matrix = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "plain": np.linspace(0, 1, 5, dtype=np.float32),
        "matrix": matrix,
        "transposed": matrix.T,
        "part": matrix[1:3, 2:5],
        "half": np.array([0.5, -2], np.float16),
        "counter": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert "torch" not in sys.modules


@pytest.mark.parametrize("position", [0, 1, 2, 3], ids=["first", "version", "system", "state"])
def test_a_file_that_calls_a_function_is_refused_and_the_function_is_not_called(tmp_path, position):
    target = tmp_path / "called"
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}]
    parts[position] = Call(Path.touch, target)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(InputError, match="expected tensors"):
        read_torch_weights(path)
    assert not target.exists()
    path.write_bytes(pickle.dumps(Call(Path.touch, target)))
    pickle.loads(path.read_bytes())
    assert target.exists()  # the test would notice a call


@pytest.mark.parametrize(
    "function", [exec, eval, getattr, __import__, np.fromfile, pickle.loads, type, bytearray]
)
def test_only_dictionaries_and_tensors_are_made(tmp_path, function):
    path = tmp_path / "weights.pth"
    path.write_bytes(HEAD + pickle.dumps({"weight": Call(function, "1")}, protocol=2))
    with pytest.raises(InputError, match="holds no weights"):
        read_torch_weights(path)


def test_every_part_of_a_file_is_no_file(tmp_path):
    content = GOLDEN.read_bytes()
    path = tmp_path / "weights.pth"
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"weights\.pth: expected tensors"):
            read_torch_weights(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x04K\x06\x86", b"K\x05K\x06\x86"),  # five rows of six numbers in 24
        (b"K\x04K\x06\x86", b"K\x04K\x06\x85"),  # a number in place of a shape
        (b"K\x06K\x01\x86", b"K\x09K\x01\x86"),  # rows that begin nine numbers apart
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, old, new):
    content = GOLDEN.read_bytes()
    assert old in content
    path = tmp_path / "weights.pth"
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match="expected tensors"):
        read_torch_weights(path)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 the format since 2020"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth: expected tensors"):
        read_torch_weights(path)

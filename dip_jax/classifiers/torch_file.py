"""Reads the weights in a file of `torch.save`, without PyTorch and without running what the file says.

Such a file is a pickle, which may name any function to call. This reader allows two: the one that makes a dictionary and
the one that makes a tensor, for which it has its own. It reads the format that PyTorch wrote before version 1.6: three
pickles (a magic number, the version of the format, the sizes of types), the pickled dictionary, the pickled keys of the
storages, and the numbers of each storage.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dip_jax.errors import InputError, describe_error

_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_VERSION = 1001
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
}


class _Storage(NamedTuple):
    """The numbers of one or several tensors, which follow later in the file."""

    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """A part of a storage; offset and strides are in numbers, not in bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """An unpickler that makes only dictionaries, tensors, and Python's own numbers, texts and containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which holds no weights")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, size, _ = pid
        return _Storage(dtype, key, size)


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    """Takes the place of `torch._utils._rebuild_tensor_v2`."""
    return _Tensor(storage, offset, shape, strides)


def read_torch_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dictionary.

    Args:
      path: A file of `torch.save(state, path, _use_new_zipfile_serialization=False)`.

    Returns:
      The tensors by name.

    Raises:
      InputError: If the file is missing, is no such file or is damaged, or names anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(
            f"{path}: expected tensors in the format of torch.save before PyTorch 1.6: {describe_error(error)}."
        ) from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it begins otherwise")
    version, system, state = (_Unpickler(file).load() for _ in range(3))
    if version != _VERSION or not system["little_endian"]:
        raise ValueError("its version or its order of bytes is another one")
    tensors = {name: value for name, value in state.items() if isinstance(value, _Tensor)}
    sizes = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {
        key: _read_storage(file, sizes[key])
        for key in _Unpickler(file).load()
        if key in sizes  # PyTorch writes no others
    }
    return {name: _view(tensor, storages) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little")
    if size != storage.size:
        raise ValueError(f"a storage of {size} numbers, not {storage.size}")
    content = file.read(size * storage.dtype.itemsize)
    return np.frombuffer(content, storage.dtype, size)


def _view(tensor: _Tensor, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    """A copy of a tensor, after a check that it lies in its storage."""
    _, offset, shape, strides = tensor
    numbers = storages[tensor.storage.key]
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} with strides {strides}")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    count: int = math.prod(list(shape))
    if count > len(numbers) or (count > 0 and last >= len(numbers)):
        raise ValueError("a tensor beyond its storage")
    size = numbers.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        numbers[offset:], shape, [size * stride for stride in strides], writeable=False
    )
    return view.copy()

"""The range of stored values that an image maps to [0, 1].

The networks, stopping rules and priors assume images in [0, 1]. Files hold other numbers: 12 bits in 16, photo-electrons,
counts, reflectances around 1e-3. One affine map per image, `pixel = (value - low) / (high - low)`, makes them alike.
"""

import math
from typing import NamedTuple

import numpy as np

from dip_jax.config import parse_range

AUTO = "auto"

_QUANTILES = (0.001, 0.999)  # of the values; the remaining ones do not determine the range
_MARGIN = 0.05  # of the quantile range, added on both sides
_MIN_USE = 0.25  # of a range that the quantiles must cover for it to count as used
_MIN_GAP = 2.0  # of a repeated far value to the others, as a multiple of their quantile range
_MAX_EXCESS = 0.25  # of the range; values farther outside are outliers


class ValueRange(NamedTuple):
    """The stored values of the pixels 0 and 1."""

    low: float
    high: float
    note: str
    """A sentence for the user; empty for the range of the container."""
    is_measured: bool = False
    """Whether the range follows from the quantiles of the values."""


def full_scale(dtype: np.dtype) -> tuple[float, float]:
    """Returns the smallest and the largest value of an integer type; 0 and 1 for floats.

    Example:
      >>> full_scale(np.dtype(np.uint8)), full_scale(np.dtype(np.float32))
      ((0.0, 255.0), (0.0, 1.0))
    """
    if dtype.kind == "f":
        return 0.0, 1.0
    info = np.iinfo(dtype)
    return float(info.min), float(info.max)


def choose_range(values: np.ndarray, setting: str) -> ValueRange:
    """Chooses the range of an image.

    With `auto`, the range is the first of these that fits the 0.1 % and 99.9 % quantiles of the values:
      1. That of the container, for 8-bit integers.
      2. 0 to 2^b - 1 for other integers, or 0 to 1 for floats, if the quantiles lie in it and cover at least a
         quarter of it. b is the smallest number of bits from 8 to that of the type.
      3. The quantiles with a margin of 5 % on both sides, from 0 on if they are positive and come near it.

    Args:
      values: The known values, at least one, in any order.
      setting: `auto`, `container`, or two numbers `LOW,HIGH`.

    Raises:
      InputError: If the setting is none of these.

    Example:
      >>> twelve_bits = np.arange(4096, dtype=np.uint16)
      >>> choose_range(twelve_bits, "auto").high, choose_range(twelve_bits, "container").high
      (4095.0, 65535.0)
    """
    container = full_scale(values.dtype)
    fixed = parse_range(setting)
    if fixed is not None:
        return ValueRange(*fixed, _note(*fixed, "as set"))
    if setting != AUTO or values.dtype == np.uint8:
        return ValueRange(*container, "")
    # float64: differences of large integers must be exact.
    low, high = (float(q) for q in np.quantile(values.astype(np.float64), _QUANTILES))
    for candidate in _usual_ranges(values.dtype):
        if _is_used(candidate, low, high):
            is_container = candidate == container
            note = (
                ""
                if is_container
                else _note(*candidate, f"{_num_bits(candidate[1])} bits are used")
            )
            return ValueRange(*candidate, note)
    margin = _MARGIN * (high - low) or 0.5 * (
        abs(high) or 1.0
    )  # a constant image lies in the middle
    start = 0.0 if 0 <= low < _MIN_USE * high else low - margin
    end = high + margin
    if values.dtype.kind != "f":
        start, end = max(container[0], math.floor(start)), min(container[1], math.ceil(end))
    return ValueRange(float(start), float(end), _note(start, end, "as the values do"), True)


def repeated_outlier(values: np.ndarray) -> np.ndarray:
    """Returns which values are a far value that repeats, such as an unmarked "no data", or a saturated pixel.

    The smallest or the largest value counts as one if up to half of the values equal it, and if the gap to the next one
    is wider than the spread of all others. 8-bit values never do, because their container is their range.

    Args:
      values: Finite values, at least one, in any order.

    Example:
      >>> repeated_outlier(np.array([1.0, 2.0, -9999.0, 3.0, -9999.0])).tolist()
      [False, False, True, False, True]
    """
    is_far = np.zeros(values.shape, bool)
    if values.dtype == np.uint8:
        return is_far
    for extreme in (values.min(), values.max()):
        is_extreme = values == extreme
        others = values[~is_extreme & ~is_far].astype(np.float64)
        if not 1 < np.count_nonzero(is_extreme) <= values.size / 2 or not others.size:
            continue
        gap = min(abs(others.min() - float(extreme)), abs(others.max() - float(extreme)))
        spread = float(np.ptp(np.quantile(others, _QUANTILES)))
        if spread > 0 and gap > _MIN_GAP * spread:
            is_far |= is_extreme
    return is_far


def have_unlike_ranges(channels: np.ndarray, common: ValueRange) -> bool:
    """Returns whether a channel uses less than a quarter of the common range: it is then a band with its own unit.

    Args:
      channels: Finite values `[N, C]`.
      common: The range of all values.
    """
    if not len(channels):
        return False
    low, high = np.quantile(channels.astype(np.float64), _QUANTILES, axis=0)
    return bool(np.any((high > low) & (high - low < _MIN_USE * (common.high - common.low))))


def is_outlier(pixels: np.ndarray) -> np.ndarray:
    """Returns which pixels lie so far outside [0, 1] that they are no values of the image.

    Args:
      pixels: Values mapped by a range.
    """
    return (pixels < -_MAX_EXCESS) | (pixels > 1 + _MAX_EXCESS)


def _usual_ranges(dtype: np.dtype) -> list[tuple[float, float]]:
    if dtype.kind == "f":
        return [(0.0, 1.0)]
    num_bits = 8 * dtype.itemsize - (dtype.kind == "i")
    return [(0.0, 2.0**bits - 1) for bits in range(8, num_bits + 1)]


def _is_used(candidate: tuple[float, float], low: float, high: float) -> bool:
    size = candidate[1] - candidate[0]
    slack = _MARGIN * size
    is_inside = candidate[0] - slack <= low and high <= candidate[1] + slack
    return is_inside and high - low >= _MIN_USE * size


def _num_bits(high: float) -> int:
    return round(math.log2(high + 1))


def _note(low: float, high: float, reason: str) -> str:
    # Enough digits to tell the ends apart, e.g. of a small range around a large number.
    digits = max(6, 3 + math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))))
    return f"values from {low:.{digits}g} to {high:.{digits}g} are mapped to [0, 1] ({reason}); --range changes this"

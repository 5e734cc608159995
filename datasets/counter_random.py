"""Random numbers as a pure function of a counter, with the same bits from NumPy and from torch on any device.

A generator with a state gives numbers that depend on who drew before. Here word ``k`` of item ``i`` is
``mix(base(i) + (k + 1) * GAMMA)``: SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) started at a base of its own for every item. Workers, ranks and batch composition
therefore cannot matter.

Everything is written for int64, because torch has no arithmetic on uint64; two's complement makes sums and
products the same 64 bits, and right shifts are masked to be logical. The functions take NumPy arrays and torch
tensors alike; arrays must have at least one axis (NumPy warns when scalars overflow).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)

# Counter of an item: stream (2 bits) | epoch (30 bits) | index (32 bits).
EPOCH_LIMIT = 1 << 30
INDEX_LIMIT = 1 << 32

_MASK64 = (1 << 64) - 1


def _signed(word: int) -> int:
    """The int64 with the same 64 bits as a Python integer."""
    word &= _MASK64
    return word - (1 << 64) if word >> 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: the Weyl step of SplitMix64
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)

# Taylor coefficients: on |a| <= pi/4 the first term left out is below 5e-17 relative to the result.
_SIN_TAYLOR = [(-1) ** k / math.factorial(2 * k + 1) for k in range(9)]
_COS_TAYLOR = [(-1) ** k / math.factorial(2 * k) for k in range(10)]


def _shift_right(words: Array, bits: int) -> Array:
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def mix(words: Array) -> Array:
    """SplitMix64's finaliser, a bijection of 64-bit words (int64, any shape)."""
    words = (words ^ _shift_right(words, 30)) * _MIX1
    words = (words ^ _shift_right(words, 27)) * _MIX2
    return words ^ _shift_right(words, 31)


def item_bases(indices: Array, seed: int, stream: int, epoch: int) -> Array:
    """One 64-bit base for each item: int64 ``(B,)`` indices in ``[0, 2**32)`` to int64 ``(B,)``.

    Under one seed the map from (stream, epoch, index) to the base is injective (a packed counter through
    bijections), and so is each word drawn from it. Two streams of one seed hence never share an item.
    """
    if not 0 <= stream < 4:  # its bits beyond two would be cut off
        raise ValueError(f"stream {stream} is outside 0..3")
    key1, key2 = _keys(seed)
    counters = indices + _signed((stream << 62) | (epoch << 32))
    return mix(mix(counters + key1) + key2)


@lru_cache(maxsize=16)
def _keys(seed: int) -> tuple[int, int]:
    """The first two SplitMix64 words of a seed, of which 64 bits count."""
    first, second = mix(np.array([_signed(seed)]) + word_steps(2))
    return int(first), int(second)


def word_steps(count: int) -> np.ndarray:
    """The multiples of GAMMA that separate an item's words, int64 ``(count,)``: add them to ``bases[:, None]``."""
    return np.arange(1, count + 1, dtype=np.int64) * _GAMMA


def uniform(words: Array) -> Array:
    """Words to float64 in ``[0, 1)``, multiples of 2**-53 (the grid of Python's ``random.random``)."""
    return to_float64(_shift_right(words, 11)) * 2.0**-53


def below(words: Array, limit: int) -> Array:
    """Words to int64 in ``[0, limit)`` for ``limit`` up to 2**31; the bias is below ``limit / 2**32``."""
    return _shift_right(_shift_right(words, 32) * limit, 32)


def unit_vectors(words: Array) -> tuple[Array, Array]:
    """Words to ``(sin, cos)`` of an angle uniform on the circle, float64.

    Two bits choose the quarter turn and 53 the angle within it; sine and cosine are polynomials in sums and products
    alone. Library sines differ in the last bit from one machine to the next, which now and then moves a digit by
    one pixel; these do not.
    """
    quarter = _shift_right(words, 62)
    angle = (to_float64((words >> 9) & ((1 << 53) - 1)) * 2.0**-53 - 0.5) * (math.pi / 2)
    square = angle * angle
    sine = _horner(square, _SIN_TAYLOR) * angle
    cosine = _horner(square, _COS_TAYLOR)
    turn_cosine = abs(quarter - 2) - 1  # 1, 0, -1, 0
    turn_sine = (quarter & 1) * (2 - quarter)  # 0, 1, 0, -1
    return sine * turn_cosine + cosine * turn_sine, cosine * turn_cosine - sine * turn_sine


def _horner(x: Array, coefficients: list[float]) -> Array:
    value = x * coefficients[-1] + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        value = value * x + coefficient
    return value


def to_float64(values: Array) -> Array:
    """The values as float64, exact for integers below 2**53."""
    return values.double() if isinstance(values, torch.Tensor) else values.astype(np.float64)


def to_int64(values: Array) -> Array:
    """The values truncated towards zero."""
    return values.long() if isinstance(values, torch.Tensor) else values.astype(np.int64)


def stack(arrays: list[Array], axis: int) -> Array:
    """Arrays of one shape joined along a new axis."""
    if isinstance(arrays[0], torch.Tensor):
        return torch.stack(arrays, axis)
    return np.stack(arrays, axis)


def where(condition: Array, chosen: Array, other: Array) -> Array:
    """``chosen`` where the condition holds, ``other`` elsewhere."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, chosen, other)
    return np.where(condition, chosen, other)

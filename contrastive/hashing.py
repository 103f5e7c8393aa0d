"""Counter-based random numbers: pure functions of integers, equal on every machine, process and library version.

torch and numpy promise no stable random stream between versions, so whatever decides the order of data or the pixels
of a sample comes from here. The mixer is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), in numpy for indices and in torch for batches on a device.
"""

import zlib

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(*parts: ArrayLike | str) -> NDArray[np.uint64]:
    """Return the 64-bit hash of a tuple of integers or strings, elementwise over arrays that broadcast together."""
    state: NDArray[np.uint64] = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            number = zlib.crc32(part.encode()) if isinstance(part, str) else part
            state = _splitmix64(state ^ np.asarray(number).astype(np.uint64))
    return np.asarray(state)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


def row_hash(rows: Tensor) -> Tensor:
    """Return a 64-bit hash of each row of integers, int64 [B] of [B, L]; equal rows agree, others in practice never."""
    places = torch.arange(1, rows.shape[1] + 1, device=rows.device) * _signed(GOLDEN)  # [L]
    mixed = _mix_signed((_mix_signed(places) ^ rows.long()) + _signed(GOLDEN))  # [B, L]
    return _mix_signed(mixed.sum(dim=1) + _signed(GOLDEN))


def bytes_hash(content: bytes) -> int:
    """Return a 64-bit hash of bytes as a signed integer.

    Every encoded image is hashed, so it is a checksum, of the first half and of the whole: against accidents, not
    against forgery.
    """
    middle = len(content) // 2
    half = zlib.crc32(memoryview(content)[:middle])
    return _signed(half << 32 | zlib.crc32(memoryview(content)[middle:], half))


def uniform(seed: Tensor, count: int) -> Tensor:
    """Return `count` uniform numbers in [0, 1) a row, a pure function of each row's seed.

    `seed` is int64 [B] (a `mix` viewed as signed); the result is float32 [B, count] on the same device.
    """
    stream = torch.arange(1, count + 1, device=seed.device) * _signed(GOLDEN)  # [count]
    x = _mix_signed(seed[:, None] + stream)  # [B, count]; int64 wraps like uint64
    return _shift(x, 40).to(torch.float32) * 2.0**-24  # the upper 24 bits fill a float32 mantissa exactly


def _mix_signed(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(MIX_1)
    x = (x ^ _shift(x, 27)) * _signed(MIX_2)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts copy the sign bit; mask it off


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value

"""Which sample comes at which position: a pure function of (number of samples, seed, position).

Position p is the p-th sample that training ever consumes; epoch e holds positions e*N to (e+1)*N - 1, each sample
once. Nothing is stored, so a run may start at any position at once, on any number of processes.
"""

import numpy as np
from numpy.typing import NDArray

from contrastive.hashing import mix

ROUNDS = 6  # of a balanced Feistel network; 4 are already a pseudorandom permutation (Luby and Rackoff 1988)


def sample_at(position: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return the sample numbers, 0 to count - 1, at `position` [B]. Every epoch has its own permutation."""
    epoch, offset = np.divmod(position, count)
    half_bits = max(1, (int(count - 1).bit_length() + 1) // 2)
    result = _shuffle(offset.astype(np.uint64), epoch, seed, half_bits)
    while (outside := result >= count).any():
        # Cycle walking: the network permutes the next power of four; follow it until it is back inside.
        result[outside] = _shuffle(result[outside], epoch[outside], seed, half_bits)
    return result.astype(np.int64)


def _shuffle(x: NDArray[np.uint64], epoch: NDArray[np.int64], seed: int, half_bits: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = x >> shift, x & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (mix("order", seed, epoch, number, right) & mask)
    return (left << shift) | right

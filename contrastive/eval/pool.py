"""Which of the documents are equal to the last bit. M documents, U distinct ones, E embed_dim."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE = 1 << 11  # rows that are looked at together: 16 MiB at E = 512


class Pool(NamedTuple):
    """The distinct documents [U, E]; the place of each document among them [M]; the copies of each, float32 [U].

    `first`: the first document that is equal to each [U]. Equal documents are scored once, as a matrix product may
    round two equal columns differently and break their tie.
    """

    rows: Tensor
    place: Tensor
    copies: Tensor
    first: Tensor

    @classmethod
    def of(cls, documents: Tensor) -> "Pool":
        """Return the pool of documents float32 [M, E]; the documents themselves where all are distinct."""
        first, place, copies = np.unique(_keys(documents), return_index=True, return_inverse=True, return_counts=True)[
            1:
        ]
        if len(first) == len(documents):
            every = torch.arange(len(documents))
            return cls(documents, every, torch.ones(len(documents)), every)
        firsts, places = torch.from_numpy(first), torch.from_numpy(place)
        for part in torch.arange(len(documents)).split(PIECE):
            same = torch.equal(documents[firsts[places[part]]], documents[part])
            assert same, "two different documents have one key of 64 bits"
        return cls(documents[firsts], places, torch.from_numpy(copies.astype(np.float32)), firsts)


def _keys(rows: Tensor) -> NDArray[np.int64]:
    """Return a number of 64 bits for each row of float32, equal where rows are."""
    factors = np.random.default_rng(0).integers(-(2**63), 2**63, rows.shape[1] + 1, dtype=np.int64) | 1
    keys = []
    for piece in rows.split(PIECE):
        bits = (piece.numpy() + 0.0).view(np.int32) * factors[-1]  # + 0.0: -0.0 and 0.0 differ in bits
        bits ^= bits >> 32  # short fractions have zeros at their end, which a product alone would keep
        keys.append((bits * factors[:-1]).sum(1))
    return np.concatenate(keys)

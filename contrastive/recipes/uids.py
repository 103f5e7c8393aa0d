"""DataComp's names of samples: 128-bit uids, 32 hexadecimal digits in the json member, and lists of them.

A list is a .npy of dtype "u8,u8", sorted: the first and the last 16 digits of each uid as numbers
(https://github.com/mlfoundations/datacomp, "Selecting samples in the filtering track"; arXiv:2304.14108).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Pool
from contrastive.data.storage import Storage
from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.files import replacing
from contrastive.recipes.curation.names import NAME, Names
from contrastive.recipes.samples import Sample

PAIR = np.dtype("u8,u8")
FIELD = "uid"  # of the json member
DIGITS = 32


def read_uids(path: Path) -> Names:
    """Return the uids of a list as names, in its order; 16 bytes each.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        pairs = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); save the array with numpy.save") from error
    if not isinstance(pairs, np.ndarray) or pairs.ndim != 1 or pairs.dtype != PAIR:
        held = f"{pairs.dtype} {list(pairs.shape)}" if isinstance(pairs, np.ndarray) else "several arrays"
        raise DataError(f'{path}: holds {held}; a list of uids is one row of dtype "u8,u8", as DataComp writes it')
    return _names(pairs)


def write_uids(path: Path, names: Names) -> None:
    """Write uids as DataComp reads them: sorted, each once."""
    numbers = np.unique(names).view(">u8").reshape(-1, 2).astype("u8")
    pairs = np.empty(len(numbers), PAIR)
    pairs["f0"], pairs["f1"] = numbers[:, 0], numbers[:, 1]
    with replacing(path, ".npy") as file:
        np.save(file, pairs, allow_pickle=False)


def uid_of(fields: Any) -> bytes | None:
    """Return the uid among the fields of a json member as a name; None where there is none."""
    text = fields.get(FIELD)
    if not isinstance(text, str) or len(text) != DIGITS:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


class UidsOf:
    """Reads the uids of a pool's samples, a span at a time; it travels to other processes."""

    def __init__(self, pool: Pool, storage: Storage) -> None:
        self.reader = Reader(pool, storage, "substitute")

    def __call__(self, span: tuple[int, int]) -> tuple[Names, NDArray[np.bool_]]:
        """Return the uids of samples start to end, NAME [n], and which of them have one, bool [n]."""
        numbers = range(*span)
        if self.reader.is_remote:
            self.reader.prefetch(numbers)
        found = [self._uid(number) for number in numbers]
        held = np.array([uid is not None for uid in found], bool)
        return np.array([uid or b"" for uid in found], NAME), held

    def _uid(self, number: int) -> bytes | None:
        try:
            return uid_of(Sample(self.reader, number).fields)
        except BadSampleError:
            return None


def _names(pairs: NDArray[np.void]) -> Names:
    """Return pairs of numbers as 16 bytes each, big end first, so that bytes sort as the numbers do."""
    numbers = np.empty((len(pairs), 2), ">u8")
    numbers[:, 0], numbers[:, 1] = pairs["f0"], pairs["f1"]
    return numbers.reshape(-1).view(NAME)

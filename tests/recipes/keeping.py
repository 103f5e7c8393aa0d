"""What a file of verdicts keeps, read without the lists of curation."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contrastive.data.pool import Pool
from contrastive.recipes.verdicts import aligned, column


def kept(path: Path, pool: Pool) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which samples of the pool the file keeps, and of which it speaks at all, bool [N] each.

    Raises:
        DataError: see `aligned`, or it has no column `kept`.
    """
    at = aligned(path, pool)
    says = column(path, "kept").astype(bool)
    known = at >= 0
    return np.where(known, says[np.maximum(at, 0)] if len(says) else False, False), known

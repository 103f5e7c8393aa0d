"""What an image looks like, in 1,160 bytes, and how alike two images look whatever their file, size and brightness.

Two steps, as one is not enough. The hash finds candidates: 64 bits of the cosine transform, above or below their
median (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.2), as
`imagehash` computes it. The likeness then compares small copies of the two, pixel by pixel, because pictures of few
lines (glyphs, charts, logos) share hashes by the hundred:

- `luma` is 32 x 32, `chroma` (Cb and Cr) 8 x 8: the correlation of both together does not change with brightness and
  contrast, and does with colour.
- Only the foreground counts: what is more than 12 grey levels away from the most frequent grey of its own image, in
  either of the two. A white page that both share proves nothing.
- Pictures whose foreground fills half of the frame are photographs for this purpose: they are also compared after
  cutting 2.5 or 5 % from the sides of one of them, which a person who crops does. On a page, a shift of a line is
  another line; so such pictures are not shifted, and must be more alike (`Rule.sparse`).

P pairs.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contrastive.errors import DataError
from contrastive.modalities.decode import Pixels

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
SIDE, COLOURS = 32, 8
LEAST_SIDE = 128  # a JPEG is decoded at a fraction of its size, down to this
FLAT = 3.0  # grey levels of deviation: below, the bits of a hash are noise
APART = 12  # grey levels from the background
FULL = 0.5  # of the frame: more foreground makes a photograph
COARSE = 16
CUTS = (0.025, 0.05)  # of a side, in all
WEIGHT = float(SIDE // COLOURS) ** 2  # pixels of luma that one of chroma stands for
PAIRS = 2048  # compared together: 100 MB


@dataclass(frozen=True)
class Rule:
    """When two images are the same picture: hashes at most `distance` bits apart, and at least so alike.

    12 bits find 94 % of photographs cropped by 5 %, and 99 % of all other copies (10 bits: 85 %, 14 bits: 99 %). Of two
    hashes by chance 1 in 2 x 10^6 is as near, and costs a comparison: 200,000 among a million images. With 14 bits it
    is 1 in 150,000.
    """

    distance: int = 12
    likeness: float = 0.95  # of photographs

    @property
    def sparse(self) -> float:
        """The likeness that pictures on an empty ground need: 0.98 by default."""
        return 1 - 0.4 * (1 - self.likeness)


@dataclass(frozen=True)
class Look:
    """One image: `hash` is 0 where it `is_flat`, and says nothing then."""

    hash: int
    is_flat: bool
    luma: Bytes  # [32, 32]
    chroma: Bytes  # [8, 8, 2]


def require_imagehash() -> Any:
    """Return the library that hashes.

    Raises:
        DataError: it is not installed.
    """
    try:
        import imagehash
    except ImportError:
        raise DataError("perceptual hashes need imagehash: pip install 'contrastive-pretrain[curate]'") from None
    return imagehash


def reduction(height: int, width: int) -> int:
    """Return by which of 1, 2, 4, 8 a JPEG may be reduced while it is decoded: what is left is small either way."""
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(height, width) // factor >= LEAST_SIDE)


def look(pixels: Pixels) -> Look:
    """Return what an image looks like.

    Raises:
        DataError: imagehash is not installed.
    """
    imagehash = require_imagehash()
    image = Image.fromarray(pixels)
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr"))
    luma = small[..., 0]
    step = SIDE // COLOURS
    chroma = small[..., 1:].reshape(COLOURS, step, COLOURS, step, 2).mean((1, 3)).round().astype(np.uint8)
    is_flat = bool(luma.std() < FLAT)
    bits = 0 if is_flat else int.from_bytes(np.packbits(imagehash.phash(image).hash.ravel()).tobytes(), "little")
    return Look(bits, is_flat, np.ascontiguousarray(luma), chroma)


def alike(luma: tuple[Bytes, Bytes], chroma: tuple[Bytes, Bytes], rule: Rule) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how alike the images of pairs are, float32 [P] up to 1, and whether that is enough by the rule, bool [P].

    `luma` are uint8 [P, 32, 32] and `chroma` uint8 [P, 8, 8, 2] of the ones and the others. Swapping them changes
    nothing.
    """
    values, enough = [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    for start in range(0, len(luma[0]), PAIRS):
        piece = slice(start, start + PAIRS)
        value, limit = _compare(luma[0][piece], luma[1][piece], chroma[0][piece], chroma[1][piece], rule)
        values.append(value)
        enough.append(value >= limit)
    return np.concatenate(values), np.concatenate(enough)


def _compare(one: Bytes, other: Bytes, colour: Bytes, other_colour: Bytes, rule: Rule) -> tuple[Floats, Floats]:
    """Return the likeness of pairs and what it must be."""
    mask = _foreground(one) | _foreground(other)  # [P, 32, 32]
    is_full = mask.mean((1, 2)) >= FULL
    step = SIDE // COLOURS
    shares = mask.reshape(-1, COLOURS, step, COLOURS, step).mean((2, 4), dtype=np.float32)
    tints = _Tints.of(colour, other_colour, shares)
    value = _correlation(one.astype(np.float32), other.astype(np.float32), mask.astype(np.float32), tints, 1.0)
    again = np.flatnonzero(is_full & (value < rule.likeness) & (value > 0))
    if len(again):
        value[again] = np.maximum(value[again], _shifted(one[again], other[again], tints.at(again)))
    return value, np.where(is_full, rule.likeness, rule.sparse).astype(np.float32)


@dataclass(frozen=True)
class _Tints:
    """Sums over the colours of pairs: of products, and of squares."""

    product: Floats
    one: Floats
    other: Floats

    @classmethod
    def of(cls, colour: Bytes, other: Bytes, shares: Floats) -> "_Tints":
        a, b = (tint.astype(np.float32) - 128 for tint in (colour, other))
        weights = WEIGHT * shares[..., None]
        return cls(*((weights * product).sum((1, 2, 3)) for product in (a * b, a * a, b * b)))

    def at(self, rows: NDArray[Any]) -> "_Tints":
        return _Tints(self.product[rows], self.one[rows], self.other[rows])


def _correlation(one: Floats, other: Floats, weights: Floats, tints: _Tints, area: float) -> Floats:
    """Return the correlation of pairs: grey without its mean, colour from its neutral point.

    A pixel of luma stands for `area` pixels of 32 x 32.
    """
    wa, wb = weights * one, weights * other
    total = np.maximum(weights.sum((1, 2), keepdims=True), 1)
    a, b = one - wa.sum((1, 2), keepdims=True) / total, other - wb.sum((1, 2), keepdims=True) / total
    wa, wb = weights * a, weights * b
    product = area * np.einsum("pij,pij->p", wa, b) + tints.product
    squares = (area * np.einsum("pij,pij->p", wa, a) + tints.one, area * np.einsum("pij,pij->p", wb, b) + tints.other)
    found: Floats = (product / np.sqrt(np.maximum(squares[0] * squares[1], 1))).astype(np.float32)
    return found


def _foreground(luma: Bytes) -> NDArray[np.bool_]:
    """Return which pixels are not of an image's most frequent grey, bool [P, 32, 32]."""
    bins = (luma >> 3).reshape(len(luma), -1) + 32 * np.arange(len(luma))[:, None]
    counts = np.bincount(bins.ravel(), minlength=32 * len(luma)).reshape(len(luma), 32)
    ground = counts.argmax(1) * 8 + 4
    apart: NDArray[np.bool_] = np.abs(luma.astype(np.int16) - ground[:, None, None]) > APART
    return apart


def _shifted(one: Bytes, other: Bytes, tints: _Tints) -> Floats:
    """Return the best likeness of pairs when a frame is cut from one of them, float32 [P]."""
    whole = _window(0, 0)
    best: Floats = np.full(len(one), -1, np.float32)
    every = np.ones((1, COARSE, COARSE), np.float32)
    for image, still in ((one, other), (other, one)):
        image32, target = image.astype(np.float32), _resampled(still.astype(np.float32), whole, whole)
        swapped = tints if image is one else _Tints(tints.product, tints.other, tints.one)
        for cut in CUTS:
            for top in (0, cut / 2, cut):
                for left in (0, cut / 2, cut):
                    moved = _resampled(image32, _window(top, cut), _window(left, cut))
                    np.maximum(best, _correlation(moved, target, every, swapped, (SIDE / COARSE) ** 2), out=best)
    return best


def _resampled(luma: Floats, rows: Floats, columns: Floats) -> Floats:
    found: Floats = np.matmul(np.matmul(rows, luma), columns.T, dtype=np.float32)
    return found


@cache
def _window(start: float, cut: float) -> Floats:
    """Return what resamples a side to 16 pixels, less `cut` of it, from `start`: triangles, float32 [16, 32]."""
    scale = SIDE * (1 - cut) / COARSE
    centres = SIDE * start + (np.arange(COARSE) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(SIDE) + 0.5 - centres[:, None]) / scale)
    found: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return found

"""What a look at some samples found, and what it means: captions that are cut or repeated, images of wrong sizes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrastive.recipes.doctor import Finding, RunFacts, Severity, gigabytes

LONG_ASPECT = 3.0  # DataComp's basic filter keeps images up to it (Gadre et al. 2023, appendix D)
FEW, MANY = 0.01, 0.1  # of the samples: below the first not worth a word, above the second a waste
FREQUENT = 0.01  # of the captions that are one and the same
GROWTH = 1.2  # times as fast, below which smaller images are not worth a rewrite
LEAST = 20  # samples, below which a share says nothing


@dataclass(frozen=True)
class Captions:
    """Captions that were looked at, one of each usable sample."""

    count: int
    context_length: int
    cut: int = 0  # that have more tokens than fit
    long_tokens: float = 0.0  # tokens that 99 % of them fit in
    repeated: int = 0  # that occurred before
    most_frequent: tuple[str, int] = ("", 0)
    html: int = 0  # with tags or entities
    names: int = 0  # that are a file's name or an address
    foreign: int = 0  # whose letters are mostly not Latin


@dataclass(frozen=True)
class Images:
    """Images that were looked at: pixels as stored, int64 [N]."""

    width: NDArray[np.int64]
    height: NDArray[np.int64]
    size: int  # of the model's input, pixels

    @property
    def short_side(self) -> NDArray[np.int64]:
        """Pixels of the shorter side."""
        return np.minimum(self.width, self.height)

    @property
    def small(self) -> NDArray[np.bool_]:
        """Which images are made larger."""
        return self.short_side < self.size

    @property
    def narrow(self) -> NDArray[np.bool_]:
        """Which images lose most of their area to a square crop."""
        return np.maximum(self.width, self.height) > LONG_ASPECT * self.short_side

    @property
    def stored_size(self) -> int:
        """The shorter side that leaves a crop its room: 8/7 of the input (256 for 224), in multiples of 32 or 8."""
        step = 32 if self.size >= 128 else 8
        return math.ceil(self.size * 8 / 7 / step) * step

    @property
    def kept_pixels(self) -> float:
        """The share of the pixels that is left when no shorter side is larger than `stored_size`."""
        pixels = (self.width * self.height).astype(np.float64)
        scale = np.minimum(1.0, self.stored_size / self.short_side)
        return float((pixels * scale**2).sum() / max(1.0, float(pixels.sum())))


def of_captions(facts: Captions, run: RunFacts) -> list[Finding]:
    """Return what is wrong with captions."""
    if not facts.count:
        return []
    return [*_cut(facts), *_repeated(facts, run), *_odd(facts, run)]


def _cut(facts: Captions) -> Iterator[Finding]:
    share = facts.cut / facts.count
    if _is_told(facts.cut, facts.count):
        what = f"{share:.1%} of the captions are longer than the {facts.context_length} tokens that the model reads"
        gain = f"their ends are never seen; 99 % of all fit in {facts.long_tokens:,.0f} tokens"
        length = -(-int(facts.long_tokens) // 8) * 8
        fix = f"shorter captions, or a text tower with context_length: {length}"
        yield Finding(_severity(share), share, what, gain, fix)


def _repeated(facts: Captions, run: RunFacts) -> Iterator[Finding]:
    text, most = facts.most_frequent
    share = most / facts.count
    if facts.count >= LEAST and most > 1 and share > FREQUENT:
        what = f"one caption is that of {share:.1%} of the samples: {text[:80]!r}"
        gain = f"{share * run.global_batch_size:,.0f} of each batch's {run.global_batch_size:,} are its wrong negatives"
        fix = f"contrastive data balance {run.shards} --entries-from-captions 50000 --t 500 --out balanced"
        yield Finding("wastes", share, what, gain, fix)
    share = facts.repeated / facts.count
    if _is_told(facts.repeated, facts.count):
        what = f"{share:.1%} of the captions occurred before among {facts.count:,}; among all there are more"
        fix = f"contrastive data dedup {run.shards} --method exact --of caption --out dedup shows them"
        yield Finding(_severity(share), share, what, "a batch takes equal captions for negatives", fix)


def _odd(facts: Captions, run: RunFacts) -> Iterator[Finding]:
    again = "pack them again from their source with contrastive data pack SOURCE --clean-html"
    rewrite = f"contrastive data add-captions {run.shards} puts better ones in"
    tried = f"contrastive data filter {run.shards} --language en --out english; or take a tokenizer of many languages"
    for count, what, gain, fix in (
        (facts.html, "hold HTML", "the text tower learns markup", again),
        (facts.names, "are file names or addresses", "they do not say what is seen", rewrite),
        (facts.foreign, "are written in letters other than Latin", "an English tokenizer cuts them into bytes", tried),
    ):
        share = count / facts.count
        if _is_told(count, facts.count):
            yield Finding(_severity(share), share, f"{share:.1%} of the captions {what}", gain, fix)


def of_images(facts: Images, run: RunFacts) -> list[Finding]:
    """Return what is wrong with the sizes of images; see `of_large_images` for those that are larger than needed."""
    found, total = [], len(facts.width)
    small, narrow = int(facts.small.sum()), int(facts.narrow.sum())
    if _is_told(small, total):
        share = small / total
        what = f"{share:.1%} of the images are smaller than the {facts.size} pixels of the model's input"
        gain = "they are made larger, and show the model blur"
        fix = f"contrastive data filter {run.shards} --min-side {facts.size} --out large, or a smaller input"
        found.append(Finding(_severity(share), share, what, gain, fix))
    if _is_told(narrow, total):
        share = narrow / total
        what = f"{share:.1%} of the images are more than {LONG_ASPECT:g} times as long as wide"
        gain = "a square crop shows less than a third of each, and the caption is of all"
        fix = f"contrastive data filter {run.shards} --max-aspect {LONG_ASPECT:g} --out square"
        found.append(Finding(_severity(share), share, what, gain, fix))
    return found


def of_large_images(
    facts: Images, run: RunFacts, pixel_share: float, *, is_limiting: bool, stored_bytes: float
) -> list[Finding]:
    """Return the gain of storing images at the size that training needs.

    `pixel_share` is the part of the loader's time that grows with the pixels: decoding, cropping, resizing.
    `is_limiting` says whether a faster loader makes a faster run, `stored_bytes` what the shards take.
    """
    kept = facts.kept_pixels
    faster = 1 / (1 - pixel_share * (1 - kept))
    if faster < GROWTH:
        return []
    size = facts.stored_size
    what = f"images are larger than needed: the median shorter side is {np.median(facts.short_side):,.0f} pixels for a "
    what += f"model's input of {facts.size}"
    gain = f"with shorter sides of {size} the loader is about {faster:.1f} times as fast"
    gain += f", and {gigabytes(stored_bytes)} of shards become about {gigabytes(stored_bytes * kept)}"
    fix = f"contrastive data pack {run.source} --size {size} --out smaller; at once, for JPEGs: data.decode_scale=true"
    return [Finding("wastes" if is_limiting else "note", 1 - 1 / faster, what, gain, fix)]


def _is_told(count: int, total: int) -> bool:
    return count > 1 and count >= FEW * total


def _severity(share: float) -> Severity:
    return "wastes" if share >= MANY else "note"

"""What samples are like: sizes, shapes, captions, and how many there are twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, NullLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from contrastive.data.stream import BadSampleError, Reader
from contrastive.hashing import bytes_hash
from contrastive.modalities.decode import BadImageError, size_of
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.recipes.looking import over_samples

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
MOST_REPEATED = 5
BINS = 50


class _Sample(NamedTuple):
    member: str  # that holds the image
    width: int
    height: int
    image_bytes: int
    image_hash: int
    caption: str
    tokens: int


@dataclass
class Stats:
    """Samples that were looked at: numbers as arrays [N], of one entry each."""

    unreadable: Counter[str] = field(default_factory=Counter)  # by reason; `contrastive data verify` names them
    members: Counter[str] = field(default_factory=Counter)  # which extension holds the image
    width: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    height: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    image_bytes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    characters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # start, end, and at most all
    context_length: int = 77
    image_repeats: int = 0  # samples whose image another one before them has, byte by byte
    caption_repeats: int = 0
    most_repeated: list[tuple[str, int]] = field(default_factory=list)  # captions and how often they occur

    def __len__(self) -> int:
        return len(self.width)

    @property
    def short_side(self) -> NDArray[np.int64]:
        """Pixels of the shorter side."""
        return np.minimum(self.width, self.height)

    @property
    def aspect(self) -> NDArray[np.float64]:
        """Width by height."""
        return self.width / self.height

    @property
    def cut_captions(self) -> int:
        """Captions that fill the context, and may have been cut."""
        return int((self.tokens >= self.context_length).sum())

    def quantiles(self) -> dict[str, list[float]]:
        """Return minimum, 1 %, quartiles, 99 %, maximum and mean of each quantity."""
        quantities = {
            "width": self.width, "height": self.height, "shorter side": self.short_side, "width / height": self.aspect,
            "image bytes": self.image_bytes, "caption characters": self.characters, "caption tokens": self.tokens,
        }  # fmt: skip
        return {
            name: [*np.quantile(values, QUANTILES).tolist(), float(values.mean())]
            for name, values in quantities.items()
            if len(values)
        }


def gather(
    reader: Reader,
    numbers: Sequence[int],
    *,
    processes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Stats:
    """Return what the samples `numbers` are like. Of images only the header is decoded.

    Raises:
        DataError: a process was killed.
    """
    tokenizer = Tokenizer(TokenizerSpec())
    looks = over_samples(reader, numbers, partial(_look, tokenizer), processes=processes, progress=progress)
    found = Stats(context_length=tokenizer.spec.context_length)
    columns: list[tuple[int, int, int, int, int]] = []
    images: Counter[int] = Counter()
    captions: Counter[int] = Counter()
    texts: dict[int, str] = {}  # of the captions that occur again
    for one in looks:
        if isinstance(one, str):
            found.unreadable[one] += 1
            continue
        found.members[one.member] += 1
        images[one.image_hash] += 1
        digest = bytes_hash(one.caption.encode(errors="surrogatepass"))
        captions[digest] += 1
        if captions[digest] > 1:
            texts.setdefault(digest, one.caption)
        columns.append((one.width, one.height, one.image_bytes, len(one.caption), one.tokens))
    table = np.array(columns, np.int64).reshape(-1, 5)
    found.width, found.height, found.image_bytes, found.characters, found.tokens = table.T
    found.image_repeats = images.total() - len(images)
    found.caption_repeats = captions.total() - len(captions)
    often = [(digest, count) for digest, count in captions.most_common(MOST_REPEATED) if count > 1]
    found.most_repeated = [(texts[digest], count) for digest, count in often]
    return found


def draw(stats: Stats, path: Path, title: str) -> None:
    """Write a picture of four distributions; its kind is that of the suffix (.png, .svg, .pdf)."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, 2).ravel()
    _histogram(panels[0], stats.short_side, "shorter side of the image, pixels", EngFormatter(sep=""))
    _histogram(panels[1], stats.aspect, "width / height", StrMethodFormatter("{x:g}"))
    _histogram(panels[2], stats.image_bytes, "bytes of the image", EngFormatter(sep=""))
    _histogram(panels[3], stats.tokens, f"tokens of the caption ({stats.context_length} at most)", None)
    figure.savefig(path, dpi=120)


def _histogram(axes: Axes, values: NDArray[Any], name: str, log_ticks: Formatter | None) -> None:
    """Draw shares of the samples, on a logarithmic axis where its ticks are given."""
    low, high = float(values.min()), float(values.max())
    if log_ticks is not None:
        edges = np.geomspace(low * 0.98, high * 1.02, BINS + 1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(log_ticks)
    else:
        edges = np.arange(low - 0.5, high + 1.5)
    axes.hist(values, edges.tolist(), weights=np.full(len(values), 1 / len(values)), color="#3b6ea5")
    middle = float(np.median(values))
    number = f"{middle:.2f}" if middle < 10 else f"{middle:,.0f}"
    axes.axvline(middle, color="#b5482a", linewidth=1)
    axes.set_xlabel(f"{name}; median {number}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_ylabel("samples")
    axes.spines[["top", "right"]].set_visible(False)


def _look(tokenizer: Tokenizer, reader: Reader, number: int) -> "_Sample | str":
    """Return the facts of a sample, or why it cannot be read."""
    found = reader.pool.find(number)
    try:
        encoded, caption = reader.image(found), reader.caption(found, 0.0)
        width, height = size_of(encoded)
    except BadSampleError as error:
        return error.reason
    except BadImageError as error:
        return f"image: {error.reason}"
    tokens = int((tokenizer([caption]) != tokenizer.pad_id).sum())
    member = next(name for name in found.source.image if name in found.row.members)
    return _Sample(member, width, height, len(encoded), bytes_hash(encoded), caption, tokens)

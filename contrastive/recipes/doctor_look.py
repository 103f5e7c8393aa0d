"""Looks at some samples as a run would read them, and at the caption next to each: facts for `contrastive data doctor`.

N samples that were looked at, n of them usable.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from contrastive.data.stream import BadSampleError, Reader
from contrastive.hashing import mix
from contrastive.modalities.decode import BadImageError, decode
from contrastive.modalities.text import Tokenizer
from contrastive.recipes.doctor import BadFacts, OrderFacts
from contrastive.recipes.doctor_samples import Captions, Images
from contrastive.recipes.engine import Engine

SPAN = 64  # samples of a task: a look of 2,000 keeps 16 cores busy
LONGER = 4  # times the context, in which captions are read whole
PAIRS = 20  # of captions, below which nothing is said about order
SIGMAS = 5.0  # of chance, that a difference must exceed
HTML = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|&(?:[a-zA-Z]{2,8}|#\d{2,6});")
NAME = re.compile(r"(?:https?://|www\.)\S+|\S+\.(?:jpe?g|png|webp|gif|bmp|tiff?)", re.IGNORECASE)


class Look(NamedTuple):
    """One usable sample: its size as stored in pixels, its caption and its length, and the caption that follows it."""

    number: int
    width: int
    height: int
    caption: str
    tokens: int
    is_cut: bool
    next_caption: str | None


class Bad(NamedTuple):
    """One sample that cannot be used, and why."""

    number: int
    reason: str
    message: str


@dataclass
class Looked:
    """What all looks found, in the order of the samples."""

    context_length: int
    is_clip_bpe: bool  # the tokenizer was made for English
    good: list[Look] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)

    def bad_facts(self, samples: int) -> BadFacts:
        """Return how many cannot be used, for shards of so many `samples`."""
        example: dict[str, str] = {}
        for one in self.bad:
            example.setdefault(one.reason, one.message)
        reasons = Counter(one.reason for one in self.bad)
        return BadFacts(len(self.good) + len(self.bad), samples, dict(reasons), example)

    def images(self, size: int) -> Images:
        """Return the sizes of the images, for a model's input of `size` pixels."""
        sizes = np.array([(one.width, one.height) for one in self.good], np.int64).reshape(-1, 2)
        return Images(sizes[:, 0], sizes[:, 1], size)

    def captions(self) -> Captions:
        """Return what the captions are like."""
        texts = [one.caption for one in self.good]
        often = Counter(texts)
        tokens = [one.tokens for one in self.good]
        return Captions(
            count=len(texts),
            context_length=self.context_length,
            cut=sum(one.is_cut for one in self.good),
            long_tokens=float(np.quantile(tokens, 0.99)) if tokens else 0.0,
            repeated=len(texts) - len(often),
            most_frequent=often.most_common(1)[0] if often else ("", 0),
            html=sum(HTML.search(text) is not None for text in texts),
            names=sum(NAME.fullmatch(text.strip()) is not None for text in texts),
            foreign=sum(map(is_foreign, texts)) if self.is_clip_bpe else 0,
        )

    def order(self, verdict: Sequence[str]) -> OrderFacts:
        """Return how like neighbours are; `verdict` is what `contrastive.recipes.mixing` says of the run's order."""
        words = [_words(one.caption) for one in self.good]
        drawn = np.argsort(mix("far", np.arange(len(words))), kind="stable").tolist()
        near = [
            overlap(mine, _words(one.next_caption))
            for mine, one in zip(words, self.good, strict=True)
            if one.next_caption is not None
        ]
        far = [overlap(words[at], words[other]) for at, other in enumerate(drawn) if at != other]
        if min(len(near), len(far)) < PAIRS:
            return OrderFacts(0.0, 0.0, False, verdict)
        noise = math.sqrt(np.var(near) / len(near) + np.var(far) / len(far))
        difference = float(np.mean(near) - np.mean(far))
        return OrderFacts(float(np.mean(near)), float(np.mean(far)), difference > SIGMAS * noise, verdict)


def look_at(
    reader: Reader,
    tokenizer: Tokenizer,
    numbers: Sequence[int],
    engine: Engine,
    progress: Callable[[int, int], None] | None = None,
) -> Looked:
    """Read and decode the samples `numbers`, and return what they are like.

    The reader should let damaged shards pass (`substitute`), so that one of them does not end the look.

    Raises:
        DataError: a process was killed.
    """
    spec = tokenizer.spec
    found = Looked(spec.context_length, spec.name is None)
    whole = Tokenizer(replace(spec, context_length=LONGER * spec.context_length))
    spans = [numbers[start : start + SPAN] for start in range(0, len(numbers), SPAN)]
    done = 0
    for looks in engine.map(_Task(reader, tokenizer, whole), spans):
        found.good += [one for one in looks if isinstance(one, Look)]
        found.bad += [one for one in looks if isinstance(one, Bad)]
        done += len(looks)
        if progress is not None:
            progress(done, len(numbers))
    return found


def is_foreign(text: str) -> bool:
    """Whether most of a text's letters are beyond Latin and its accents (U+0250)."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(letter >= "\u0250" for letter in letters) > len(letters)


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of the words of both that both have (Jaccard)."""
    return len(one & other) / max(1, len(one | other))


@dataclass(frozen=True)
class _Task:
    reader: Reader
    tokenizer: Tokenizer
    whole: Tokenizer

    def __call__(self, numbers: Sequence[int]) -> list[Look | Bad]:
        if self.reader.is_remote:
            self.reader.prefetch(numbers)
        return [self._look(number) for number in numbers]

    def _look(self, number: int) -> Look | Bad:
        reader = self.reader
        found = reader.pool.find(number)
        try:
            height, width, _ = decode(reader.image(found)).shape
            caption = reader.caption(found, 0.0)
            if reader.has_labels:
                reader.label(found)
        except BadSampleError as error:
            return Bad(number, error.reason, str(error))
        except BadImageError as error:
            return Bad(number, f"image: {error.reason}", f"{found.where}: its image {error}")
        read, all_of_it = _bare(self.tokenizer, caption), _bare(self.whole, caption)
        is_cut = not torch.equal(read, all_of_it)
        return Look(number, width, height, caption, len(all_of_it), is_cut, self._next(number))

    def _next(self, number: int) -> str | None:
        """Return the caption of the sample that follows in the shard; None where there is none."""
        if number + 1 >= len(self.reader.pool):
            return None
        found = self.reader.pool.find(number + 1)
        if found.location != self.reader.pool.find(number).location:
            return None
        try:
            return self.reader.caption(found, 0.0)
        except BadSampleError:
            return None


def _bare(tokenizer: Tokenizer, caption: str) -> torch.Tensor:
    """Return the ids of a caption without the padding behind it, [tokens]."""
    ids = tokenizer([caption])[0]
    used = (ids != tokenizer.pad_id).nonzero()
    return ids[: int(used.max()) + 1 if len(used) else 0]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))

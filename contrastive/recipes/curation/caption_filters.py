"""Filters of captions: length, language, words, and what they share with a list.

Where a sample has several captions, training may draw any of them. A filter that asks something of a caption (a length,
a language, a wanted word) keeps the sample if one caption has it; a filter that looks for what must not be there drops
the sample if one caption has it.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation.filter_text import Phrases, read_phrases, spaced, words_of
from contrastive.recipes.curation.filtering import Judged
from contrastive.recipes.samples import Sample
from contrastive.registry import suggest


class CaptionLength:
    """Keeps captions whose number of words (between blanks) and of characters is within bounds."""

    def __init__(
        self,
        min_words: int | None = None,
        max_words: int | None = None,
        min_characters: int | None = None,
        max_characters: int | None = None,
    ) -> None:
        self.words, self.characters = (min_words, max_words), (min_characters, max_characters)
        if self.words == self.characters == (None, None):
            raise ConfigError("caption_length: set one of min_words, max_words, min_characters, max_characters")
        for name, (least, most) in (("words", self.words), ("characters", self.characters)):
            if least is not None and most is not None and least > most:
                raise ConfigError(f"caption_length: min_{name} {least} is more than max_{name} {most}: nothing passes")

    @property
    def scores(self) -> Mapping[str, float | None]:
        """Words and characters of the caption that passes, or of the first one."""
        limits = {"words": self.words, "characters": self.characters}
        return {name: least if least is not None else most for name, (least, most) in limits.items()}

    def judge(self, sample: Sample) -> Judged:
        """Return whether one of the captions is neither too short nor too long."""
        looks = [self._judge(caption) for caption in sample.captions]
        return next((look for look in looks if not look.reason), looks[0])

    def _judge(self, caption: str) -> Judged:
        words, characters = len(caption.split()), len(caption)
        reason = ""
        for count, (least, most), kind in ((words, self.words, "words"), (characters, self.characters, "characters")):
            if least is not None and count < least:
                reason = reason or f"caption: too few {kind}"
            if most is not None and count > most:
                reason = reason or f"caption: too many {kind}"
        return Judged(reason, {"words": words, "characters": characters})


class Language:
    """Keeps captions whose most probable language is one of `keep`, with at least `min_probability`.

    py3langid tells apart its 140 languages, named by ISO codes; the probabilities of all sum to 1. Of captions with one
    or two words it knows little.
    """

    def __init__(self, keep: list[str], min_probability: float = 0.0) -> None:
        if not keep:
            raise ConfigError("language.keep: is empty; name the languages to keep, as in [en]")
        if not 0 <= min_probability <= 1:
            raise ConfigError(f"language.min_probability: {min_probability:g} must lie between 0 and 1")
        known = _identifier().labels
        for code in keep:
            if code not in known:
                raise ConfigError(f"language.keep: {code!r} is no ISO code of py3langid{suggest(code, known)}")
        self.keep, self.min_probability = frozenset(keep), min_probability

    @property
    def scores(self) -> Mapping[str, float | None]:
        """The probability of the most probable one of the kept languages, of the caption where it is highest."""
        return {"language_probability": self.min_probability or None}

    def judge(self, sample: Sample) -> Judged:
        """Return whether one of the captions is in a language to keep."""
        is_kept, best = False, 0.0
        for caption in sample.captions:
            code, found = _identifier().classify(caption)
            if code in self.keep:
                is_kept = is_kept or found >= self.min_probability
            else:  # ranking all languages costs as much again
                found = next(chance for code, chance in _identifier().rank(caption) if code in self.keep)
            best = max(best, found)
        return Judged("" if is_kept else "caption: other language", {"language_probability": best})


class Words:
    """Keeps captions that hold one of the phrases `keep`, and drops those that hold one of the phrases `drop`.

    Each is a list of phrases, or a file of them (see `read_phrases`). Phrases are found as whole words, in whatever
    case, beside each other.
    """

    def __init__(self, keep: str | list[str] | None = None, drop: str | list[str] | None = None) -> None:
        if keep is None and drop is None:
            raise ConfigError("words: set keep or drop, a file of phrases or a list of them; both are unset")
        self.keep = None if keep is None else _phrases(keep, "words.keep", spaced)
        self.drop = None if drop is None else _phrases(drop, "words.drop", spaced)

    @property
    def scores(self) -> Mapping[str, float | None]:
        """None: a word is there or not."""
        return {}

    def judge(self, sample: Sample) -> Judged:
        """Return whether no caption has a phrase to drop, and one has a phrase to keep."""
        captions = [spaced(caption) for caption in sample.captions]
        if self.drop is not None and any(map(self.drop.stand_in, captions)):
            return Judged("caption: unwanted words")
        if self.keep is not None and not any(map(self.keep.stand_in, captions)):
            return Judged("caption: none of the words")
        return Judged()


class TextOverlap:
    """Keeps or drops captions that share text with the lines of a file; marks and cases do not count.

    Without `words` a whole line must stand in the caption: class names of an evaluation set with `keep` are DataComp's
    text-based filter (https://arxiv.org/abs/2304.14108). With `words` so many of a line in a row are
    enough, and of a shorter line all: captions of an evaluation set with `drop` keep it out of training.
    """

    def __init__(self, file: str, overlapping: Literal["keep", "drop"], words: int | None = None) -> None:
        if words is not None and words < 1:
            raise ConfigError(f"text_overlap.words: {words} must be at least 1")
        self.overlapping, self.name = overlapping, Path(file).name
        self.phrases = _phrases(file, "text_overlap.file", words_of, words)

    @property
    def scores(self) -> Mapping[str, float | None]:
        """None: there is an overlap or not."""
        return {}

    def judge(self, sample: Sample) -> Judged:
        """Return whether a caption shares text with the file, as it must, or must not."""
        is_found = any(self.phrases.stand_in(words_of(caption)) for caption in sample.captions)
        if is_found == (self.overlapping == "keep"):
            return Judged()
        return Judged(f"caption: {'text' if is_found else 'no text'} of {self.name}")


def _phrases(source: str | Sequence[str], key: str, split: Any, window: int | None = None) -> Phrases:
    lines = read_phrases(Path(source)) if isinstance(source, str) else source
    found = Phrases(part for line in lines for part in _windows(split(line), window))
    if not len(found):
        raise ConfigError(f"{key}: {source!r} holds no word")
    return found


def _windows(words: list[str], size: int | None) -> Iterable[list[str]]:
    if size is None or len(words) <= size:
        return [words]
    return (words[at : at + size] for at in range(len(words) - size + 1))


@cache
def _identifier() -> Any:
    """Return the model, once for each process: 0.6 s, 70 MB."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        rule = "pip install 'contrastive-pretrain[curate]'"
        raise DataError(f"language: py3langid is not installed; {rule}") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

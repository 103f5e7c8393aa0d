"""Filters asked one after the other."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from contrastive.errors import DataError
from contrastive.recipes.curation.caption_filters import CaptionLength
from contrastive.recipes.curation.filtering import Judge, Judged
from contrastive.recipes.curation.image_filters import Aspect, Resolution
from contrastive.recipes.samples import Sample
from tests.recipes.curation.pools import Made, made, opened, write


class Odd:
    """A filter of somebody's own."""

    scores: Mapping[str, float | None] = {"number": None}

    def judge(self, sample: Sample) -> Judged:
        return Judged("odd" if sample.number % 2 else "", {"number": sample.number})


def test_a_sample_counts_under_the_first_filter_that_drops_it(tmp_path: Path):
    samples = made(tmp_path, Made("a", "x", 40, 10), Made("b", "x y", 40, 10), Made("c", "x y", 12, 10))
    judge = Judge((CaptionLength(min_words=2), Aspect(2), Resolution(20)))
    found = [judge.judge(sample) for sample in samples]
    assert [one.reason for one in found] == ["caption: too few words", "image: too narrow", "image: too small"]
    assert found[0].scores == {"words": 1, "characters": 1}
    assert found[2].scores == {"words": 2, "characters": 3, "aspect": 1.2, "side": 10}


def test_what_is_not_asked_is_not_read(tmp_path: Path):
    (sample,) = made(tmp_path, Made("a", "x", image=b"no image"))
    assert Judge((CaptionLength(min_words=2), Resolution(20))).judge(sample).reason == "caption: too few words"
    assert not Judge((CaptionLength(max_words=2),)).judge(sample).reason


def test_what_cannot_be_read_is_a_reason(tmp_path: Path):
    samples = made(tmp_path, Made("a", image=b"no image"), Made("b", " "))
    judge = Judge((Resolution(1), CaptionLength(min_words=1)))
    assert [judge.judge(sample).reason for sample in samples] == ["image: not an image", "caption: empty"]


def test_a_span_is_judged_as_columns(tmp_path: Path):
    reader = opened(write(tmp_path, [Made(f"k{at}", width=10 + at, height=20) for at in range(5)]))
    judge = Judge((Odd(), Resolution(13)))
    assert judge.scores == {"number": None, "side": 13}
    found = judge(reader, np.array([0, 1, 4]))
    assert found["reason"].tolist() == ["image: too small", "odd", ""]
    assert found["scores"][:, 0].tolist() == [0, 1, 4]
    assert found["scores"][[0, 2], 1].tolist() == [10, 14]
    assert math.isnan(found["scores"][1, 1])


def test_a_score_that_a_filter_did_not_name_is_refused(tmp_path: Path):
    class Silent(Odd):
        scores: Mapping[str, float | None] = {}

    reader = opened(write(tmp_path, [Made("a")]))
    with pytest.raises(DataError, match="filter: gives a score 'number'; name it in the filter's `scores`"):
        Judge((Silent(),))(reader, np.array([0]))

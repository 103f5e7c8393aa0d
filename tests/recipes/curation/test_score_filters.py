"""Filters of numbers that are known already."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation.filtering import Filter
from contrastive.recipes.curation.score_filters import ClipScore, Column, highest
from contrastive.recipes.samples import Sample
from contrastive.recipes.verdicts import Verdict, writing_verdicts
from tests.recipes.curation.pools import Made, opened, write

SCORES = (0.1, 0.9, None, 0.5, 0.3)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    fields: list[dict[str, Any]] = [{"p": 0.1}, {"p": 0.9}, {}, {"p": "high"}, {"p": True, "lang": "en"}]
    return opened(write(tmp_path / "s", [Made(f"k{at}", fields=one) for at, one in enumerate(fields)]))


@pytest.fixture
def scores(tmp_path: Path, reader: Reader) -> str:
    path = tmp_path / "scores.parquet"
    with writing_verdicts(path, reader.pool, {}, ["clip_score"]) as verdicts:
        for number, score in enumerate(SCORES):
            verdicts.add(Verdict(number, "", {} if score is None else {"clip_score": score}))
    return str(path)


def reasons(judge: Filter, reader: Reader) -> list[str]:
    return [judge.judge(Sample(reader, number)).reason for number in range(len(reader.pool))]


def test_clip_scores_below_the_threshold_are_dropped(reader: Reader, scores: str):
    by = ClipScore(reader.pool, scores, min=0.4)
    low = "clip_score: too low"
    assert reasons(by, reader) == [low, "", "clip_score: no score", "", low]
    assert by.scores == {"clip_score": 0.4}
    assert by.judge(Sample(reader, 1)).scores["clip_score"] == np.float32(0.9)


def test_the_top_share_is_of_those_that_have_a_score(reader: Reader, scores: str):
    by = ClipScore(reader.pool, scores, top=0.5)
    low = "clip_score: too low"
    assert reasons(by, reader) == [low, "", "clip_score: no score", "", low]
    assert by.scores == {"clip_score": np.float32(0.5)}


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.77, 1.0])
def test_the_highest_share_is_that_of_sorting(share: float):
    values = np.random.default_rng(0).normal(size=1003)
    edge = highest(np.append(values, np.nan), share)
    assert edge == sorted(values)[::-1][max(1, round(share * 1003)) - 1]


def test_a_threshold_and_a_share_are_both_kept_to(reader: Reader, scores: str):
    assert ClipScore(reader.pool, scores, min=0.8, top=0.5).min == 0.8
    assert ClipScore(reader.pool, scores, min=0.2, top=0.5).min == 0.5


def test_a_column_of_another_tool_is_matched_by_key(tmp_path: Path, reader: Reader):
    path = tmp_path / "other.parquet"
    parquet.write_table(pa.table({"key": ["k4", "k1", "x"], "nsfw": [1, 7, 9]}), path)
    by = Column(reader.pool, "nsfw", str(path), max=5)
    none = "nsfw: no score"
    assert reasons(by, reader) == [none, "nsfw: too high", none, none, ""]
    assert by.scores == {"nsfw": 5}


def test_a_column_may_equal_a_text_a_number_or_a_truth(tmp_path: Path, reader: Reader):
    path = tmp_path / "other.csv"
    path.write_text("key,kind,flag,count\nk0,photo,true,1\nk1,drawing,false,2\nk2,,,\n")
    expected = ["", "drop", "none", "none", "none"]
    for name, value in (("kind", "photo"), ("flag", True), ("count", 1)):
        words = {f"{name}: not {value}": "drop", f"{name}: no score": "none", "": ""}
        by = Column(reader.pool, name, str(path), equals=value)
        found = [words[reason] for reason in reasons(by, reader)]
        # an empty text of a CSV is a text, of other columns nothing
        assert found == (["", "drop", "drop", "none", "none"] if name == "kind" else expected)


def test_a_field_of_the_samples_is_read_from_their_json(reader: Reader):
    none = "json.p: no score"
    assert reasons(Column(reader.pool, "json.p", max=0.5), reader) == [
        "",
        "json.p: too high",
        none,
        none,
        "json.p: too high",
    ]
    found = reasons(Column(reader.pool, "json.lang", equals="en"), reader)
    assert found == ["json.lang: no score"] * 4 + [""]


def test_a_filter_travels_to_other_processes(reader: Reader, scores: str):
    import pickle

    by = pickle.loads(pickle.dumps(ClipScore(reader.pool, scores, min=0.4)))
    assert reasons(by, reader)[1] == ""
    assert json.loads(json.dumps(by.scores)) == {"clip_score": 0.4}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"column": "json.a"}, "column json.a: set min, max, top or equals; all are unset"),
        ({"column": "json.a", "equals": 1, "min": 2.0}, "equals stands alone"),
        ({"column": "json.a", "min": 2.0, "max": 1.0}, "min 2 is more than max 1"),
        ({"column": "json.a", "top": 0.0}, "top 0 must be more than 0"),
        ({"column": "json.a", "top": 0.5}, "top needs all values beforehand"),
        ({"column": "a", "min": 0.5}, r"needs the file that holds it; a field of the samples is json\.a"),
    ],
)
def test_limits_that_say_nothing_are_refused(reader: Reader, options: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Column(reader.pool, **options)


def test_a_clip_score_needs_a_limit_and_its_column(reader: Reader, scores: str):
    with pytest.raises(ConfigError, match="clip_score: set min or top"):
        ClipScore(reader.pool, scores)
    with pytest.raises(DataError, match=r"has no column 'clip'; it has shard, row, key, kept, reason, clip_score"):
        ClipScore(reader.pool, scores, min=0.1, column="clip")

"""Counts, distributions and examples of a step."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.recipes.curation import tally
from contrastive.recipes.curation.tally import Tally
from contrastive.recipes.step import EXAMPLES
from tests.recipes.curation.pools import Made, opened, write


def told(total: int, limits: dict[str, float | None]) -> Tally:
    found = Tally(total, limits)
    for numbers in np.array_split(np.arange(total), 3):
        reasons = np.array(["" if n % 3 else "every third" for n in numbers], np.str_)
        scores = np.stack([numbers / 10, np.full(len(numbers), np.nan)], axis=1).astype(np.float32)
        found.add(numbers, reasons, scores)
    return found


def test_samples_are_counted_by_reason():
    found = told(20, {"a": None, "b": None})
    assert (found.kept, found.dropped) == (13, {"every third": 7})
    assert found.counts == {"": 13, "every third": 7}


def test_histograms_hold_the_scores_that_are_numbers():
    found = told(20, {"a": 0.5, "b": None}).histograms()
    assert set(found) == {"a"}
    assert sum(found["a"].counts) == 20
    assert (found["a"].edges[0], found["a"].edges[-1], found["a"].limit) == (0.0, 1.9, 0.5)


def test_of_many_samples_an_even_part_makes_the_histogram(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tally, "DRAWN", 10)
    assert sum(told(95, {"a": None, "b": None}).histograms()["a"].counts) == 10


def test_nothing_is_told_of_no_samples(tmp_path: Path):
    found = Tally(0, {"a": None})
    assert (found.counts, found.kept, found.histograms()) == ({}, 0, {})
    assert found.examples(opened(write(tmp_path, [Made("a")])), lambda sample: "") == {}


def test_examples_show_kept_and_dropped_with_pictures(tmp_path: Path):
    samples = [Made(f"k{at:02d}", [f"caption {at}", "other"], 30, 20) for at in range(44)]
    samples[3] = Made("k03", " ", image=b"no image")
    reader = opened(write(tmp_path, samples))
    found = told(44, {"a": None, "b": None}).examples(reader, lambda sample: f"note {sample.number}")
    assert set(found) == {"kept", "every third"}
    assert [len(examples) for examples in found.values()] == [EXAMPLES, EXAMPLES]
    first = found["kept"][0]
    number = int(first.key[1:])
    assert number % 3
    assert (first.caption, first.note) == (f"caption {number} | other", f"note {number}")
    assert first.image is not None
    assert Image.open(io.BytesIO(base64.b64decode(first.image))).size == (30, 20)


def test_an_example_that_cannot_be_read_says_so(tmp_path: Path):
    reader = opened(write(tmp_path, [Made("a", " ", image=b"no image")]))
    found = told(1, {"a": None, "b": None}).examples(reader, lambda sample: "")
    assert [(one.key, one.caption, one.image) for one in found["every third"]] == [("a", "(caption: empty)", None)]

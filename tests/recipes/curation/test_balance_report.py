"""What balancing says of the entries."""

import csv
from pathlib import Path

import numpy as np

from contrastive.recipes.curation.balance_report import TOP, Balance

DONE = Balance(["rare", "often", "none, ever"], np.array([10, 1000, 0]), np.array([10, 110, 0]), 100, 105.04, 7)


def test_all_entries_are_written_the_most_frequent_first(tmp_path: Path):
    DONE.write(tmp_path)
    with (tmp_path / "entries.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["entry", "before", "after", "probability"],
        ["often", "1000", "110", "0.1"],
        ["rare", "10", "10", "1"],
        ["none, ever", "0", "0", "1"],
    ]


def test_figures_say_what_the_head_lost_and_the_tail_gained():
    found = DONE.figures()
    assert found["t"] == 100
    assert found["entries that match a sample"] == 2
    assert found["entries in the head, with more than t"] == 1
    assert found["share of matches in the tail, before"] == "0.99%"
    assert found["share of matches in the tail, after"] == "8.33%"
    assert (found["samples without an entry"], found["samples that draws keep on average"]) == (7, 105.0)
    assert found["entry 'often', before and after"] == "1,000 > 110"
    assert "entry 'none, ever', before and after" not in found


def test_the_most_frequent_entries_alone_are_named():
    counts = np.arange(1, 51)
    found = Balance([f"e{at}" for at in range(50)], counts, counts, 100, 0.0, 0).figures()
    assert sum(name.startswith("entry ") for name in found) == TOP


def test_histograms_count_entries_before_and_after():
    found = DONE.histograms()
    assert [sum(one.counts) for one in found.values()] == [2, 2]
    assert {one.limit for one in found.values()} == {2.0}
    assert not Balance(["a"], np.zeros(1, np.int64), np.zeros(1, np.int64), 1, 0.0, 1).histograms()

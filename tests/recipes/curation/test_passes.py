"""Passes over a pool, and what they leave when they are cut short."""

from pathlib import Path

import numpy as np
import pytest

from contrastive.data.stream import Reader
from contrastive.recipes.curation import passes
from contrastive.recipes.curation.passes import Columns, Numbers, Parts, over_spans
from contrastive.recipes.engine import Local
from tests import toys
from tests.recipes.curation.pools import opened

TOTAL = 23


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(passes, "SPAN", 2)
    monkeypatch.setattr(passes, "PART", 3)
    return opened(toys.write_shards(tmp_path / "s", TOTAL))


def doubled(reader: Reader, numbers: Numbers) -> Columns:
    """Return rows of one width, and rows of another: two for each sample."""
    names = np.array(["long" * int(number % 4) for number in numbers], np.str_)
    return {"number": numbers, "name": names, "twice": np.repeat(numbers, 2)}


def known(reader: Reader, numbers: Numbers) -> Columns:
    raise AssertionError(f"{numbers} were looked at before")


def gathered(parts: Parts, look: passes.Look, reader: Reader, processes: int = 1) -> list[tuple[Numbers, Columns]]:
    return list(parts.passed(look, reader, Local(processes)))


def test_spans_come_in_order(reader: Reader):
    seen: list[tuple[int, int]] = []
    found = list(over_spans(doubled, reader, [5, 1, 9, 22, 0], Local(1), lambda *at: seen.append(at)))
    assert [numbers.tolist() for numbers, _ in found] == [[5, 1], [9, 22], [0]]
    assert [columns["twice"].tolist() for _, columns in found] == [[5, 5, 1, 1], [9, 9, 22, 22], [0, 0]]
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("processes", [1, 2])
def test_parts_join_spans_and_read_back_the_same(tmp_path: Path, reader: Reader, processes: int):
    first = gathered(Parts(tmp_path / "p", {}), doubled, reader, processes)
    again = gathered(Parts(tmp_path / "p", {}), known, reader)
    assert [len(numbers) for numbers, _ in first] == [6, 6, 6, 5]
    for found in (first, again):
        for name, repeats in (("number", 1), ("twice", 2)):
            joined = np.concatenate([columns[name] for _, columns in found])
            np.testing.assert_array_equal(joined, np.repeat(np.arange(TOTAL), repeats))
        assert [str(one) for _, columns in found for one in columns["name"]] == ["long" * (n % 4) for n in range(TOTAL)]


def test_a_pass_that_was_cut_short_goes_on_where_it_was(tmp_path: Path, reader: Reader):
    looked: list[int] = []

    def noted(reader: Reader, numbers: Numbers) -> Columns:
        looked.extend(numbers.tolist())
        return doubled(reader, numbers)

    def breaking(reader: Reader, numbers: Numbers) -> Columns:
        if 15 in numbers:
            raise KeyboardInterrupt
        return doubled(reader, numbers)

    with pytest.raises(KeyboardInterrupt):
        gathered(Parts(tmp_path / "p", {"a": 1}), breaking, reader)
    progress: list[tuple[int, int]] = []
    found = list(Parts(tmp_path / "p", {"a": 1}).passed(noted, reader, Local(1), lambda *at: progress.append(at)))
    assert looked == list(range(12, TOTAL))
    assert np.concatenate([columns["number"] for _, columns in found]).tolist() == list(range(TOTAL))
    assert progress[0] == (14, TOTAL)
    assert progress[-1] == (TOTAL, TOTAL)


def test_parts_of_another_identity_are_thrown_away(tmp_path: Path, reader: Reader):
    gathered(Parts(tmp_path / "p", {"rules": 1}), doubled, reader)
    with pytest.raises(AssertionError, match="looked at before"):
        gathered(Parts(tmp_path / "p", {"rules": 2}), known, reader)


def test_the_end_leaves_nothing(tmp_path: Path, reader: Reader):
    parts = Parts(tmp_path / "p", {})
    gathered(parts, doubled, reader)
    assert len(list((tmp_path / "p").glob("*.npz"))) == 4
    parts.end()
    assert not (tmp_path / "p").exists()

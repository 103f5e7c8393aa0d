"""`contrastive data balance`, from shards to verdicts, entries and a report."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.hashing import mix
from contrastive.recipes.curation import passes
from contrastive.recipes.curation.balance import NO_ENTRY, NOT_DRAWN, name_hash
from contrastive.runs.balancing import Balancing, balance_shards
from contrastive.runs.opening import configuration
from tests.recipes.curation.pools import Made, write

WORDS = ("dog", "cat", "new york", "zebra")


def made(count: int) -> list[Made]:
    draw = random.Random(0)
    texts = [
        " ".join(w for at, w in enumerate(WORDS) if draw.random() < 0.8 / 3**at) or "nothing" for _ in range(count)
    ]
    return [Made(f"k{at:03d}", text) for at, text in enumerate(texts)]


SAMPLES = made(120)


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(passes, "SPAN", 8)
    monkeypatch.setattr(passes, "PART", 3)
    path = tmp_path / "entries.txt"
    path.write_text("\n".join((*WORDS, "unicorn")))
    return path


def run(shards: Path, out: Path, how: Balancing, processes: int = 1) -> dict[str, Any]:
    assert balance_shards(configuration([], [], [str(shards)]), how, out, processes=processes) == 0
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def reasons(out: Path) -> dict[str, str]:
    table = parquet.read_table(out / "verdicts.parquet")
    return dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))


def by_loops(samples: list[Made], t: int, seed: int) -> dict[str, str]:
    """Algorithm 1, one sample after the other, with our draws."""
    counts = {word: sum(f" {word} " in f" {one.caption} " for one in samples) for word in WORDS}
    found = {}
    for one in samples:
        matched = [word for word in WORDS if f" {word} " in f" {one.caption} "]
        found[one.key] = NOT_DRAWN if matched else NO_ENTRY
        for word in matched:
            draw = int(mix("balance", seed, name_hash(one.key), name_hash(word))) / 2**64
            if draw < t / max(counts[word], t):
                found[one.key] = ""
                break
    return found


@pytest.mark.parametrize("seed", [0, 7])
def test_samples_are_drawn_as_a_loop_draws_them(tmp_path: Path, entries: Path, seed: int):
    shards = write(tmp_path / "s", SAMPLES, 3)
    run(shards, tmp_path / "out", Balancing(entries, t=10, seed=seed))
    found = reasons(tmp_path / "out")
    assert found == by_loops(SAMPLES, 10, seed)
    assert set(found.values()) == {"", NO_ENTRY, NOT_DRAWN}


def test_the_report_counts_entries_before_and_after(tmp_path: Path, entries: Path):
    said = run(write(tmp_path / "s", SAMPLES), tmp_path / "out", Balancing(entries, t=10))
    found = reasons(tmp_path / "out")
    with (tmp_path / "out/entries.csv").open(newline="") as file:
        rows = {row["entry"]: (int(row["before"]), int(row["after"])) for row in csv.DictReader(file)}
    for word in WORDS:
        keys = [one.key for one in SAMPLES if f" {word} " in f" {one.caption} "]
        assert rows[word] == (len(keys), sum(not found[key] for key in keys))
    assert rows["unicorn"] == (0, 0)
    assert said["kept"] == sum(not reason for reason in found.values())
    assert said["figures"]["samples without an entry"] == list(found.values()).count(NO_ENTRY)
    assert abs(said["figures"]["samples that draws keep on average"] - said["kept"]) < 12
    assert set(said["examples"]) == {"kept", NO_ENTRY, NOT_DRAWN}
    assert any("dog" in one["note"] for one in said["examples"]["kept"])
    assert (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/.parts").exists()


def test_shards_order_and_processes_change_nothing(tmp_path: Path, entries: Path):
    how = Balancing(entries, t=10)
    run(write(tmp_path / "s", SAMPLES, 1), tmp_path / "one", how)
    run(write(tmp_path / "r", SAMPLES[::-1], 4), tmp_path / "two", how, processes=2)
    assert reasons(tmp_path / "one") == reasons(tmp_path / "two")


def test_samples_without_an_entry_may_be_kept(tmp_path: Path, entries: Path):
    shards = write(tmp_path / "s", SAMPLES)
    run(shards, tmp_path / "out", Balancing(entries, t=10, keep_unmatched=True))
    expected = by_loops(SAMPLES, 10, 0)
    assert reasons(tmp_path / "out") == {k: "" if r == NO_ENTRY else r for k, r in expected.items()}


def test_the_tails_share_chooses_t(tmp_path: Path, entries: Path):
    said = run(write(tmp_path / "s", SAMPLES), tmp_path / "out", Balancing(entries, tail_share=0.2))
    counts = sorted(sum(f" {word} " in f" {one.caption} " for one in SAMPLES) for word in WORDS)
    held = [sum(counts[: at + 1]) / sum(counts) for at in range(len(counts))]
    assert said["figures"]["t"] == next(c for c, share in zip(counts, held, strict=True) if share >= 0.2)


def test_entries_may_come_from_the_captions(tmp_path: Path, entries: Path):
    shards = write(tmp_path / "s", SAMPLES)
    run(shards, tmp_path / "taken", Balancing(entries_from_captions=5, t=10))
    listed = tmp_path / "taken/entries.txt"
    assert len(listed.read_text().splitlines()) == 5
    run(shards, tmp_path / "given", Balancing(listed, t=10))
    assert reasons(tmp_path / "taken") == reasons(tmp_path / "given")


def test_a_run_that_was_cut_short_matches_no_caption_twice(
    tmp_path: Path, entries: Path, monkeypatch: pytest.MonkeyPatch
):
    shards = write(tmp_path / "s", SAMPLES)
    run(shards, tmp_path / "whole", Balancing(entries, t=10))

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("contrastive.runs.balancing.written", ended)
        with pytest.raises(KeyboardInterrupt):
            run(shards, tmp_path / "cut", Balancing(entries, t=10))
    monkeypatch.setattr("contrastive.recipes.curation.balance.Matching.__call__", ended)
    run(shards, tmp_path / "cut", Balancing(entries, t=10))
    assert (tmp_path / "cut/verdicts.parquet").read_bytes() == (tmp_path / "whole/verdicts.parquet").read_bytes()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Balancing(t=3), "give one of --entries FILE and --entries-from-captions N"),
        (Balancing(Path("a.txt"), 5, t=3), "give one of --entries FILE"),
        (Balancing(Path("a.txt")), "give one of --t N and --tail-share SHARE"),
        (Balancing(Path("a.txt"), t=0), "--t 0: must be at least 1"),
        (Balancing(Path("a.txt"), tail_share=0.0), "--tail-share 0: must be more than 0"),
        (Balancing(Path("a.txt"), t=3, seed=-1), "--seed -1: must not be negative"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, how: Balancing, said: str):
    with pytest.raises(ConfigError, match=said):
        run(tmp_path / "absent", tmp_path / "out", how)


def test_entries_that_are_absent_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent.txt: cannot be read: No such file"):
        run(tmp_path / "absent", tmp_path / "out", Balancing(tmp_path / "absent.txt", t=3))

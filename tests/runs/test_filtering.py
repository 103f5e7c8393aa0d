"""`contrastive data filter`, from shards to verdicts and a report."""

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pyarrow import parquet

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation import passes
from contrastive.recipes.curation.filter_rules import Rule
from contrastive.recipes.curation.filtering import Judged
from contrastive.recipes.samples import Sample
from contrastive.recipes.verdicts import provenance_of
from contrastive.runs.filtering import filter_shards
from contrastive.runs.opening import configuration, open_shards
from tests.recipes.curation.pools import Made, opened, write
from tests.recipes.keeping import kept

RULES = [Rule("a", {"name": "caption_length", "min_words": 2}), Rule("b", {"name": "resolution", "min_side": 14})]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(passes, "SPAN", 4)
    monkeypatch.setattr(passes, "PART", 2)
    samples = [Made(f"k{at:02d}", "x" if at % 5 == 0 else "x y", 10 + at % 7, 20) for at in range(40)]
    samples[1] = Made("k01", "x y", image=b"no image")
    return write(tmp_path / "shards", samples, 3)


def run(shards: Path, out: Path, rules: list[Rule] = RULES, **options: object) -> dict[str, object]:
    config = configuration([], [], [str(shards)])
    assert filter_shards(config, rules, out, **{"processes": 1, **options}) == 0  # type: ignore[arg-type]
    found: dict[str, object] = json.loads((out / "report.json").read_text())
    return found


def expected() -> Iterator[str]:
    for at in range(40):
        if at % 5 == 0:
            yield "caption: too few words"
        elif at == 1:
            yield "image: not an image"
        else:
            yield "" if 10 + at % 7 >= 14 else "image: too small"


def test_verdicts_and_report_say_what_the_rules_say(shards: Path, tmp_path: Path):
    said = run(shards, tmp_path / "out", notes=["read this"])
    table = parquet.read_table(tmp_path / "out/verdicts.parquet")
    reasons = list(expected())
    assert table["reason"].to_pylist() == reasons
    assert table["key"].to_pylist() == [f"k{at:02d}" for at in range(40)]
    assert table.column_names[5:] == ["words", "characters", "side"]
    assert said["kept"] == reasons.count("")
    assert said["dropped"] == {reason: reasons.count(reason) for reason in set(reasons) - {""}}
    assert said["notes"][0] == "read this"  # type: ignore[index]
    assert set(said["histograms"]) == {"words", "characters", "side"}  # type: ignore[call-overload]
    assert set(said["examples"]) == {"kept", *said["dropped"]}  # type: ignore[call-overload,misc]
    assert (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/.parts").exists()
    pool = opened(shards).pool
    assert kept(tmp_path / "out/verdicts.parquet", pool)[0].tolist() == [not one for one in reasons]


def test_processes_change_no_byte(shards: Path, tmp_path: Path):
    for processes in (1, 2):
        run(shards, tmp_path / str(processes), processes=processes)
    for name in ("verdicts.parquet", "report.json"):
        first, second = (json_or_bytes(tmp_path / where / name) for where in "12")
        assert first == second


def json_or_bytes(path: Path) -> object:
    if path.suffix != ".json":
        return path.read_bytes()
    return {**json.loads(path.read_text()), "notes": []}  # they name the folder


class Breaking:
    """Says yes to all, until one sample ends the run."""

    broken: ClassVar[set[int]] = set()
    asked: ClassVar[list[int]] = []
    scores: Mapping[str, float | None] = {}

    def judge(self, sample: Sample) -> Judged:
        self.asked.append(sample.number)
        if sample.number in self.broken:
            raise KeyboardInterrupt
        return Judged()


def test_a_run_that_was_cut_short_goes_on_and_ends_the_same(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rules = [*RULES, Rule("c", {"name": f"{__name__}:Breaking"})]
    run(shards, tmp_path / "whole", rules)
    monkeypatch.setattr(Breaking, "broken", {27})
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "cut", rules)
    assert not (tmp_path / "cut/verdicts.parquet").exists()
    monkeypatch.setattr(Breaking, "broken", set())
    Breaking.asked.clear()
    monkeypatch.setattr("contrastive.recipes.curation.tally.Tally.examples", lambda *_: {})  # they ask again
    run(shards, tmp_path / "cut", rules)
    assert min(Breaking.asked) >= 24
    assert (tmp_path / "cut/verdicts.parquet").read_bytes() == (tmp_path / "whole/verdicts.parquet").read_bytes()


class Slow:
    """Says yes to all, after a while."""

    scores: Mapping[str, float | None] = {"number": None}

    def judge(self, sample: Sample) -> Judged:
        time.sleep(0.004)
        return Judged("", {"number": sample.number})


def test_a_run_that_is_killed_again_and_again_ends_the_same(shards: Path, tmp_path: Path):
    rules = [*RULES, Rule("c", {"name": f"{__name__}:Slow"})]
    run(shards, tmp_path / "whole", rules)
    for part in (0, 1, 3):
        killed = multiprocessing.get_context("fork").Process(target=run, args=(shards, tmp_path / "cut", rules))
        killed.start()
        until = time.monotonic() + 60
        while not (tmp_path / f"cut/.parts/{part:06d}.npz").exists() and time.monotonic() < until:
            time.sleep(0.001)
        killed.kill()
        killed.join(10)
        assert killed.exitcode == -9
    run(shards, tmp_path / "cut", rules)
    assert (tmp_path / "cut/verdicts.parquet").read_bytes() == (tmp_path / "whole/verdicts.parquet").read_bytes()


def test_a_sample_is_for_the_report_alone(shards: Path, tmp_path: Path):
    said = run(shards, tmp_path / "out", sample=10)
    assert said["samples"] == 10
    assert said["kept"] + sum(said["dropped"].values()) == 10  # type: ignore[operator,attr-defined]
    assert not (tmp_path / "out/verdicts.parquet").exists()


def test_the_verdicts_know_the_rules_and_the_files(shards: Path, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("x\n")
    rule = Rule("a", {"name": "words", "keep": str(names)})
    run(shards, tmp_path / "out", [rule])
    said = provenance_of(tmp_path / "out/verdicts.parquet")
    assert said["rules"] == [rule.spec]
    assert len(said["files"][str(names)]) == 64
    assert said["fingerprint"] == open_shards(configuration([], [], [str(shards)])).fingerprint


def test_a_step_overwrites_no_other(shards: Path, tmp_path: Path):
    run(shards, tmp_path / "out")
    with pytest.raises(DataError, match=r"--out .*: holds the report of an earlier step"):
        run(shards, tmp_path / "out")


def test_wrong_rules_are_refused_before_the_shards_are_looked_for(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean resolution"):
        run(tmp_path / "absent", tmp_path / "out", [Rule("a", {"name": "resolutions", "min_side": 3})])
    with pytest.raises(ConfigError, match="'de_DE' is no ISO code"):
        run(write(tmp_path / "s", [Made("a")]), tmp_path / "out", [Rule("a", {"name": "language", "keep": ["de_DE"]})])

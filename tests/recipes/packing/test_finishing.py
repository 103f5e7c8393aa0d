"""Rejected rows of many files become one list in the order of the source."""

import json
from pathlib import Path

import numpy as np

from contrastive.recipes.packing import finishing
from contrastive.recipes.packing.finishing import EXAMPLES, write_provenance, write_rejections
from contrastive.recipes.packing.grouping import write_rejection
from contrastive.recipes.packing.listing import write_listing
from contrastive.recipes.packing.plan import Packing
from contrastive.recipes.records import Record, Rejected


def test_rejections_are_merged_by_row_and_counted_by_reason(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(finishing, "OPEN_FILES", 2)
    rows = [Record(str(n), b"", ("x",), "") if n % 4 else Rejected(f"row {n}", "", "listed", "é") for n in range(100)]
    listing = write_listing(rows, tmp_path / "listing", Packing())
    order = np.random.default_rng(0).permutation([n for n in range(100) if n % 4])
    files = [tmp_path / f"{n}.rejected" for n in range(5)]
    for number, path in enumerate(files):
        with path.open("wb") as file:
            for row in order[number::5].tolist():
                write_rejection(file, row, Rejected(f"row {row}", "k", f"reason {number}", "why"), rows=1 + (row == 1))
    found = write_rejections(tmp_path / "rejected.jsonl", listing, files)
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [line["where"] for line in lines] == [f"row {n}" for n in range(100)]
    assert found.total == 101
    assert found.counts["listed"] == 25
    assert all(len(examples) == EXAMPLES for examples in found.examples.values())
    assert [one.where for one in found.first[:3]] == ["row 0", "row 1", "row 2"]


def test_provenance_is_json_whatever_the_names_hold(tmp_path: Path):
    said = write_provenance(tmp_path, {"source": Path("a"), "odd": "\udce9"}, {"samples": 1})
    assert json.loads((tmp_path / "pack.json").read_text()) == said
    assert said["identity"] == {"source": "a", "odd": "\udce9"}
    assert set(said["versions"]) == {"contrastive", "pillow"}

"""What people are told of a packing."""

from pathlib import Path

from contrastive.recipes.packing.pack import Packed, Shown
from contrastive.recipes.records import Rejected
from contrastive.runs.packing_report import _notes, figures
from tests.recipes.packing.sources import mixed, packed, write_images


def of(**more: object) -> Packed:
    values = {"samples": 8, "bytes": 100, "rows": 10, "merged": 0, "splits": {}, "rejected": {}, "kinds": {"jpg": 8}}
    return Packed(Path("out"), **{**values, "fingerprint": "f", "has_several_captions": False, **more})  # type: ignore[arg-type]


def test_nothing_is_said_where_nothing_is_odd():
    assert not list(_notes(of()))


def test_the_first_row_of_each_reason_is_named():
    shown = [Shown(Rejected(f"row {n}", "k", reason, f"row {n}: why"), "", None) for n, reason in enumerate("aab")]
    assert list(_notes(of(examples=shown, rejected={"a": 2, "b": 1}))) == [
        "a, e.g. row 0: why",
        "b, e.g. row 2: why",
        "every row that was rejected: out/rejected.jsonl",
    ]


def test_a_source_that_changed_is_told():
    (said,) = _notes(of(has_changed=True))
    assert said.startswith("The source changed while it was packed")


def test_figures_are_json_and_sum_up(tmp_path: Path):
    found = figures(packed(mixed(write_images(tmp_path / "in", 8), 8), tmp_path / "out", splits={"val": 0.5}))
    assert found["rows"] == found["samples"] + found["merged"] + sum(found["rejected"].values())
    assert sum(split["samples"] for split in found["splits"].values()) == found["samples"]

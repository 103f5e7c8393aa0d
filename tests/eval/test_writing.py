"""The files of an evaluation: that they hold all numbers to the last digit, and that other programs read them."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from contrastive.errors import DataError, RunError
from contrastive.eval.result import EvalResult
from contrastive.eval.writing import SCHEMA, document, read_results, write_json, write_results

ABOUT = {"name": "ViT-B-32", "pretrained": "laion2b", "step": 30, "baseline": "old", "environment": {"torch": "2.11"}}
THIRD = 1 / 3


def result(dataset: str = "digits", task: str = "zeroshot", **changes: Any) -> EvalResult:
    contents: dict[str, Any] = {
        "n": 1797,
        "metrics": {"top1": THIRD, "ece": 0.125},
        "chance": {"top1": 0.1},
        "intervals": {"top1": (0.25, 0.5)},
        "timing": {"embed_seconds": 1.5},
    }
    return EvalResult(dataset, task, **contents | changes)


def written(folder: Path, *results: EvalResult, **about: object) -> dict[str, Any]:
    write_results(folder, results, ABOUT | about)
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def test_results_hold_every_number_with_its_interval_and_chance(tmp_path: Path) -> None:
    content = written(tmp_path, result())
    assert list(content) == [
        "schema",
        "created",
        "environment",
        "model",
        *("baseline", "languages", "results", "checkpoints"),
    ]
    assert (content["schema"], content["baseline"], content["environment"]) == (SCHEMA, "old", {"torch": "2.11"})
    assert content["model"] == {"name": "ViT-B-32", "pretrained": "laion2b", "step": 30}
    (row,) = content["results"]
    assert row["metrics"] == {
        "top1": {"value": THIRD, "ci95": [0.25, 0.5], "chance": 0.1},
        "ece": {"value": 0.125, "ci95": None, "chance": None},
    }
    assert (row["dataset"], row["task"], row["n"], row["error"]) == ("digits", "zeroshot", 1797, None)


def test_languages_other_than_english_are_said(tmp_path: Path) -> None:
    said = written(tmp_path, result(), languages={"digits": "en", "xtd10_de": "de"})["languages"]
    assert said == {"xtd10_de": "de"}


def test_what_a_comparison_found_is_kept(tmp_path: Path) -> None:
    found = {"top1": {"delta": 0.01, "ci95": [0.0, 0.02], "p": 0.05, "baseline": 0.3}}
    assert written(tmp_path, result(comparison=found))["results"][0]["comparison"] == found


def test_what_is_not_finite_is_null_with_a_reason(tmp_path: Path) -> None:
    odd = result(metrics={"a": math.nan, "b": math.inf}, chance={"a": math.nan}, intervals={"a": (math.nan, 1.0)},
                 details={"x": [math.nan, {"y": -math.inf}]})  # fmt: skip
    (row,) = written(tmp_path, odd)["results"]
    assert row["metrics"] == {
        "a": {"value": None, "ci95": None, "chance": None, "reason": "not a number"},
        "b": {"value": None, "ci95": None, "chance": None, "reason": "infinite"},
    }
    assert row["details"] == {"x": [None, {"y": None}]}
    assert "NaN" not in (tmp_path / "results.json").read_text()


def test_details_of_arrays_are_plain_values(tmp_path: Path) -> None:
    details = {
        "a": np.arange(3),
        "b": torch.ones(2, 2),
        "c": np.float32(0.5),
        "d": (1, True, None),
        5: Path("x"),
        "e": {1},
    }
    (row,) = written(tmp_path, result(details=details))["results"]
    assert row["details"] == {"a": [0, 1, 2], "b": [[1.0, 1.0]] * 2, "c": 0.5, "d": [1, True, None], "5": "x", "e": [1]}


def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    odd = result(unreadable=(name,), rows={"predictions": {"image": [name], "top": [[name]]}})
    assert written(tmp_path, odd)["results"][0]["unreadable"] == ["caf\\udce9.jpg"]


def test_checkpoints_are_written_without_their_details(tmp_path: Path) -> None:
    checkpoints = [{"name": "a", "step": 10, "results": [result(details={"gallery": [1]})]}]
    (found,) = document([result()], ABOUT, checkpoints)["checkpoints"]
    assert (found["name"], found["step"], found["results"][0]["metrics"]["top1"]["value"]) == ("a", 10, THIRD)
    assert "details" not in found["results"][0]


def test_a_file_alone_holds_the_same(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "evaluation.json", [result()], ABOUT)
    (row,) = read_results(tmp_path / "new" / "evaluation.json")
    assert row == document([result()], ABOUT)["results"][0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    content = written(tmp_path, result(), result("faces"))
    assert read_results(tmp_path / "results.json") == content["results"]


def test_the_list_that_earlier_versions_wrote_is_read_in_the_new_form(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps([result().as_dict()]))
    (row,) = read_results(tmp_path / "evaluation.json")
    assert row["metrics"]["top1"] == {"value": THIRD, "ci95": [0.25, 0.5], "chance": 0.1}
    assert "chance" not in row


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ('{"schema": "contrastive-eval/9", "results": []}', r"schema 'contrastive-eval/9' is not 'contrastive-eval/1'"),
        ('{"results": []}', "schema None"),
        ("7", "holds no list of results"),
        ('[{"dataset": "a", "task": "b"}]', "holds no list of results"),
    ],
)
def test_a_file_that_holds_no_results_is_one_clear_error(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"results\.json: .*{message}"):
        read_results(path)


def build(folder: Path) -> list[dict[str, Any]]:
    """What `clip_benchmark build FOLDER` makes of the files: a row each (its cli.py, main_build)."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        row = {**data.pop("metrics"), **data}
        rows.append(row | {"model_fullname": row["model"] + " " + row["pretrained"]})
    return rows


def test_clip_benchmark_builds_a_table_of_what_both_have(tmp_path: Path) -> None:
    recalls = {"image_to_text_recall@5": 0.5, "text_to_image_recall@5": 0.25}
    results = [result(metrics={"top1": THIRD}), result("faces", "retrieval", metrics=recalls, chance={}, intervals={}),
               result("faces", "geometry")]  # fmt: skip
    write_results(tmp_path, results, ABOUT | {"languages": {"faces": "it"}})
    assert build(tmp_path / "clip_benchmark") == [
        {"acc1": THIRD, "dataset": "digits", "model": "ViT-B-32", "pretrained": "laion2b",
         "task": "zeroshot_classification", "language": "en", "model_fullname": "ViT-B-32 laion2b"},
        {"text_retrieval_recall@5": 0.5, "image_retrieval_recall@5": 0.25, "dataset": "faces", "model": "ViT-B-32",
         "pretrained": "laion2b", "task": "zeroshot_retrieval", "language": "it", "model_fullname": "ViT-B-32 laion2b"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["local-dir:/a/../b", "hf-hub:org/name", "../../etc", ".", "", "猫" * 300, "a\0b", None]
)
def test_a_model_of_any_name_has_its_files_in_the_folder(tmp_path: Path, name: str | None) -> None:
    write_results(tmp_path / "out", [result()], {"name": name})
    (row,) = build(tmp_path / "out" / "clip_benchmark")
    assert row["model"] == (name or "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.json", "metrics.csv", "clip_benchmark"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_datasets_of_alike_names_have_files_of_their_own(tmp_path: Path) -> None:
    rows = {"predictions": {"id": [1]}}
    content = written(tmp_path, *(result(name, rows=rows) for name in ("a/b", "a-b", "A:B")))
    assert len(build(tmp_path / "clip_benchmark")) == 3
    assert len({row["files"]["predictions"].casefold() for row in content["results"]}) == 3


def test_tables_are_parquet_beside_the_results(tmp_path: Path) -> None:
    columns = {"id": np.arange(3), "name": ["a", "b", "猫"], "top": torch.ones(3, 2), "answers": [[1], [2, 3], []],
               "none": [None, 0.5, None]}  # fmt: skip
    content = written(
        tmp_path, result(rows={"predictions": columns}), result(task="knn", rows={"predictions": {"id": [7]}})
    )
    first, second = (row["files"]["predictions"] for row in content["results"])
    assert (first, second) == ("predictions/digits.predictions.parquet", "predictions/digits.predictions.knn.parquet")
    assert pyarrow.parquet.read_table(tmp_path / first).to_pydict() == {
        "id": [0, 1, 2], "name": ["a", "b", "猫"], "top": [[1.0, 1.0]] * 3, "answers": [[1], [2, 3], []],
        "none": [None, 0.5, None],
    }  # fmt: skip
    assert pyarrow.parquet.read_table(tmp_path / second).to_pydict() == {"id": [7]}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_row_a_metric_in_full_precision(tmp_path: Path) -> None:
    write_results(tmp_path, [result("a,b", metrics={"top1": THIRD, "x": math.nan})], ABOUT)
    first, second = rows_of(tmp_path / "metrics.csv")
    assert first == {"model": "ViT-B-32", "step": "30", "dataset": "a,b", "task": "zeroshot", "metric": "top1",
                     "value": repr(THIRD), "low": "0.25", "high": "0.5", "chance": "0.1", "n": "1797"}  # fmt: skip
    assert (second["metric"], second["value"], second["low"]) == ("x", "", "")


def test_the_csv_of_a_run_has_all_its_checkpoints(tmp_path: Path) -> None:
    checkpoints = [
        {"name": f"step {step}", "step": step, "results": [result(metrics={"top1": step / 10})]} for step in (1, 2)
    ]
    write_results(tmp_path, [result()], ABOUT, checkpoints)
    found = [(row["model"], row["step"], row["value"]) for row in rows_of(tmp_path / "metrics.csv")]
    assert found == [("step 1", "1", "0.1"), ("step 2", "2", "0.2")]


def test_a_dataset_that_failed_has_its_error_and_no_files_of_another(tmp_path: Path) -> None:
    (row,) = written(tmp_path, result(metrics={}, chance={}, intervals={}, error="there is no data"))["results"]
    assert (row["error"], row["metrics"], row["files"]) == ("there is no data", {}, {})
    assert build(tmp_path / "clip_benchmark") == []


def test_a_second_evaluation_takes_the_place_of_the_first(tmp_path: Path) -> None:
    written(tmp_path, result())
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert written(tmp_path, result(metrics={"top1": 1.0}))["results"][0]["metrics"]["top1"]["value"] == 1.0
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file: results cannot be written \(File exists\); give a folder"):
        write_results(tmp_path / "file", [result()], ABOUT)
    with pytest.raises(RunError, match=r"x\.json: results cannot be written \(.*\); give a file"):
        write_json(tmp_path / "file" / "x.json", [result()], ABOUT)

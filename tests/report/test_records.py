"""Reading a run directory: which rows count, and that what is missing or damaged is named and never fatal."""

import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.report.records import read_evaluation, read_run
from tests.report.toys import eval_row, result, train_row, write_evaluation, write_lines, written_result

FILES = ("metrics.jsonl", "evaluation.json", "config.yaml", "environment.json")


def test_a_complete_run_is_read_without_a_problem(run: Path) -> None:
    found = read_run(run)
    assert found.problems == []
    assert found.train == [train_row(step) for step in range(1, 50)]
    assert found.evals == [eval_row(20), eval_row(40)]
    assert [row["metrics"] for row in found.results] == [{"top1": 0.75}]
    assert found.config == "data:\n  batch_size: 64\n"
    assert found.environment == {"world_size": 2, "parameters": 1234567}


def test_a_run_is_called_by_the_name_of_its_directory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    assert read_run(Path()).name == run.name


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_the_one_problem_that_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    (problem,) = read_run(run).problems
    assert problem.startswith(f"{name} is missing: without it the page lacks ")


def test_a_directory_with_nothing_in_it_is_an_empty_run(tmp_path: Path) -> None:
    found = read_run(tmp_path)
    assert (found.train, found.evals, found.results, found.config, found.environment) == ([], [], [], None, {})
    assert len(found.problems) == len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_opened_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).mkdir()
    (problem,) = read_run(run).problems
    assert problem.startswith(f"{name} cannot be read (")


@pytest.mark.parametrize("name", ["evaluation.json", "environment.json"])
def test_damaged_json_is_named_and_the_rest_is_read(run: Path, name: str) -> None:
    (run / name).write_text('{"half": ')
    found = read_run(run)
    assert [problem.split(" (")[0] for problem in found.problems] == [f"{name} cannot be read"]
    assert len(found.train) == 49


def test_bytes_that_are_no_text_do_not_hide_the_configuration(run: Path) -> None:
    (run / "config.yaml").write_bytes(b"name: caf\xe9\n")
    assert read_run(run).config == "name: caf\ufffd\n"


def test_a_torn_last_line_is_left_out_and_named(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1), train_row(2)], tail='{"kind": "train", "st')
    found = read_run(tmp_path)
    assert [row["step"] for row in found.train] == [1, 2]
    assert "metrics.jsonl: 1 damaged line left out." in found.problems


@pytest.mark.parametrize("line", ["[1, 2]", "7", "null", '{"kind": "train"}', '{"kind": "train", "step": "3"}'])
def test_lines_without_a_step_are_damaged_lines(tmp_path: Path, line: str) -> None:
    write_lines(tmp_path, [train_row(1)], tail=f"{line}\n{line}\n")
    found = read_run(tmp_path)
    assert found.train == [train_row(1)]
    assert "metrics.jsonl: 2 damaged lines left out." in found.problems


def test_empty_lines_are_no_damage(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1)], tail="\n  \n")
    assert not [problem for problem in read_run(tmp_path).problems if "damaged" in problem]


def test_rows_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(step) for step in (10, 9, 100, 1)])
    assert [row["step"] for row in read_run(tmp_path).train] == [1, 9, 10, 100]


def test_steps_written_again_after_a_resume_are_counted_once(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1), train_row(2, loss=9.0), train_row(2, loss=1.0), train_row(3)])
    assert [(row["step"], row["loss"]) for row in read_run(tmp_path).train] == [(1, 4.0), (2, 1.0), (3, 4.0 / 3)]


def test_an_evaluation_written_again_replaces_its_own_dataset_and_task_alone(tmp_path: Path) -> None:
    first = [eval_row(1), eval_row(1, dataset="faces"), eval_row(1, task="retrieval"), eval_row(2)]
    again = eval_row(1, metrics={"top1": 0.9})
    write_lines(tmp_path, [*first, again])
    assert read_run(tmp_path).evals == [again, *first[1:]]


@pytest.mark.parametrize("metrics", [None, 0.5, [0.5]])
def test_an_evaluation_row_without_metrics_is_left_out(tmp_path: Path, metrics: object) -> None:
    write_lines(tmp_path, [eval_row(1, metrics=metrics), eval_row(2)])
    assert read_run(tmp_path).evals == [eval_row(2)]


@pytest.mark.parametrize("kind", ["profile", "resume", "skip", "spike"])
def test_rows_of_another_kind_are_neither_training_nor_damage(tmp_path: Path, kind: str) -> None:
    row = {"kind": kind, "step": 2, "keys": ["a"], "from": None, "changed": {"optim": 1}}
    write_lines(tmp_path, [train_row(1), train_row(2, kind=kind), eval_row(1), row])
    found = read_run(tmp_path)
    assert (found.train, found.evals) == ([train_row(1)], [eval_row(1)])
    assert not [problem for problem in found.problems if "damaged" in problem]


def test_a_run_that_was_never_evaluated_says_why_there_are_no_curves(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1)])
    assert "metrics.jsonl has no evaluation rows: there are no evaluation curves." in read_run(tmp_path).problems


@pytest.mark.parametrize("content", [[result()], {"results": [result()]}, result()])
def test_a_final_evaluation_may_be_a_list_an_object_with_results_or_one_result(run: Path, content: object) -> None:
    (run / "evaluation.json").write_text(json.dumps(content))
    assert read_run(run).results == [result()]


@pytest.mark.parametrize("content", ["text", 7, [7, None, {"dataset": "digits"}, {"metrics": [0.5]}], {"results": 3}])
def test_what_is_no_result_is_left_out(run: Path, content: object) -> None:
    (run / "evaluation.json").write_text(json.dumps(content))
    assert read_run(run).results == []


def test_an_environment_that_is_no_object_is_empty(run: Path) -> None:
    (run / "environment.json").write_text("[1, 2]")
    assert read_run(run).environment == {}


@pytest.mark.parametrize("content", ['"text"', "[1]", '[{"dataset": "a"}]', '[{"metrics": {}, "details": [1]}]'])
def test_what_is_not_a_result_is_named_and_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    run = read_run(tmp_path)
    assert run.results == []
    assert any(problem.startswith("evaluation.json: what is not a result") for problem in run.problems)


def test_a_run_reads_the_schema_of_results_too(run: Path) -> None:
    (run / "evaluation.json").write_text(json.dumps({"schema": "contrastive-eval/1", "results": [written_result({})]}))
    (row,) = read_run(run).results
    assert row["metrics"] == {"top1": 0.75, "ece": 0.04, "median_rank": 3.0}
    assert row["chance"] == {"top1": 0.1, "median_rank": 50.5}
    assert row["intervals"] == {"top1": [0.7, 0.8], "median_rank": [2.0, 5.0]}


def test_an_evaluation_is_read_with_its_model_and_how_it_was_made(tmp_path: Path) -> None:
    found = read_evaluation(write_evaluation(tmp_path, written_result({}), baseline="old"))
    assert (found.name, found.baseline, found.created) == ("ViT-B-32", "old", "2026-11-21T10:00:00+0000")
    assert (found.environment["precision"], len(found.results), found.problems) == ("fp32", 1, [])


def test_a_metric_without_a_value_has_a_reason(tmp_path: Path) -> None:
    metrics = {"top1": {"value": None, "reason": "not a number"}, "top5": {"value": 1.0}}
    (row,) = read_evaluation(write_evaluation(tmp_path, written_result({}, metrics=metrics))).results
    assert (row["metrics"], row["reasons"]) == ({"top5": 1.0}, {"top1": "not a number"})


def test_a_result_without_metrics_is_kept_for_what_else_it_says(tmp_path: Path) -> None:
    rows = read_evaluation(write_evaluation(tmp_path, written_result({}, metrics=None, error="no data"))).results
    assert [(row["metrics"], row["error"]) for row in rows] == [({}, "no data")]


def checkpoint(step: object, *results: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"step {step}", "step": step, "results": list(results)}


def test_the_checkpoints_are_a_course_in_the_order_of_their_steps(tmp_path: Path) -> None:
    checkpoints = [checkpoint(step, written_result({})) for step in (10, 5, 30)]
    found = read_evaluation(write_evaluation(tmp_path, written_result({}), checkpoints=checkpoints))
    assert [(row["step"], row["metrics"]["top1"]) for row in found.course] == [(5, 0.75), (10, 0.75), (30, 0.75)]


def test_one_step_is_no_course(tmp_path: Path) -> None:
    checkpoints = [checkpoint(5, written_result({}), written_result({}, task="knn")), checkpoint(9, written_result({}))]
    found = read_evaluation(write_evaluation(tmp_path, checkpoints=checkpoints))
    assert [(row["step"], row["task"]) for row in found.course] == [(5, "zeroshot"), (9, "zeroshot")]


@pytest.mark.parametrize("checkpoints", [None, 3, "text", [7], [checkpoint(None, written_result({}))], {"step": "5"}])
def test_checkpoints_that_are_none_are_left_out(tmp_path: Path, checkpoints: object) -> None:
    found = read_evaluation(write_evaluation(tmp_path, written_result({}), checkpoints=checkpoints))
    assert (found.course, len(found.results)) == ([], 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "is missing"), ("{", "cannot be read"), ("[" * 9999, "cannot be read"), ("7", "what is not a result")],
)
def test_results_that_are_missing_or_damaged_are_named(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    found = read_evaluation(tmp_path)
    assert found.results == []
    assert problem in found.problems[0]

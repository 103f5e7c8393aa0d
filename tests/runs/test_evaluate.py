import json
from pathlib import Path

import pytest

from contrastive import cli
from contrastive.errors import UserError
from contrastive.runs.evaluate import Request, evaluate
from contrastive.runs.limits import LimitError
from contrastive.runs.pretrain import prepare, pretrain
from tests import toys
from tests.eval.toys import write_classes, write_folder, write_tar

OPTIONS = {"batch_size": 4, "device": "cpu", "resamples": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    given = toys.overrides(toys.write_shards(folder / "shards", 24), folder / "run", "train.save_every_steps=2")
    prepared = prepare([], [*given, "train.keep_checkpoints=9"])
    assert prepared is not None
    return pretrain(prepared)


def test_a_checkpoint_and_its_run_give_the_same_numbers(run: Path, classes: Path, tmp_path: Path):
    output = tmp_path / "out.json"
    of_run = evaluate(Request(str(run), [str(classes)], output=str(output), **OPTIONS))
    of_checkpoint = evaluate(Request(str(run / "checkpoints" / "step-00000006"), [str(classes)], **OPTIONS))
    assert [result.metrics for result in of_run] == [result.metrics for result in of_checkpoint]
    written = json.loads(output.read_text())["results"]
    assert [one["task"] for one in written] == ["zeroshot", "calibration"]
    assert written[0]["metrics"]["top1"]["value"] == of_run[0].metrics["top1"]
    assert written[0]["n"] == 6


def test_a_run_without_datasets_says_what_to_add(run: Path):
    with pytest.raises(UserError, match=r"no dataset is named; add --data configs/eval/NAME\.yaml"):
        evaluate(Request(str(run), **OPTIONS))


def test_a_folder_is_a_dataset_and_a_suite_is_a_list(run: Path, classes: Path, tmp_path: Path):
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"name: all\ndatasets: [{classes}]\n")
    of_suite = evaluate(Request(str(run), suites=[str(suite)], **OPTIONS))
    assert [result.dataset for result in of_suite] == ["toy", "toy"]


def test_all_checkpoints_are_evaluated_and_the_newest_one_is_the_result(run: Path, classes: Path, tmp_path: Path):
    output = tmp_path / "results"
    results = evaluate(Request(str(run), [str(classes)], all_checkpoints=True, output=str(output), **OPTIONS))
    written = json.loads((output / "results.json").read_text())
    assert [one["step"] for one in written["checkpoints"]] == [2, 4, 6]
    last = written["checkpoints"][-1]["results"][0]["metrics"]["top1"]["value"]
    assert last == results[0].metrics["top1"]
    assert "<svg" in (output / "report.html").read_text()


def test_a_model_compared_with_itself_is_no_worse(run: Path, classes: Path):
    (result, _) = evaluate(Request(str(run), [str(classes)], baseline=str(run), fail_if_worse=True, **OPTIONS))
    assert result.comparison["top1"]["delta"] == 0
    assert result.comparison["top1"]["p"] == 1


def test_a_result_under_its_limit_is_written_and_ends_with_status_3(run: Path, classes: Path, tmp_path: Path):
    output = tmp_path / "out.json"
    with pytest.raises(LimitError, match=r"toy/zeroshot/top1 is 0\.\d+, under 2"):
        evaluate(Request(str(run), [str(classes)], fail_under=["top1=2"], output=str(output), **OPTIONS))
    assert output.is_file()
    arguments = ["--model", str(run), "--data", str(classes), "--no-cache", "--resamples", "0"]
    assert cli.evaluate([*arguments, "--fail-under", "toy/top1=2"]) == 3
    assert cli.evaluate([*arguments, "--fail-under", "toy/top1=0"]) == 0


def test_the_plan_alone_evaluates_nothing(run: Path, classes: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluate(Request(str(run), [str(classes)], dry_run=True, **OPTIONS)) == []
    assert "What will be evaluated" in capsys.readouterr().out


def test_one_dataset_that_fails_costs_the_others_nothing(run: Path, classes: Path, tmp_path: Path):
    root = write_classes(write_folder(tmp_path / "damaged", [{"cls": "0"}, {"cls": "1"}]), ["cat", "dog"])
    write_tar(root / "test" / "0.tar", {"s0.png": b"no picture", "s0.cls": b"0"})
    damaged = tmp_path / "damaged.yaml"
    damaged.write_text(f"name: damaged\nroot: {root}\n")
    output = tmp_path / "out.json"
    with pytest.raises(UserError, match="dataset damaged"):
        evaluate(Request(str(run), [str(damaged), str(classes)], output=str(output), **OPTIONS))
    found = {(one["dataset"], one["task"]): one for one in json.loads(output.read_text())["results"]}
    assert "top1" in found["toy", "zeroshot"]["metrics"]
    assert "cannot be read" in found["damaged", "zeroshot"]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size: 0 must be a number of at least 1"),
        (["--fail-if-worse"], "--fail-if-worse: needs --compare MODEL"),
        (["--fail-under", "top1"], "--fail-under: 'top1' must be METRIC=VALUE"),
        (["--suite", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert cli.evaluate(["--model", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err

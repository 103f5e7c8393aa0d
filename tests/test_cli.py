import json
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive import cli
from contrastive.config import describe
from contrastive.registry import TABLES
from tests.toys import overrides, records

ROOT = Path(__file__).parents[1]


def stderr_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert cli.pretrain(arguments) == 2
    return capsys.readouterr().err


def test_a_run_explains_itself_and_is_evaluated_from_its_directory(shards: Path, tmp_path: Path, classes: Path):
    run = tmp_path / "run"
    base = tmp_path / "base.yaml"
    base.write_text("train: {seed: 3}\n")
    assert cli.pretrain([str(base), *overrides(shards, run, f"eval.datasets=[{classes}]", "eval.every_steps=4")]) == 0
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "evaluation.json",
        "report.html",
    }
    assert [(row["step"], row["task"]) for row in records(run, "eval")] == [
        *((4, "zeroshot"), (4, "calibration")),
        *((6, "zeroshot"), (6, "calibration")),
    ]
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000006"]

    output = tmp_path / "out" / "results.json"
    assert cli.evaluate(["--model", str(run), "--output", str(output)]) == 0
    for result, row in zip(json.loads(output.read_text())["results"], records(run, "eval")[2:], strict=True):
        values = {name: metric["value"] for name, metric in result["metrics"].items()}
        assert values == pytest.approx(row["metrics"], abs=1e-6)


def test_a_finished_run_is_not_done_again(shards: Path, tmp_path: Path):
    arguments = overrides(shards, tmp_path / "run")
    assert cli.pretrain(arguments and [_empty(tmp_path), *arguments]) == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert cli.pretrain([_empty(tmp_path), *arguments]) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_another_run_in_the_directory_is_refused(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [_empty(tmp_path), *overrides(shards, tmp_path / "run")]
    assert cli.pretrain(arguments) == 0
    said = stderr_of(capsys, [*arguments, "train.seed=5"])
    assert said.splitlines()[-1].startswith(
        f"error: run.directory: {tmp_path / 'run'} holds a run with other settings: train.seed 0 -> 5; take another"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learnin_rate=1", "optim.learnin_rate: unknown key; did you mean optim.learning_rate?"),
        ("optim.learning_rate=high", "optim.learning_rate: Value 'high'"),
        ("losses={a: {name: infonse}}", "losses.a.name: 'infonse' is not one of distillation, infonce, sigmoid"),
        ("data.train=/nowhere/{00..03}.tar", "data.train: /nowhere/00.tar does not exist (4 of 4 shards are missing)"),
        ("data.train={000..003}", "must be a text or a list of texts; quote a value"),
        ("data.caption_key=caption", "data.caption_key: no sample has a member caption"),
        (
            "data.caption_key=json.caption",
            "data.caption_key asks for json.caption, and its json member is no JSON with a field",
        ),
        ("eval.datasets=[nowhere.yaml]", "nowhere.yaml: no such file"),
        ("data.random_crop=[0.5]", "data.random_crop: [0.5] must be two shares of the area"),
        ("data.random_crop=[0.9,0.5]", "data.random_crop: [0.9, 0.5] must be two shares of the area"),
        ("model.model_cfg.text_cfg.vocab_size=100", "text_cfg.vocab_size: 100 is less than the 49408 tokens"),
        ("train.world_size=2", "train.world_size: 2 processes asked for, 1 started"),
        ("data.global_batch_size=41", "data.global_batch_size: 41 is more than the 40 samples"),
        ("--seed", "--seed: there are no flags; settings are key=value"),
        ("model.model_cfg.vision_cfg.widht=3", "model.model_cfg: open_clip refused it"),
    ],
)
def test_a_mistake_is_one_line_before_any_training(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
):
    said = stderr_of(capsys, [_empty(tmp_path), *overrides(shards, tmp_path / "run"), override])
    (line,) = said.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_exist_is_one_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = [o for o in overrides(shards, tmp_path / "run") if not o.startswith("model.")]
    said = stderr_of(capsys, [_empty(tmp_path), *settings, "model.name=ViT-B-33"])
    assert said == "error: model.name: open_clip has no model 'ViT-B-33'; did you mean ViT-B-32?\n"


def test_evaluation_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.evaluate(["--model", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: does not exist; give a run directory" in capsys.readouterr().err


def test_help_names_every_key_default_and_part(capsys: pytest.CaptureFixture[str]):
    assert cli.pretrain(["--help"]) == 0
    said = capsys.readouterr().out
    for key, _, _ in describe():
        assert f"  {key} = " in said
    unwrapped = " ".join(said.split())
    for table in TABLES.values():
        assert ", ".join(sorted(table)) in unwrapped


def test_the_scripts_hold_no_logic_and_pass_the_exit_status():
    for script, argument in (("pretrain.py", "a=b"), ("eval_zeroshot.py", "--nonsense")):
        done = subprocess.run([sys.executable, script, argument], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def _empty(folder: Path) -> str:
    path = folder / "empty.yaml"
    path.write_text("{}\n")
    return str(path)

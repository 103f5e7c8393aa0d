"""`contrastive export`, whole: from a checkpoint to a folder that explains itself, or to one line and nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from contrastive.cli import exports as command
from contrastive.cli import main
from contrastive.errors import ConfigError, ModelError
from contrastive.export.source import open_source
from contrastive.files import sha256
from contrastive.models.build import build
from contrastive.models.checkpoint import load, save, write_tensors
from contrastive.runs import export as module
from contrastive.settings import ModelConfig
from tests.export.toys import MODELS
from tests.parity.toy_model import FOLDER as TRAINED


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ours with one checkpoint, its moving average, and an evaluation."""
    torch.manual_seed(0)
    built = build(ModelConfig(**MODELS["vit"]))
    folder = save(tmp_path / "run" / "checkpoints" / "step-00000007", built, {"step": 7, "samples_seen": 70})
    write_tensors(folder / "ema.safetensors", {k: v * 2 for k, v in built.model.state_dict().items()})
    metrics = {"top1": {"value": 0.5, "ci95": [0.4, 0.6], "chance": 0.1}}
    row = {"dataset": "toy", "task": "zeroshot", "n": 10, "metrics": metrics, "error": None}
    about = {"schema": "contrastive-eval/1", "created": "2026-01-02T03:04:05", "results": [row]}
    (tmp_path / "run" / "results.json").write_text(json.dumps({**about, "model": {"step": 7, "weights": "trained"}}))
    return tmp_path / "run"


def exported(*words: object) -> None:
    command.run([str(word) for word in words])


def test_a_run_becomes_a_folder_that_says_what_it_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    exported(run, "--to", "open_clip", out, "--license", "apache-2.0")
    record = json.loads((out / "export.json").read_text())
    assert (record["schema"], record["format"], record["source"]["step"]) == ("contrastive-export/1", "open_clip", 7)
    assert record["source"]["identity"] == load(run).identity
    assert record["parity"]["towers"]["image"]["max_distance"] <= 1e-6
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(record["files"]) == names - {"export.json"}
    assert all(sha256(out / name) == one["sha256"] for name, one in record["files"].items())
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"
    assert "| toy |" in card.text
    assert str(tmp_path) not in (out / "README.md").read_text() + (out / "export.json").read_text()
    assert "open_clip" in capsys.readouterr().out


def test_the_moving_average_is_exported_on_request_and_no_figures_of_others_stand_on_its_card(
    run: Path, tmp_path: Path
):
    exported(run, "--to", "safetensors", tmp_path / "ema", "--weights", "ema")
    ours = load(run, weights="ema").model.state_dict()
    theirs = load(tmp_path / "ema").model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "| toy |" not in (tmp_path / "ema" / "README.md").read_text()


def test_several_formats_lie_side_by_side_and_one_that_differs_costs_the_others_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real: Callable[..., Any] = module.verify

    def falsify(claim: Any) -> Any:
        if claim.exporter.reader == "safetensors":
            raise ModelError("the image tower differs")
        return real(claim)

    monkeypatch.setattr(module, "verify", falsify)
    with pytest.raises(ModelError, match=r"^--to safetensors: the image tower differs; nothing was written$"):
        exported(run, "--to", "safetensors,open_clip", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["open_clip"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "keras"], r"--to keras: is no format; there are onnx, .*, and all"),
        (["--to", "open_clip,timm", "opset=18"], "opset: options are of one format"),
        (["--to", "open_clip", "opset=18"], "--to open_clip.opset: open_clip has no such option"),
        (["--to", "open_clip", "loud"], "loud: options of a format are KEY=VALUE"),
        (["--to", "open_clip,timm", "--push", "a/b"], "--push: one format goes into a repository"),
        (["--to", "open_clip", "--data", "none.yaml"], "none.yaml"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(words: list[str], said: str, run: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        exported(run, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_left_alone(run: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        exported(run, "--to", "open_clip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_format_that_cannot_hold_the_model_says_why_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    built = build(ModelConfig(**MODELS["own_towers"]))
    save(tmp_path / "run" / "checkpoints" / "step-1", built, {"step": 1})
    assert main(["export", str(tmp_path / "run"), "--to", "open_clip", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: --to open_clip: model.image.name 'cnn': open_clip has no model_cfg for it")
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_refused_by_name(run: Path, tmp_path: Path):
    weights = run / "checkpoints" / "step-00000007" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"step-00000007: cannot be loaded"):
        exported(run, "--to", "open_clip", tmp_path / "out")


def test_missing_libraries_are_named_with_the_line_of_pip(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.folder, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--to onnx: needs .*onnxruntime.*; pip install .*onnxruntime"):
        exported(run, "--to", "onnx", tmp_path / "out")


@pytest.mark.slow
def test_every_format_that_holds_a_trained_model_is_written_and_the_others_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    exported(f"local-dir:{TRAINED}", "--to", "all", tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        *("onnx", "onnx_int8", "open_clip", "safetensors", "sentence_transformers"),
        *("timm", "torch_export", "torchao_int8", "transformers"),
    }
    assert open_source(str(tmp_path / "out" / "transformers")).built.model.embed_dim == 32
    card = (tmp_path / "out" / "onnx_int8" / "README.md").read_text()
    assert all(f"| {what} |" in card for what in ("weights, MB", "image x 1, eager PyTorch before, ms"))

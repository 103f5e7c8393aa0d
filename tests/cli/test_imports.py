"""`contrastive import` and `contrastive import-flags` as a user types them."""

from pathlib import Path

import pytest

from contrastive.cli.imports import run, run_flags
from contrastive.config import load
from contrastive.errors import ConfigError, ModelError
from contrastive.models.build import build
from contrastive.models.checkpoint import save
from contrastive.runs import imports
from contrastive.settings import ModelConfig
from tests.models.test_build import MODEL_CFG
from tests.runs.test_imports import few, in_this_process
from tests.runs.test_open_clip_flags import BASE


def test_import_says_what_it_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    in_this_process(monkeypatch)
    monkeypatch.setattr(imports, "built_in_probe", few)
    save(tmp_path / "run" / "checkpoints" / "step-00000001", build(ModelConfig(model_cfg=MODEL_CFG)), {"step": 1})
    assert run([str(tmp_path / "run"), str(tmp_path / "ours")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'ours'}: {tmp_path / 'run'}\n  architecture: open_clip,")
    with pytest.raises(ModelError, match="holds no moving average of the weights"):
        run([str(tmp_path / "run"), str(tmp_path / "other"), "--weights", "ema"])
    assert not list(tmp_path.glob("*other*"))


def test_import_flags_prints_the_settings_or_writes_them_and_prints_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_flags([f"{BASE} --lock-image", "--processes", "4"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "run.yaml"
    assert run_flags([f"{BASE} --lock-image", "--processes", "4", "-o", str(file)]) == 0
    assert file.read_text() == printed
    assert load([str(file)]).data.global_batch_size == 40
    said = capsys.readouterr().out
    assert said.splitlines()[1] == "without an equivalent:"
    assert said.splitlines()[2].startswith("  --lock-image: no part of the model that is trained is frozen")
    with pytest.raises(ConfigError, match="exists already"):
        run_flags([BASE, "-o", str(file)])


@pytest.mark.parametrize("command", [run, run_flags])
def test_help_needs_no_model(command, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    assert ended.value.code == 0
    assert "contrastive import" in capsys.readouterr().out

"""open_clip's own trainer goes on from our export, and ours from its checkpoint; weights are equal bit by bit."""

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from contrastive.export.source import open_source
from contrastive.models.build import build
from contrastive.models.checkpoint import load, save
from contrastive.runs.pretrain import prepare, pretrain
from contrastive.settings import ModelConfig
from tests import toys
from tests.export.toys import export, perturb
from tests.models.test_build import MODEL_CFG

pytestmark = pytest.mark.slow
# pandas reads CSV data alone, and comes with no other package here.
TRAINER = """
import importlib.machinery, importlib.util, sys
if importlib.util.find_spec("pandas") is None:
    sys.modules["pandas"] = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("pandas", None))
from open_clip_train.main import main
main(sys.argv[1:])
"""


def train_with_open_clip(model: str, logs: Path, name: str, rate: float) -> dict[str, Tensor]:
    """Return the weights after two steps of open_clip's trainer on its synthetic data."""
    data = ["--dataset-type", "synthetic", "--train-num-samples", "8", "--batch-size", "4", "--workers", "0"]
    how = ["--device", "cpu", "--precision", "fp32", "--epochs", "1", "--warmup", "0", "--lr", str(rate)]
    command = [sys.executable, "-c", TRAINER, "--model", model, *data, *how, "--logs", str(logs), "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    saved = torch.load(logs / name / "checkpoints" / "epoch_1.pt", weights_only=True)
    assert saved["epoch"] == 1
    return saved["state_dict"]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name].reshape(-1), value.reshape(-1)) for name, value in expected.items())


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A model of ours in open_clip's form, and the checkpoint that it comes from in ours."""
    built = build(ModelConfig(model_cfg=MODEL_CFG))
    perturb(built.model)
    save(tmp_path / "ours", built, {})
    export(open_source(str(tmp_path / "ours")), "open_clip", tmp_path / "exported")
    return tmp_path / "exported"


def test_open_clips_trainer_goes_on_from_our_export_and_ours_from_its_checkpoint(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours = {name.removeprefix("inner."): v for name, v in load(tmp_path / "ours").model.state_dict().items()}
    assert same(load_file(exported / "open_clip_model.safetensors"), ours)
    # A rate of 0 leaves what the trainer begins with.
    assert same(train_with_open_clip(f"local-dir:{exported}", tmp_path / "logs", "still", 0.0), ours)
    trained = train_with_open_clip(f"local-dir:{exported}", tmp_path / "logs", "trained", 1e-3)
    assert not same(trained, ours)

    described = json.loads((exported / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "exported", described)
    file = tmp_path / "logs" / "trained" / "checkpoints" / "epoch_1.pt"
    shards = toys.write_shards(tmp_path / "shards", 16)
    settings = [one for one in toys.overrides(shards, tmp_path / "run") if not one.startswith("model.")]
    begins = [f"model.checkpoint=exported@{file}", "train.total_samples=8", "optim.learning_rate=0"]
    prepared = prepare([], [*settings, *begins])
    assert prepared is not None
    found = load(pretrain(prepared)).model.state_dict()
    assert same({name.removeprefix("inner."): value for name, value in found.items()}, trained)

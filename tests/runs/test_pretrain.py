import json
from pathlib import Path

import pytest
import torch

from contrastive.errors import UserError
from contrastive.models.checkpoint import load
from contrastive.runs.pretrain import prepare, pretrain
from tests import toys
from tests.toys import records


def run(overrides: list[str]) -> Path:
    prepared = prepare([], overrides)
    assert prepared is not None
    return pretrain(prepared)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(shards: Path, tmp_path: Path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = run([*toys.overrides(shards, tmp_path / name), f"train.seed={seed}"])
        weights.append(load(folder).model.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_the_checkpoint_is_what_was_trained(shards: Path, tmp_path: Path):
    folder = run([*toys.overrides(shards, tmp_path / "run"), "train.save_every_steps=4"])
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step-00000004", "step-00000006"]
    loaded = load(folder)
    assert loaded.info["samples_seen"] == 48
    last = records(folder)[-1]
    assert loaded.model.logit_scale.exp().item() == pytest.approx(last["logit_scale"], rel=1e-6)


def test_the_environment_says_what_ran(shards: Path, tmp_path: Path):
    folder = run(toys.overrides(shards, tmp_path / "run"))
    facts = json.loads((folder / "environment.json").read_text())
    assert facts["samples"] == 40
    assert facts["world_size"] == 1
    assert facts["parameters"] == sum(p.numel() for p in load(folder).model.parameters())


def test_a_run_learns_its_captions(shards: Path, tmp_path: Path):
    long = ["train.total_samples=1600", "optim.learning_rate=0.003", "optim.warmup_samples=80", "data.workers=1"]
    rows = records(run([*toys.overrides(shards, tmp_path / "run"), *long]))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_attention_kernels_and_precisions_agree_on_the_first_loss(shards: Path, tmp_path: Path, precision: str):
    exact = records(run(toys.overrides(shards, tmp_path / "exact")))
    found = records(run([*toys.overrides(shards, tmp_path / "run"), f"train.precision={precision}"]))
    assert found[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02 if precision == "bf16" else 1e-7)


def test_gradient_checkpointing_needs_a_model_that_has_it(shards: Path, tmp_path: Path):
    same = records(run([*toys.overrides(shards, tmp_path / "a"), "train.gradient_checkpointing=true"]))
    plain = records(run(toys.overrides(shards, tmp_path / "b")))
    assert [row["loss"] for row in same] == pytest.approx([row["loss"] for row in plain], rel=1e-5)
    ours = ["model.model_cfg=null", "model.image={name: cnn}", "model.text={name: lstm}", "model.image_size=16"]
    with pytest.raises(UserError, match=r"train\.gradient_checkpointing: needs an open_clip model"):
        run([*toys.overrides(shards, tmp_path / "c"), *ours, "train.gradient_checkpointing=true"])


@pytest.mark.slow
def test_a_compiled_model_trains_as_an_eager_one(shards: Path, tmp_path: Path):
    eager = records(run(toys.overrides(shards, tmp_path / "eager")))
    compiled_run = run([*toys.overrides(shards, tmp_path / "compiled"), "train.compile=true"])
    compiled = records(compiled_run)
    assert [row["loss"] for row in compiled] == pytest.approx([row["loss"] for row in eager], rel=1e-4)
    assert load(compiled_run).model.state_dict().keys() == load(tmp_path / "eager").model.state_dict().keys()

import json
from pathlib import Path

import pytest
import torch

from contrastive import cli
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


def test_a_cached_run_has_the_curve_of_the_plain_one_and_says_how_it_steps(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "empty.yaml").write_text("{}\n")
    curves = []
    for name, settings in (("plain", []), ("cached", ["train.micro_batch_size=3", "train.text_micro_batch_size=4"])):
        with caplog.at_level("INFO", logger="contrastive"):
            arguments = toys.overrides(shards, tmp_path / name, *settings)
            assert cli.pretrain([str(tmp_path / "empty.yaml"), *arguments]) == 0
        curves.append(records(tmp_path / name))
    plain, cached = curves
    for one, other in zip(plain, cached, strict=True):
        for figure in ("loss", "grad_norm", "grad_norm/image", "grad_norm/text", "logit_scale"):
            assert other[figure] == pytest.approx(one[figure], rel=1e-4), figure
        assert other["replay_drift/image"] == other["replay_drift/text"] == 0
    said = "cached, 3 image micro-batches of 3 (the last of 2) and 2 text micro-batches of 4 per process"
    assert "step: plain, 8 samples per process at once" in caplog.messages
    assert f"step: {said}" in caplog.messages
    assert json.loads((tmp_path / "cached" / "environment.json").read_text())["step"] == said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["train.micro_batch_size=9"],
            "train.micro_batch_size: 9 is more than the 8 samples of a process "
            "(data.global_batch_size 8 over 1 process); take at most 8",
        ),
        (
            ["train.micro_batch_size=4", f"losses={{mine: {{name: '{__name__}:Whole'}}}}"],
            f"losses.mine: {__name__}:Whole does not say that its batch may be split (splits_batch = True); "
            "say so, or unset train.micro_batch_size",
        ),
    ],
)
def test_a_step_that_cannot_be_planned_is_refused_at_the_door(
    shards: Path, tmp_path: Path, settings: list[str], message: str
):
    with pytest.raises(UserError) as caught:
        prepare([], toys.overrides(shards, tmp_path / "run", *settings))
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


def test_a_loss_that_needs_its_batch_whole_trains_plainly(shards: Path, tmp_path: Path):
    settings = ["train.micro_batch_size=8", f"losses={{mine: {{name: '{__name__}:Whole'}}}}"]
    assert len(records(run(toys.overrides(shards, tmp_path / "run", *settings)))) == 6


class Whole(torch.nn.Module):
    """A loss that does not say that its batch may be split."""

    def forward(self, features: dict, batch: dict) -> dict[str, torch.Tensor]:
        return {"loss": (features["image_features"] - features["text_features"]).square().mean()}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], ["train.micro_batch_size=4"]])
def test_a_compiled_model_trains_as_an_eager_one(shards: Path, tmp_path: Path, settings: list[str]):
    eager = records(run(toys.overrides(shards, tmp_path / "eager")))
    compiled_run = run([*toys.overrides(shards, tmp_path / "compiled"), *settings, "train.compile=true"])
    compiled = records(compiled_run)
    assert [row["loss"] for row in compiled] == pytest.approx([row["loss"] for row in eager], rel=1e-4)
    assert load(compiled_run).model.state_dict().keys() == load(tmp_path / "eager").model.state_dict().keys()

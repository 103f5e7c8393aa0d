"""The same run on 1, 2 and 4 real processes: same global batches, same loss curve to float32 noise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contrastive.errors import Preempted, UserError
from contrastive.models.checkpoint import load
from contrastive.runs.pretrain import prepare, pretrain
from tests import toys
from tests.toys import records

ROOT = Path(__file__).parents[2]
# A convolutional tower of ours, augmentation, crops and several captions: everything that could differ with the layout.
MODEL = [
    "model.image={name: cnn}",
    "model.text={name: lstm, width: 16}",
    "model.tokenizer={context_length: 12}",
    "model.embed_dim=16",
    "model.image_size=16",
    "data.caption_key=json.captions",
    "data.random_crop=[0.5, 1.0]",
    "data.augment={name: scribble}",
    "losses.contrastive={name: infonce, duplicates_by: caption}",
]


def settings(shards: Path, run: Path) -> list[str]:
    common = [o for o in toys.overrides(shards, run) if not o.startswith("model.")]
    return [*MODEL, *common, "optim.learning_rate=0.01", "train.total_samples=64"]


def train_here(overrides: list[str]) -> None:
    prepared = prepare([], overrides)
    assert prepared is not None
    pretrain(prepared)


@pytest.mark.parametrize("world_size", [2, 4])
def test_more_processes_give_the_same_curve(shards: Path, tmp_path: Path, world_size: int):
    train_here(settings(shards, tmp_path / "one"))
    toys.on_ranks(train_here, world_size, [*settings(shards, tmp_path / "many"), f"train.world_size={world_size}"])
    one, many = records(tmp_path / "one"), records(tmp_path / "many")
    assert len(one) == len(many) == 8
    for alone, together in zip(one, many, strict=True):
        for name in ("loss", "contrastive/accuracy", "grad_norm", "logit_scale"):
            assert together[name] == pytest.approx(alone[name], rel=2e-4), name
    assert one[0]["loss"] == pytest.approx(many[0]["loss"], rel=1e-6)
    assert one[-1]["loss"] < one[0]["loss"]  # it learned: the curves are not equal for being flat
    assert json.loads((tmp_path / "many" / "environment.json").read_text())["world_size"] == world_size


SHARDED = ["model.model_cfg.vision_cfg.layers=2", "model.model_cfg.text_cfg.layers=2", "train.ema_decay=0.9"]


@pytest.mark.parametrize("more", [[], ["train.micro_batch_size=2", "train.gradient_checkpointing=true"]])
def test_a_sharded_run_has_the_curve_and_the_files_of_one_that_is_not(
    shards: Path, tmp_path: Path, classes: Path, more: list[str]
):
    given = [*SHARDED, *more, f"eval.datasets=[{classes}]", "eval.every_steps=3", "optim.learning_rate=0.01"]
    for name, sharding in (("plain", "none"), ("cut", "full")):
        arguments = toys.overrides(shards, tmp_path / name, *given, f"train.sharding={sharding}")
        toys.on_ranks(train_here, 2, [*arguments, "train.world_size=2"])
    for one, other in zip(records(tmp_path / "plain"), records(tmp_path / "cut"), strict=True):
        for name in ("loss", "grad_norm", "grad_norm/image", "logit_scale"):
            assert other[name] == pytest.approx(one[name], rel=2e-4), name
    for one, other in zip(records(tmp_path / "plain", "eval"), records(tmp_path / "cut", "eval"), strict=True):
        assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-2, abs=1e-3)
    assert (tmp_path / "cut" / "checkpoints" / "step-00000006" / "optimizer").is_dir()
    for weights in ("trained", "ema"):
        one, other = (load(tmp_path / name, weights=weights).model.state_dict() for name in ("plain", "cut"))
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-4)


def train_until_asked(overrides: list[str]) -> bool:
    try:
        train_here(overrides)
    except Preempted:
        return False
    return True


@pytest.mark.parametrize(
    "launches",
    [
        pytest.param([("full", 2), ("full", 2), ("full", 2)], marks=pytest.mark.slow),
        [("full", 2), ("none", 1), ("full", 4)],
        pytest.param([("none", 2), ("full", 2), ("none", 2)], marks=pytest.mark.slow),
    ],
)
def test_sharded_and_whole_launches_of_any_size_go_on_from_each_other(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launches: list[tuple[str, int]]
):
    given = [*SHARDED, "losses={a: {name: infonce}, stops: {name: 'tests.runs.test_resuming:Stops'}}"]
    toys.on_ranks(train_here, 2, toys.overrides(shards, tmp_path / "whole", *given, "train.sharding=full"))
    monkeypatch.setenv("STOPS", "1")
    taken: list[int] = []
    for sharding, world_size in launches:
        arguments = toys.overrides(shards, tmp_path / "run", *given, f"train.sharding={sharding}")
        assert set(toys.on_ranks(train_until_asked, world_size, arguments)) == {False}
        taken.append(json.loads((tmp_path / "run" / "preempted.json").read_text())["step"])
    # DDP's rehearsal is a forward pass too, so that a launch may be asked in its first step.
    assert 0 < taken[0] < taken[1] < taken[2] <= 6
    train_here(arguments)
    whole, run = records(tmp_path / "whole"), records(tmp_path / "run")
    assert [row["step"] for row in run] == [1, 2, 3, 4, 5, 6]
    same = {sharding for sharding, world in launches if world == 2} == {"full"} and len(set(launches)) == 1
    for one, other in zip(whole, run, strict=True):
        assert other["loss"] == one["loss"] if same else other["loss"] == pytest.approx(one["loss"], rel=2e-4)


def refused(overrides: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        prepare([], overrides)
    return str(caught.value)


def test_a_batch_that_does_not_divide_is_refused_with_its_neighbours(shards: Path, tmp_path: Path):
    overrides = [*toys.overrides(shards, tmp_path / "run"), "data.global_batch_size=7"]
    messages = toys.on_ranks(refused, 2, overrides)
    assert set(messages) == {"data.global_batch_size: 7 does not divide over 2 processes; take 6 or 8"}


def test_more_processes_than_samples_are_refused(tmp_path: Path):
    shards = toys.write_shards(tmp_path / "few", 3, shards=1)
    overrides = [*toys.overrides(shards, tmp_path / "run"), "data.global_batch_size=4"]
    messages = toys.on_ranks(refused, 4, overrides)
    assert {m.partition(";")[0] for m in messages} == {
        "data.global_batch_size: 4 is more than the 3 samples of data.train"
    }


def launch(tmp_path: Path, overrides: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/launch/cpu2.yaml"]
    (tmp_path / "empty.yaml").write_text("{}\n")
    command += ["pretrain.py", str(tmp_path / "empty.yaml"), *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_mistake_under_a_launcher_is_said_once_and_ends_every_process(shards: Path, tmp_path: Path):
    done = launch(tmp_path, [*toys.overrides(shards, tmp_path / "run"), "data.train=/nowhere"])
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "error:" in line]
    assert said == ["[rank 0] error: data.train: /nowhere does not exist"]


def test_the_shipped_launch_file_starts_two_processes(shards: Path, tmp_path: Path):
    overrides = [*toys.overrides(shards, tmp_path / "run"), "train.world_size=2", "train.total_samples=16"]
    done = launch(tmp_path, overrides)
    assert done.returncode == 0, done.stderr
    assert "world_size=2 device=cpu" in done.stderr
    assert len(records(tmp_path / "run")) == 2
    assert torch.isfinite(torch.tensor([row["loss"] for row in records(tmp_path / "run")])).all()

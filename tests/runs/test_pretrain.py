import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contrastive import cli
from contrastive.errors import UserError
from contrastive.eval.embed import Embeddings
from contrastive.eval.result import Result
from contrastive.models.checkpoint import load
from contrastive.runs.pretrain import prepare, pretrain
from tests import toys
from tests.eval.toys import write_tar
from tests.models.test_build import local_dir  # noqa: F401  (a fixture)
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


TOWERS = ["model.model_cfg=null", "model.image={name: cnn}", "model.text={name: lstm}", "model.image_size=16"]
DEEP = ["model.model_cfg.vision_cfg.layers=2", "model.model_cfg.text_cfg.layers=2"]


@pytest.mark.parametrize("model", [DEEP, TOWERS])
def test_recomputed_activations_give_the_same_curve(shards: Path, tmp_path: Path, model: list[str]):
    plain = records(run(toys.overrides(shards, tmp_path / "a", *model)))
    same = records(run(toys.overrides(shards, tmp_path / "b", *model, "train.gradient_checkpointing=true")))
    assert [row["loss"] for row in same] == pytest.approx([row["loss"] for row in plain], rel=1e-5)


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


DISTILLATION = "losses={taught: {name: distillation, features: 1.0}, pairs: {name: infonce, weight: 0.1}}"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A run of a model with other pixels, other token ids and a larger space than the student's."""
    toys.write_shards(tmp_path / "taught", 40)
    other = [
        "model.model_cfg.embed_dim=24",
        "model.model_cfg.vision_cfg.image_size=24",
        "model.model_cfg.text_cfg.context_length=16",
        "train.total_samples=320",
        "optim.learning_rate=0.003",
    ]
    return run(toys.overrides(tmp_path / "taught", tmp_path / "teacher", *other))


def distil(shards: Path, directory: Path, teacher: Path, *more: str) -> list[str]:
    given = [f"model.teacher={{checkpoint: '{teacher}'}}", DISTILLATION, "optim.learning_rate=0.003"]
    return toys.overrides(shards, directory, *given, *more)


def test_a_run_learns_what_its_teacher_knows(
    shards: Path, tmp_path: Path, teacher: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO", logger="contrastive"):
        folder = run(distil(shards, tmp_path / "run", teacher, "train.total_samples=800"))
    rows = records(folder)
    for term, share in (("taught/logits", 0.5), ("taught/features", 0.5)):
        assert rows[-1][term] < share * rows[0][term], term
    size = sum(p.numel() for p in load(teacher).model.parameters())
    said = f"{teacher}/checkpoints/step-00000040, {size / 1e6:.1f} M parameters"
    assert f"teacher: {said}" in caplog.messages
    facts = json.loads((folder / "environment.json").read_text())
    assert facts["teacher"] == said
    student = load(folder).model
    assert facts["parameters"] == sum(p.numel() for p in student.parameters())
    assert student.state_dict().keys() == load(teacher).model.state_dict().keys()
    shutil.rmtree(teacher)
    assert load(folder).model.embed_dim == 16  # without its teacher


def test_a_taught_run_has_one_curve_on_any_layout_plain_and_cached(shards: Path, tmp_path: Path, teacher: Path):
    micro = ["train.micro_batch_size=3", "train.text_micro_batch_size=4"]
    curves = [records(run(distil(shards, tmp_path / name, teacher, *more))) for name, more in (("a", []), ("b", micro))]
    for name, more in (("c", []), ("d", micro)):
        toys.on_ranks(run, 2, [*distil(shards, tmp_path / name, teacher, *more), "train.world_size=2"])
        curves.append(records(tmp_path / name))
    for other in curves[1:]:
        for one, another in zip(curves[0], other, strict=True):
            for figure in ("loss", "taught/logits", "taught/features", "grad_norm", "logit_scale"):
                assert another[figure] == pytest.approx(one[figure], rel=2e-4), figure
    assert curves[0][-1]["loss"] < curves[0][0]["loss"]


def test_a_downloaded_model_teaches_a_run(shards: Path, tmp_path: Path, local_dir: Path):  # noqa: F811
    given = [f"model.teacher={{name: 'local-dir:{local_dir}'}}", "losses={taught: {name: distillation}}"]
    rows = records(run(toys.overrides(shards, tmp_path / "run", *given, "optim.learning_rate=0.003")))
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["model.teacher={checkpoint: /nowhere}", DISTILLATION],
            "model.teacher.checkpoint: /nowhere: does not exist; give a run directory or one of its checkpoints/step-…",
        ),
        (
            ["model.teacher={name: RN50, pretrained: openai}"],
            "model.teacher: no loss learns from it; add {name: distillation}",
        ),
        ([DISTILLATION], "losses.taught: distillation reads teacher_image_features; set model.teacher"),
    ],
)
def test_a_run_whose_teacher_and_losses_do_not_fit_is_refused_at_the_door(
    shards: Path, tmp_path: Path, settings: list[str], message: str
):
    with pytest.raises(UserError) as caught:
        prepare([], toys.overrides(shards, tmp_path / "run", *settings))
    assert str(caught.value) == message


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


def test_a_mixture_reports_what_it_showed(shards: Path, tmp_path: Path):
    other = toys.write_shards(tmp_path / "other", 8, shards=1)
    overrides = [o for o in toys.overrides(shards, tmp_path / "run") if not o.startswith("data.train")]
    sources = [f"data.sources.a={{shards: {shards}}}", f"data.sources.b={{shards: {other}, weight: 1.0}}"]
    folder = run([*overrides, *sources, "train.total_samples=96"])
    closing = json.loads((folder / "finished.json").read_text())
    assert closing["sources"] == {"a": 80, "b": 16}
    last = records(folder)[-1]
    assert (last["data/samples/a"], last["data/samples/b"], last["epoch"]) == (80, 16, 2.0)


def test_bad_samples_are_replaced_counted_and_named_and_can_be_left_out(shards: Path, tmp_path: Path):
    bad = [("bad.png", b"no image"), ("bad.txt", b"words"), ("bad.json", b'{"captions": "words"}')]
    toys.write_tar(shards / "00009.tar", [*bad, *toys.members(77)])
    overrides = [*toys.overrides(shards, tmp_path / "run"), "data.max_bad_share=1.0", "train.total_samples=84"]
    folder = run([*overrides, "data.global_batch_size=42"])
    assert json.loads((folder / "finished.json").read_text())["replaced"] == 2
    (line,) = (folder / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "bad"
    assert [row["data/replaced"] for row in records(folder)] == [1, 2]


def test_a_checkpoint_says_how_far_the_data_were_read(shards: Path, tmp_path: Path):
    info = load(run(toys.overrides(shards, tmp_path / "run"))).info
    assert (info["data"]["consumed"], info["data"]["seed"]) == (48, 0)
    assert (
        info["data"]["fingerprint"]
        == json.loads((tmp_path / "run" / "environment.json").read_text())["data_fingerprint"]
    )


def test_a_file_may_not_allow_pipes_and_a_saved_run_does_not(shards: Path, tmp_path: Path):
    (tmp_path / "x.yaml").write_text("data: {allow_pipes: true}\n")
    with pytest.raises(UserError, match=r"data\.allow_pipes: .*x\.yaml lets shards run shell commands; write"):
        prepare([str(tmp_path / "x.yaml")], toys.overrides(shards, tmp_path / "run"))
    folder = run([*toys.overrides(shards, tmp_path / "run"), "data.allow_pipes=true"])
    assert "allow_pipes" not in (folder / "config.yaml").read_text()


def test_an_evaluation_that_fails_is_told_and_costs_the_run_nothing(
    shards: Path, tmp_path: Path, classes: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "eval" / "test" / "nshards.txt").write_text("1")
    write_tar(tmp_path / "eval" / "test" / "0.tar", {"s0.png": b"no picture", "s0.cls": b"0"})
    evaluated = [f"eval.datasets=[{classes}]", "eval.every_steps=2"]
    broken = run(toys.overrides(shards, tmp_path / "broken", *evaluated))
    plain = run(toys.overrides(shards, tmp_path / "plain"))
    failures = toys.records(broken, "evaluation_failed")
    assert [row["step"] for row in failures] == [2, 4, 6]
    assert "s0" in failures[0]["error"]
    assert "the evaluation failed: dataset toy: " in caplog.text
    ends = [load_file(folder / "checkpoints" / "step-00000006" / "model.safetensors") for folder in (broken, plain)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    assert prepare([str(broken / "config.yaml")], []) is None, "the run is finished"


class Fails:
    """A task with a mistake in it."""

    def __call__(self, embeddings: Embeddings) -> Result:
        raise ZeroDivisionError("nothing to divide by")


def test_a_mistake_in_a_task_costs_the_run_nothing_either(
    shards: Path, tmp_path: Path, classes: Path, caplog: pytest.LogCaptureFixture
):
    classes.write_text(classes.read_text() + f"task: {__name__}:Fails\n")
    folder = run(toys.overrides(shards, tmp_path / "run", f"eval.datasets=[{classes}]"))
    assert [row["error"] for row in toys.records(folder, "evaluation_failed")] == ["nothing to divide by"]
    assert "ZeroDivisionError" in caplog.text, "whoever wrote it sees where"

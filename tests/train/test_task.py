from contextlib import nullcontext

import pytest
import torch
from torch import nn

from contrastive.config import load
from contrastive.errors import ConfigError
from contrastive.models.build import build
from contrastive.models.teacher import Teacher
from contrastive.settings import ModelConfig
from contrastive.train.task import ContrastiveTask, attention_kernel, check, check_splits, needs
from tests import toys


class Constant(nn.Module):
    """A loss from outside: the mean of the text ids, times what its head learned."""

    def __init__(self, value: float = 2.0) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.tensor(value))

    def forward(self, features: dict, batch: dict) -> dict[str, torch.Tensor]:
        return {
            "loss": self.head * features["image_features"].square().sum(-1).mean(),
            "ids": batch["text"].float().mean(),
        }


class Shift(nn.Module):
    """An augmentation from outside: adds each row's seed."""

    def forward(self, image: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        return image + seed[:, None, None, None]


def task(*overrides: str) -> ContrastiveTask:
    config = load([], [*toys.TINY_MODEL, *overrides])
    built = build(config.model)
    return ContrastiveTask(built.model, built.preprocess, config)


class Selfish(nn.Module):
    """A loss that reads neither temperature nor bias."""

    def forward(self, features: dict, batch: dict) -> dict[str, torch.Tensor]:
        return {"loss": (features["image_features"] - features["text_features"]).square().sum(-1).mean()}


class Demanding(nn.Module):
    """A loss that reads what its option says."""

    def __init__(self, reads: str = "image_id") -> None:
        super().__init__()

    @staticmethod
    def needs(options: dict) -> set[str]:
        return {options.get("reads", "image_id")}


BATCH = {
    "image": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8),
    "text": torch.randint(1, 400, (4, 12)),
    "seed": torch.arange(4),
    "caption_id": torch.arange(4),
    "image_id": torch.arange(4),
}


def test_terms_are_weighted_and_named_after_their_loss():
    outside = f"losses={{pairs: {{name: infonce, weight: 0.5}}, other: {{name: '{__name__}:Constant', weight: 3.0}}}}"
    terms = task(outside)(BATCH)
    assert terms["other/loss"].item() == pytest.approx(2.0, rel=1e-5)  # unit vectors
    assert terms["other/ids"].item() == pytest.approx(BATCH["text"].float().mean().item())
    assert terms["loss"].item() == pytest.approx(0.5 * terms["pairs/loss"].item() + 3 * 2.0, rel=1e-5)
    assert {"loss", "pairs/loss", "pairs/accuracy", "other/loss", "other/ids"} <= set(terms)
    assert {name.partition("/")[0] for name in terms} == {"loss", "pairs", "other"}


def test_a_losss_own_head_is_trained():
    module = task(f"losses={{other: {{name: '{__name__}:Constant'}}}}")
    module(BATCH)["loss"].backward()
    assert module.losses["other"].head.grad is not None


def test_one_infonce_is_the_default():
    assert {"loss", "contrastive/loss", "contrastive/accuracy"} <= set(task()(BATCH))


@pytest.mark.parametrize("held", [("image", "seed"), ("text",)])
def test_the_features_of_one_tower_are_those_of_the_whole_batch(held: tuple[str, ...]):
    module = task()
    (found,) = module({name: BATCH[name] for name in held}, "features").items()
    whole = module.model(module.preprocess.normalise(module.augmented(BATCH)), BATCH["text"])
    assert found[0] == f"{held[0]}_features"
    torch.testing.assert_close(found[1], whole[found[0]])


def test_a_temperature_that_no_loss_reads_has_a_gradient_of_zero():
    module = task(f"losses={{other: {{name: '{__name__}:Selfish'}}}}", "model.init_logit_bias=-2")
    module(BATCH)["loss"].backward()
    assert module.model.logit_scale.grad.item() == 0
    assert module.model.logit_bias.grad.item() == 0


def test_attention_runs_in_the_same_kernel_with_and_without_gradients():
    for is_training in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            kinds = [type(attention_kernel(torch.device("cpu"), is_training))]
            with torch.no_grad():
                kinds.append(type(attention_kernel(torch.device("cpu"), is_training)))
        assert kinds[0] is kinds[1]
        assert (kinds[0] is nullcontext) is not is_training


DEMANDING = f"losses={{mine: {{name: '{__name__}:Demanding', reads: %s}}}}"


@pytest.mark.parametrize(
    ("needed", "overrides", "message"),
    [
        ("label_id", [], "reads labels, which need data.label_key (cls, or json.FIELD of the samples); set it"),
        (
            "logit_bias",
            ["model.image={name: cnn}", "model.text={name: lstm}"],
            "reads a logit bias, and the model has none; set model.init_logit_bias (SigLIP: -10)",
        ),
        ("teacher_text_features", [], "reads teacher_text_features; set model.teacher"),
    ],
)
def test_a_loss_that_reads_what_the_run_does_not_have_is_refused(needed: str, overrides: list[str], message: str):
    with pytest.raises(ConfigError) as caught:
        check(load([], [*overrides, DEMANDING % needed]))
    assert str(caught.value) == f"losses.mine: {__name__}:Demanding {message}"


@pytest.mark.parametrize(
    "overrides",
    [
        [DEMANDING % "image_id"],
        [DEMANDING % "caption_id"],
        [DEMANDING % "label_id", "data.label_key=cls"],
        [DEMANDING % "logit_bias", *toys.TINY_MODEL],  # an open_clip model may bring its own
        [DEMANDING % "logit_bias", "model.image={name: cnn}", "model.text={name: lstm}", "model.init_logit_bias=-10"],
        ["losses={mine: {name: infonce}}"],
    ],
)
def test_a_loss_that_reads_what_the_run_has_is_accepted(overrides: list[str]):
    check(load([], overrides))


def test_an_open_clip_model_without_a_bias_is_refused_when_it_is_built():
    with pytest.raises(ConfigError, match=r"losses\.mine: .* reads a logit bias, .*; set model.init_logit_bias"):
        task(DEMANDING % "logit_bias")
    assert task(DEMANDING % "logit_bias", "model.init_logit_bias=-10").model.logit_bias.item() == -10


def test_a_run_needs_what_its_losses_read():
    assert needs(load([], [])) == {"caption_id"}
    assert needs(load([], [DEMANDING % "image_id"])) == {"image_id"}
    by_image = "losses={a: {name: infonce, duplicates_by: [image]}, b: {name: sigmoid, duplicates: negatives}}"
    assert needs(load([], [by_image])) == {"image_id", "logit_bias"}


@pytest.mark.parametrize("option", ["micro_batch_size", "text_micro_batch_size"])
def test_a_loss_that_does_not_say_that_its_batch_may_be_split_is_refused(option: str):
    with pytest.raises(ConfigError) as caught:
        check_splits(load([], [f"train.{option}=2", DEMANDING % "image_id"]))
    assert str(caught.value) == (
        f"losses.mine: {__name__}:Demanding does not say that its batch may be split (splits_batch = True); "
        f"say so, or unset train.{option}"
    )
    check_splits(load([], [f"train.{option}=2"]))


def test_pixels_are_scaled_augmented_by_seed_and_normalised_in_this_order(monkeypatch: pytest.MonkeyPatch):
    module = task(f"data.augment={{name: '{__name__}:Shift'}}", "model.preprocess={mean: [0.5,0.5,0.5], std: [2,2,2]}")
    seen = []
    monkeypatch.setattr(module.model, "encode_image", lambda image: seen.append(image) or torch.ones(4, 16))
    module(BATCH, "features")
    expected = (BATCH["image"].float() / 255 + torch.arange(4.0)[:, None, None, None] - 0.5) / 2
    torch.testing.assert_close(seen, [expected])


class Learner(nn.Module):
    """A loss from outside that asks for the sizes of both spaces, and returns what it is given of the teacher."""

    splits_batch = True

    def __init__(self, embed_dim: int, teacher_embed_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.sizes = (embed_dim, teacher_embed_dim)

    @staticmethod
    def needs(options: dict) -> set[str]:
        assert set(options) <= {"scale"}  # what the run sets, not what it is given
        return {"teacher_text_features"}

    def forward(self, features: dict, batch: dict) -> dict[str, torch.Tensor]:
        self.given = {name: value for name, value in features.items() if name.startswith("teacher_")}
        return {"loss": features["image_features"].sum() + features["text_features"].sum()}


LEARNER = f"losses={{mine: {{name: '{__name__}:Learner', scale: 2.0}}}}"


def with_teacher(*overrides: str, cfg: dict | None = None) -> ContrastiveTask:
    config = load([], [*toys.TINY_MODEL, LEARNER, *overrides])
    built = build(config.model)
    other = build(ModelConfig(model_cfg={**config.model.model_cfg, "embed_dim": 24, **(cfg or {})}))
    return ContrastiveTask(built.model, built.preprocess, config, Teacher(other, "a toy"))


def test_a_loss_that_asks_is_given_the_sizes_of_both_spaces():
    assert with_teacher().losses["mine"].sizes == (16, 24)


def test_a_teacher_is_no_part_of_the_module():
    module, alone = with_teacher(), task()
    assert module.state_dict().keys() == alone.state_dict().keys()
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in alone.named_parameters()]
    assert module.teacher not in set(module.modules())
    module.train()
    module(BATCH)["loss"].backward()
    assert not module.teacher.training
    assert all(p.grad is None for p in module.teacher.parameters())


@pytest.mark.parametrize("sizes", [[], ["train.micro_batch_size=3"], ["train.text_micro_batch_size=1"]])
@pytest.mark.parametrize("way", ["forward", "score"])
def test_a_teacher_sees_the_augmented_pixels_and_the_captions(sizes: list[str], way: str):
    module = with_teacher(f"data.augment={{name: '{__name__}:Shift'}}", *sizes)
    if way == "forward":
        module(BATCH)
    else:
        module.score(module(BATCH, "features"), BATCH)
    teacher, found = module.teacher, module.losses["mine"].given
    pixels = BATCH["image"].float() / 255 + torch.arange(4.0)[:, None, None, None]
    with torch.no_grad():
        image = teacher.model.encode_image(teacher.preprocess.normalise(pixels))
        text = teacher.model.encode_text(BATCH["text"])
    torch.testing.assert_close(found["teacher_image_features"], image)
    torch.testing.assert_close(found["teacher_text_features"], text)
    assert torch.equal(found["teacher_logit_scale"], teacher.model.logit_scale)
    assert not any(value.requires_grad for value in found.values())


def test_a_teacher_reads_captions_of_its_own_where_there_are_some():
    module, own = with_teacher(), torch.randint(1, 400, (4, 8))
    module({**BATCH, "teacher_text": own})
    with torch.no_grad():
        expected = module.teacher.model.encode_text(own)
    torch.testing.assert_close(module.losses["mine"].given["teacher_text_features"], expected)


@pytest.mark.parametrize("sizes", [[], ["train.micro_batch_size=2"]])
def test_a_teacher_is_asked_once_a_step(monkeypatch: pytest.MonkeyPatch, sizes: list[str]):
    module, calls = with_teacher(*sizes), []
    inner = module.teacher.model.encode_image
    monkeypatch.setattr(module.teacher.model, "encode_image", lambda image: calls.append(len(image)) or inner(image))
    module({"image": BATCH["image"], "seed": BATCH["seed"]}, "features")
    assert calls == []
    module(BATCH)
    assert sum(calls) == 4


def test_a_teacher_runs_under_autocast_and_hands_out_float32():
    module = with_teacher()
    with torch.autocast("cpu", torch.bfloat16):
        module(BATCH)
        with torch.no_grad():
            expected = module.teacher.model.encode_text(BATCH["text"])
    found = module.losses["mine"].given
    assert {value.dtype for value in found.values()} == {torch.float32}
    torch.testing.assert_close(found["teacher_text_features"], expected.float(), rtol=0, atol=0)
    with torch.no_grad():
        assert not torch.equal(found["teacher_text_features"], module.teacher.model.encode_text(BATCH["text"]))


def test_a_teacher_that_no_loss_reads_is_refused():
    with pytest.raises(ConfigError) as caught:
        check(load([], ["model.teacher={checkpoint: runs/large}"]))
    assert str(caught.value) == "model.teacher: no loss learns from it; add {name: distillation}"
    check(load([], ["model.teacher={checkpoint: runs/large}", "losses={d: {name: distillation}}"]))
    check(load([], ["model.teacher={checkpoint: runs/large}", LEARNER]))


def test_what_the_run_decides_about_a_loss_is_not_to_be_set():
    with pytest.raises(ConfigError, match=r"losses\.d\.embed_dim: is decided by the rest of the run"):
        check(load([], ["model.teacher={checkpoint: a}", "losses={d: {name: distillation, embed_dim: 3}}"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses={a: {name: infonse}}", "losses.a.name: 'infonse' is not one of "),
        (
            "losses={a: {name: infonce, label_smoothing: 2}}",
            "losses.a: infonce refused its options: label_smoothing: 2.0",
        ),
        (
            "losses={a: {name: sigmoid, duplicates_by: []}}",
            "losses.a: sigmoid refused its options: duplicates_by: names",
        ),
        (
            "losses={a: {name: infonce, duplicates_by: captoin}}",
            "losses.a.duplicates_by: 'captoin' is not one of 'caption'",
        ),
        (
            "losses={a: {name: infonce, duplicates_by: [image, x]}}",
            "losses.a.duplicates_by[1]: 'x' is not one of 'caption'",
        ),
        ("losses={a: infonce}", "losses.a: 'infonce' must be a mapping like {name: infonce, weight: 1.0}"),
        ("losses={a: {name: infonce, weight: high}}", "losses.a.weight: 'high' is not float"),
        ("losses={a: {name: infonce, weight: 0}}", "losses.a.weight: 0 must be more than 0"),
        ("losses={a: {name: infonce, temperature: 3}}", "losses.a.temperature: infonce has no such option"),
        ("data.augment={name: scribbel}", "data.augment.name: 'scribbel' is not one of"),
    ],
)
def test_parts_are_refused_before_anything_is_built(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        check(load([], [override]))
    assert message in str(caught.value)

"""Sharded training on real processes is DDP's training.

Towers run in float64: sums in another order differ by about 1e-15, which AdamW's epsilon of 1e-8 lifts to 1e-9 at most.
"""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import BertConfig

from contrastive import distributed
from contrastive.config import load
from contrastive.models.build import build
from contrastive.train import optim, sharding
from contrastive.train.caching import CachedBackward, StepPlan
from contrastive.train.ema import Ema
from contrastive.train.step import clamp_logit_scale
from contrastive.train.task import ContrastiveTask
from tests import toys
from tests.train.toys import Doubled, batch

BATCH, EXACT, CLIP = 8, 1e-9, 0.05
OPEN_CLIP = [
    "model.model_cfg.embed_dim=16",
    "model.model_cfg.vision_cfg={image_size: 16, patch_size: 8, width: 32, layers: 3, head_width: 16}",
    "model.model_cfg.text_cfg={context_length: 12, width: 32, heads: 2, layers: 3}",
]
TIMM = [
    "model.model_cfg.embed_dim=16",
    "model.model_cfg.vision_cfg={timm_model_name: test_vit, timm_model_pretrained: false, timm_pool: '', "
    "timm_proj: linear, image_size: 32}",
    "model.model_cfg.text_cfg={hf_model_name: BERT, hf_model_pretrained: false, hf_pooler_type: mean_pooler, "
    "hf_proj_type: mlp, context_length: 12}",
]
OURS = [
    "model.model_cfg={}",
    "model.image={name: cnn, widths: [8, 16], depths: [2, 2]}",
    "model.text={name: lstm, width: 16}",
    "model.tokenizer={context_length: 12}",
    "model.embed_dim=16",
    "model.image_size=16",
    "model.init_logit_bias=-3",
    "losses={pairs: {name: sigmoid}}",
]
MODELS = {"open_clip": OPEN_CLIP, "timm and Hugging Face": TIMM, "cnn and lstm": OURS}
# Whether activations are recomputed, and the size of micro-batches.
VARIANTS = {"plain": (False, 0), "checkpointed": (True, 0), "cached": (False, 1), "checkpointed and cached": (True, 1)}


@pytest.fixture
def bert(tmp_path: Path) -> str:
    small = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=500, **small).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def make(overrides: list[str], freezes_image: bool = False) -> Doubled:
    config = load([], overrides)
    torch.manual_seed(0)
    built = build(config.model)
    cut_vocabulary(built.model)
    task = Doubled(built.model, built.preprocess, config).double().train()
    task.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    if freezes_image:
        for parameter in task.model.towers()["image"]:
            parameter.requires_grad_(False)
    return task


def cut_vocabulary(model: nn.Module) -> None:
    """CLIP's is most of a small model, and of the test's time."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Embedding) and child.num_embeddings > 1000:
                setattr(module, name, nn.Embedding(400, child.embedding_dim))


def own_rows(task: ContrastiveTask) -> dict[str, Tensor]:
    share, rank = BATCH // distributed.world_size(), distributed.rank()
    whole = batch(BATCH, task.preprocess.size)
    return {name: value[rank * share : (rank + 1) * share] for name, value in whole.items()}


class Trained:
    """A task with its optimizer, prepared as a run prepares them; `task` is the same object before and after."""

    def __init__(self, task: Doubled, *, shards: bool, checkpoints: bool = False, micro: int = 0) -> None:
        self.task, self.accelerator = task, Accelerator(cpu=True)
        if checkpoints:
            sharding.checkpoint_blocks(task.model)
        if shards:
            sharding.shard(task)
        self.prepared = self.accelerator.prepare_model(task, evaluation_mode=shards)
        self.optimizer = self.accelerator.prepare_optimizer(optim.optimizer(task, load([], []).optim))
        self.batch = own_rows(task)
        plan = StepPlan(len(self.batch["image"]), micro, micro)
        self.cached = CachedBackward(self.accelerator, self.prepared, plan) if micro else None
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-2
        torch.manual_seed(1 + distributed.rank())

    def step(self, bad: float = 0.0) -> dict[str, float]:
        terms = self.prepared(self.batch) if self.cached is None else self.cached(self.batch)
        if self.cached is None:
            self.accelerator.backward(terms["loss"])
        parameters = list(self.task.parameters())
        norm = self.accelerator.clip_grad_norm_(parameters, torch.inf)
        text = get_total_norm([p.grad for p in self.task.model.towers()["text"] if p.grad is not None])
        clip_grads_with_norm_(parameters, CLIP, norm)
        self.optimizer.optimizer.found_inf = torch.tensor(bad)  # torch's own way to skip an update on the device
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clamp_logit_scale(self.task.model.logit_scale)
        return {"loss": terms["loss"].item(), "norm": float(sharding.whole(norm)), "text": float(sharding.whole(text))}

    def weights(self) -> dict[str, Tensor]:
        return {name: sharding.whole(p).detach().clone() for name, p in self.task.named_parameters()}


def compare(overrides: list[str], variants: list[str], freezes_image: bool = False) -> None:
    for checkpoints, micro in (VARIANTS[name] for name in variants):
        reference = Trained(make(overrides, freezes_image), shards=False, micro=micro)  # draws go by micro-batch
        expected = [reference.step() for _ in range(3)]
        assert all(step["norm"] > CLIP for step in expected), "nothing was clipped"
        trained = Trained(make(overrides, freezes_image), shards=True, checkpoints=checkpoints, micro=micro)
        assert [trained.step() for _ in range(3)] == [pytest.approx(step, abs=EXACT) for step in expected]
        assert_equal(trained.weights(), reference.weights())


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=EXACT, msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_shards_train_as_ddp_does(model: str, bert: str):
    overrides = [one.replace("BERT", bert) for one in MODELS[model]]
    toys.on_ranks(
        compare, 2, overrides, list(VARIANTS) if model == "open_clip" else ["plain", "checkpointed and cached"]
    )


def test_shards_of_four_processes_train_as_ddp_does():
    toys.on_ranks(compare, 4, OPEN_CLIP, ["plain", "checkpointed and cached"])


def test_a_frozen_tower_stays_as_it_is_and_the_other_trains_as_with_ddp():
    toys.on_ranks(compare, 2, OPEN_CLIP, ["plain", "checkpointed and cached"], True)


def test_every_parameter_lies_in_shards_of_its_rank():
    def held() -> list[tuple[str, int, int, bool]]:
        task = Trained(make(OPEN_CLIP), shards=True).task
        assert task.model.logit_scale.shape == (1,)  # a parameter without a dimension cannot be cut
        return [(n, p.to_local().numel(), p.numel(), isinstance(p, DTensor)) for n, p in task.named_parameters()]

    ranks = toys.on_ranks(held, 2)
    for (name, first, size, is_cut), (_, second, _, _) in zip(*ranks, strict=True):
        assert is_cut, name
        assert first + second == size, name
    assert sum(held for _, held, _, _ in ranks[0]) < 0.51 * sum(size for _, _, size, _ in ranks[0])


def test_a_bad_update_is_skipped_on_the_device():
    def skipped() -> None:
        trained = Trained(make(OPEN_CLIP), shards=True)
        trained.step()
        before = trained.weights()
        trained.step(bad=1.0)
        for name, value in trained.weights().items():
            assert torch.equal(value, before[name]), name
        trained.step()
        assert not torch.equal(
            trained.weights()["model.inner.token_embedding.weight"], before["model.inner.token_embedding.weight"]
        )

    toys.on_ranks(skipped, 2)


def test_an_evaluation_needs_no_equal_number_of_batches_and_leaves_training_as_it_was():
    def evaluated() -> None:
        reference = Trained(make(OPEN_CLIP), shards=False)
        trained = Trained(make(OPEN_CLIP), shards=True)
        for _ in range(2):  # once before any forward pass of the task
            with torch.no_grad(), sharding.unsharded(trained.task):
                found = [embed(trained) for _ in range(1 + distributed.rank())]
            with torch.no_grad(), sharding.unsharded(reference.task):
                torch.testing.assert_close(found[-1], embed(reference), rtol=0, atol=EXACT)
            assert all(isinstance(parameter, DTensor) for parameter in trained.task.parameters())
            torch.manual_seed(distributed.rank())
            after = trained.step()
            torch.manual_seed(distributed.rank())
            assert after == pytest.approx(reference.step(), abs=EXACT)
        assert_equal(trained.weights(), reference.weights())

    toys.on_ranks(evaluated, 2)


def test_blocks_and_embeddings_are_whole_only_while_they_run():
    def held() -> None:
        trained = Trained(make(OPEN_CLIP), shards=True)
        inner = trained.task.model.inner
        for _ in range(2):
            terms = trained.prepared(trained.batch)
            for module in (
                inner.transformer.resblocks[2],
                inner.visual.transformer.resblocks[0],
                inner.token_embedding,
            ):
                assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
            assert not isinstance(inner.logit_scale, DTensor)  # the losses of a cached step read it
            terms["loss"].backward()
            with torch.no_grad(), sharding.unsharded(trained.task):
                assert not any(isinstance(parameter, DTensor) for parameter in trained.task.parameters())

    toys.on_ranks(held, 2)


def test_an_average_of_sharded_weights_is_that_of_whole_ones():
    def averaged() -> None:
        reference, trained = Trained(make(OPEN_CLIP), shards=False), Trained(make(OPEN_CLIP), shards=True)
        expected, found = Ema(reference.task.model, 0.9), Ema(trained.task.model, 0.9)
        for step in range(1, 4):
            for run, average in ((reference, expected), (trained, found)):
                torch.manual_seed(distributed.rank())
                run.step()
                average.update(step)
        assert_equal({name: sharding.whole(value) for name, value in found.averages.items()}, expected.averages)

    toys.on_ranks(averaged, 2)


def embed(trained: Trained) -> Tensor:
    model, image = trained.task.model, trained.task.preprocess.normalise(trained.batch["image"].double() / 255)
    return torch.cat([model.encode_image(image), model.encode_text(trained.batch["text"])])


class Tied(nn.Module):
    """Two layers and an embedding that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.layers[2][0].weight = self.layers[0][0].weight
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        loss: Tensor = self.head(x).logsumexp(-1).mean()
        return loss


def test_tied_parameters_stay_tied():
    def tied() -> None:
        torch.manual_seed(0)
        alone, cut = Tied().double(), Tied().double()
        cut.load_state_dict(alone.state_dict())
        sharding.shard(cut)
        tokens = torch.arange(12).view(2, 6)
        alone(tokens).backward()
        cut(tokens[distributed.rank()]).backward()
        found = {name: sharding.whole(p.grad) for name, p in cut.named_parameters()}
        assert_equal(found, {name: p.grad for name, p in alone.named_parameters()})
        assert cut.head.weight is cut.embedding.weight

    toys.on_ranks(tied, 2)


def test_accelerate_casts_a_sharded_forward_pass_and_wraps_nothing():
    def casted() -> list[float]:
        losses = []
        for shards in (False, True):
            task, accelerator = make(OPEN_CLIP).float(), Accelerator(cpu=True, mixed_precision="bf16")
            sharding.checkpoint_blocks(task.model)
            if shards:
                sharding.shard(task)
            prepared = accelerator.prepare_model(task, evaluation_mode=shards)
            assert (prepared is task) == shards
            terms = prepared(own_rows(task))
            accelerator.backward(terms["loss"])
            assert {p.grad.dtype for p in task.parameters()} == {torch.float32}
            losses.append(terms["loss"].item())
            losses.append(float(sharding.whole(get_total_norm([p.grad for p in task.parameters()]))))
        return losses

    ddp_loss, ddp_norm, loss, norm = toys.on_ranks(casted, 2)[0]
    assert loss == ddp_loss
    assert norm == pytest.approx(ddp_norm, rel=1e-3)

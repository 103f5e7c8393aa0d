from collections.abc import Callable

import open_clip
import pytest
import timm
import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoModel, BertConfig, RobertaConfig, T5Config, T5EncoderModel

from contrastive.config import load
from contrastive.encoders.cnn import CNN
from contrastive.encoders.lstm import LSTM
from contrastive.errors import ConfigError
from contrastive.models.build import build
from contrastive.train import sharding
from contrastive.train.caching import CachedBackward, StepPlan
from contrastive.train.task import ContrastiveTask
from tests import toys
from tests.train.toys import batch, doubled

LAYERS = [
    "model.model_cfg.vision_cfg={image_size: 16, patch_size: 8, width: 32, layers: 2, head_width: 16}",
    "model.model_cfg.text_cfg={context_length: 12, width: 32, heads: 2, layers: 2}",
]
RESNET = ["model.model_cfg.vision_cfg={image_size: 32, layers: [2, 1, 1, 1], width: 8}"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def clip(name: str) -> nn.Module:
    config = open_clip.get_model_config(name)
    custom = config.pop("custom_text", False)
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(**config)


def count(model: nn.Module) -> dict[str, int]:
    names = [type(block).__name__ for block in sharding.blocks(model)]
    return {name: names.count(name) for name in sorted(set(names))}


def test_blocks_of_open_clip_towers_are_found():
    assert count(without_memory(lambda: clip("ViT-B-32"))) == {"ResidualAttentionBlock": 24}
    assert count(without_memory(lambda: clip("RN50"))) == {"Bottleneck": 16, "ResidualAttentionBlock": 12}
    assert count(without_memory(lambda: clip("coca_ViT-B-32"))) == {"ResidualAttentionBlock": 48}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch16_224", {"Block": 12}),
        ("convnext_tiny", {"ConvNeXtBlock": 18, "Sequential": 3}),  # between the stages, two layers that shrink
        ("resnet50", {"Bottleneck": 16}),
        ("swin_tiny_patch4_window7_224", {"SwinTransformerBlock": 12}),
    ],
)
def test_blocks_of_timm_towers_are_found(name: str, expected: dict[str, int]):
    assert count(without_memory(lambda: timm.create_model(name, num_classes=0))) == expected


@pytest.mark.parametrize(("config", "expected"), [(BertConfig, "BertLayer"), (RobertaConfig, "RobertaLayer")])
def test_blocks_of_transformers_towers_are_found(config: type, expected: str):
    assert count(without_memory(lambda: AutoModel.from_config(config(**SMALL)))) == {expected: 3}


def test_the_two_halves_of_a_t5_layer_stay_one_block():
    model = without_memory(lambda: T5EncoderModel(T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=2)))
    assert count(model) == {"T5Block": 3}


def test_blocks_of_our_own_towers_are_found():
    assert count(CNN(widths=(4, 8), depths=(2, 1))) == {"Block": 3}
    assert sharding.blocks(LSTM(20, 0, width=8)) == []


def test_what_occurs_once_or_has_no_layers_of_its_own_is_no_block():
    assert sharding.blocks(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))) == []
    assert sharding.blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == []


def test_no_block_lies_inside_another():
    found = sharding.blocks(without_memory(lambda: timm.create_model("convnext_tiny")))
    inside = {id(module) for block in found for module in list(block.modules())[1:]}
    assert not inside & {id(block) for block in found}


@pytest.mark.parametrize(
    ("name", "most"),
    [("ViT-B-32", 0.03), ("convnext_base_w", 0.01), ("roberta-ViT-B-32", 0.02), ("ViT-B-16-SigLIP", 0.05)],
)
def test_little_stays_whole_during_a_step(name: str, most: float):
    if name == "roberta-ViT-B-32":  # its text tower without the hub
        tower = without_memory(lambda: AutoModel.from_config(RobertaConfig()))
    else:
        tower = without_memory(lambda: clip(name))
    assert sharding.root_share(tower) < most


def trained(task: ContrastiveTask) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    loss = task(batch(8, task.preprocess.size))["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in task.named_parameters()}
    return {"loss": loss.detach(), **gradients, **dict(task.named_buffers())}


@pytest.mark.parametrize("overrides", [LAYERS, RESNET], ids=["ViT", "ResNet with batch norm"])
def test_checkpointed_blocks_give_the_same_gradients_and_statistics(overrides: list[str]):
    plain, checkpointed = doubled(*overrides), doubled(*overrides)
    sharding.checkpoint_blocks(checkpointed.model)
    expected, found = trained(plain), trained(checkpointed)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_checkpointed_blocks_are_repeated_as_they_ran_when_a_cached_step_keeps_their_graph():
    plain, cached = doubled(*RESNET), doubled(*RESNET)
    sharding.checkpoint_blocks(cached.model)
    share = batch(8, plain.preprocess.size)
    accelerator = Accelerator(cpu=True)
    CachedBackward(accelerator, plain, StepPlan(8, 4, 4))(share)
    CachedBackward(accelerator, cached, StepPlan(8, 4, 4))(share)
    for (name, expected), found in zip(plain.named_parameters(), cached.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad), name
    for (name, expected), found in zip(plain.named_buffers(), cached.buffers(), strict=True):
        assert torch.equal(found, expected), name


def test_checkpointed_blocks_draw_the_same_dropout_again():
    def make() -> ContrastiveTask:
        task = doubled(*LAYERS)
        for block in sharding.blocks(task.model):
            block.mlp.append(nn.Dropout(0.5))
        return task

    plain, checkpointed = make(), make()
    sharding.checkpoint_blocks(checkpointed.model)
    expected, found = trained(plain), trained(checkpointed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_checkpointed_blocks_keep_their_names_and_load_the_same_weights():
    task = doubled(*LAYERS)
    names, modules, state = dict(task.named_parameters()), dict(task.named_modules()), task.state_dict()
    sharding.checkpoint_blocks(task.model)
    assert list(dict(task.named_parameters())) == list(names)
    assert list(dict(task.named_modules())) == list(modules)
    assert list(task.state_dict()) == list(state)
    task.load_state_dict(state)


def test_checkpointed_blocks_save_the_memory_of_their_activations():
    def kept(task: ContrastiveTask) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            task(batch(8))
        return sum(sizes)

    plain, checkpointed = doubled(*LAYERS), doubled(*LAYERS)
    sharding.checkpoint_blocks(checkpointed.model)
    assert kept(checkpointed) < 0.7 * kept(plain)


def test_attention_is_repeated_by_the_kernel_of_the_first_time():
    """In bf16 on a CPU a task chooses one for its forward pass, which is over when blocks are repeated."""

    def run(*, checkpoints: bool) -> dict[str, torch.Tensor]:
        config = load([], [*toys.TINY_MODEL, *LAYERS])
        torch.manual_seed(0)
        built = build(config.model)
        if checkpoints:
            sharding.checkpoint_blocks(built.model)
        with torch.autocast("cpu", torch.bfloat16):
            return trained(ContrastiveTask(built.model, built.preprocess, config).train())

    expected, found = run(checkpoints=False), run(checkpoints=True)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_model_without_blocks_cannot_be_checkpointed():
    with pytest.raises(ConfigError) as caught:
        sharding.checkpoint_blocks(LSTM(20, 0, width=8))
    rule = "this model repeats no block whose activations could be recomputed; set it to false"
    assert str(caught.value) == f"train.gradient_checkpointing: {rule}"


def test_blocks_of_one_kind_share_their_compiled_code(monkeypatch: pytest.MonkeyPatch):
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward: compiler(forward, backend=backend))
    plain, compiled = doubled(*LAYERS), doubled(*LAYERS)
    sharding.compile_blocks(compiled.model)
    sharding.checkpoint_blocks(compiled.model)
    expected, found = trained(plain), trained(compiled)
    assert len(sharding.blocks(compiled.model)) == 4
    assert len(graphs) == 2  # one a tower
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)

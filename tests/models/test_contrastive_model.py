import math

import pytest
import torch

from contrastive.models.build import build
from contrastive.models.contrastive_model import ContrastiveModel, DualEncoder
from contrastive.settings import ModelConfig

CONFIG = ModelConfig(
    image={"name": "timm", "model": "test_convnext"},
    text={"name": "lstm", "width": 8},
    embed_dim=12,
    image_size=32,
    init_temperature=0.1,
)
TEXT = torch.tensor([[5, 3, 0], [2, 1, 4]])


def model(config: ModelConfig = CONFIG) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(config, vocab_size=10, context_length=3, pad_id=0)


def test_features_are_unit_vectors_in_one_space():
    found = model()(torch.randn(2, 3, 32, 32), TEXT)
    for name in ("image_features", "text_features"):
        assert found[name].shape == (2, 12)
        torch.testing.assert_close(found[name].norm(dim=-1), torch.ones(2))
    assert set(found) == {"image_features", "text_features", "logit_scale"}


def test_what_is_not_given_is_not_encoded():
    dual = model()
    assert set(dual(torch.randn(2, 3, 32, 32), None)) == {"image_features", "logit_scale"}
    assert set(dual(None, TEXT)) == {"text_features", "logit_scale"}


CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 3, "width": 32, "heads": 2, "layers": 1},
}
TIMM = {"image_size": 16, "timm_model_name": "test_vit", "timm_proj": "linear", "timm_pool": ""}
COCA = {
    "vision_cfg": {**CLIP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**CLIP["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 3, "width": 24, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize("more", [None, {}, {"custom_text": True}, {"vision_cfg": TIMM}, COCA])
def test_embed_dim_is_the_size_of_the_features(more: dict | None):
    built = build(CONFIG if more is None else ModelConfig(model_cfg={**CLIP, **more}))
    built.model.eval()
    found = built.model(torch.zeros(1, 3, *2 * [built.preprocess.size]), built.tokenizer(["a cat"]))
    assert found["image_features"].shape == found["text_features"].shape == (1, built.model.embed_dim)


@pytest.mark.parametrize("custom_text", [False, True])
def test_towers_and_logits_share_out_all_parameters_of_an_open_clip_model(custom_text: bool):
    cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
        "custom_text": custom_text,
    }
    assert_shared_out(build(ModelConfig(model_cfg=cfg, init_logit_bias=-1.0)).model)


def test_towers_and_logits_share_out_all_parameters_of_two_encoders():
    assert_shared_out(model())


def assert_shared_out(built: ContrastiveModel) -> None:
    """Each tower has exactly the parameters that its features depend on."""
    towers = {name: {id(p) for p in own} for name, own in built.towers().items()}
    logits = {id(p) for p in built.logit_parameters().values()}
    everything = [id(p) for p in built.parameters()]
    assert sorted([*towers["image"], *towers["text"], *logits]) == sorted(everything)
    size = 32 if isinstance(built, DualEncoder) else 16
    encoded = {"image": built.encode_image(torch.randn(2, 3, size, size)), "text": built.encode_text(TEXT)}
    for name, features in encoded.items():
        built.zero_grad(set_to_none=True)
        features.square().sum().backward()
        reached = {id(p) for p in built.parameters() if p.grad is not None}
        assert reached
        assert reached <= towers[name]


def test_logit_scale_is_the_log_of_one_over_the_temperature_and_has_a_dimension():
    scale = model().logit_scale
    assert scale.shape == (1,)
    assert math.isclose(scale.item(), math.log(1 / 0.1), rel_tol=1e-6)


def test_a_bias_is_learned_when_asked_for():
    import dataclasses

    biased = model(dataclasses.replace(CONFIG, init_logit_bias=-10.0))
    assert biased(torch.randn(2, 3, 32, 32), TEXT)["logit_bias"].tolist() == [-10.0]
    assert biased.logit_bias.requires_grad

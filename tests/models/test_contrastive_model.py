import math

import torch

from contrastive.config import ModelConfig
from contrastive.models.contrastive_model import DualEncoder

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


def test_logit_scale_is_the_log_of_one_over_the_temperature_and_has_a_dimension():
    scale = model().logit_scale
    assert scale.shape == (1,)
    assert math.isclose(scale.item(), math.log(1 / 0.1), rel_tol=1e-6)


def test_a_bias_is_learned_when_asked_for():
    import dataclasses

    biased = model(dataclasses.replace(CONFIG, init_logit_bias=-10.0))
    assert biased(torch.randn(2, 3, 32, 32), TEXT)["logit_bias"].tolist() == [-10.0]
    assert biased.logit_bias.requires_grad

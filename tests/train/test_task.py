import pytest
import torch
from torch import nn

from contrastive.config import load
from contrastive.errors import ConfigError
from contrastive.models.build import build
from contrastive.train.task import ContrastiveTask, check
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


BATCH = {
    "image": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8),
    "text": torch.randint(1, 400, (4, 12)),
    "seed": torch.arange(4),
}


def test_terms_are_weighted_and_named_after_their_loss():
    outside = f"losses={{pairs: {{name: infonce, weight: 0.5}}, other: {{name: '{__name__}:Constant', weight: 3.0}}}}"
    terms = task(outside)(BATCH)
    assert terms["other/loss"].item() == pytest.approx(2.0, rel=1e-5)  # unit vectors
    assert terms["other/ids"].item() == pytest.approx(BATCH["text"].float().mean().item())
    assert terms["loss"].item() == pytest.approx(0.5 * terms["pairs/loss"].item() + 3 * 2.0, rel=1e-5)
    assert set(terms) == {"loss", "pairs/loss", "pairs/accuracy", "other/loss", "other/ids"}


def test_a_losss_own_head_is_trained():
    module = task(f"losses={{other: {{name: '{__name__}:Constant'}}}}")
    module(BATCH)["loss"].backward()
    assert module.losses["other"].head.grad is not None


def test_one_infonce_is_the_default():
    assert set(task()(BATCH)) == {"loss", "contrastive/loss", "contrastive/accuracy"}


def test_pixels_are_scaled_augmented_by_seed_and_normalised_in_this_order():
    module = task(f"data.augment={{name: '{__name__}:Shift'}}", "model.preprocess={mean: [0.5,0.5,0.5], std: [2,2,2]}")
    expected = (BATCH["image"].float() / 255 + torch.arange(4.0)[:, None, None, None] - 0.5) / 2
    torch.testing.assert_close(module.pixels(BATCH), expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses={a: {name: infonse}}", "losses.a.name: 'infonse' is not one of infonce"),
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

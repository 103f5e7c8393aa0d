"""Our losses beside open_clip's, where those are right."""

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss

from contrastive import distributed
from contrastive.losses.infonce import InfoNCE
from contrastive.losses.sigmoid import Sigmoid
from tests import toys
from tests.losses.by_hand import copy, features, gradients


def pair(kind: str, count: int, **options: float) -> tuple[dict, dict]:
    bias = -10.0 if kind == "sigmoid" else None
    given = features(count, width=32, bias=bias, **options)
    return copy(given, torch.float32), copy(given, torch.float32)


def theirs(kind: str, given: dict, **options: object) -> torch.Tensor:
    scalars = [given["logit_scale"].exp(), *([given["logit_bias"]] if kind == "sigmoid" else [])]
    loss = SigLipLoss(**options) if kind == "sigmoid" else ClipLoss(**options)
    return loss(given["image_features"], given["text_features"], *scalars)


def ours(kind: str, given: dict) -> torch.Tensor:
    loss = Sigmoid(tile=(13, 17)) if kind == "sigmoid" else InfoNCE(tile=(13, 17))
    return loss(given, {"caption_id": torch.arange(len(given["image_features"])) + 100 * distributed.rank()})["loss"]


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_loss_and_gradients_are_those_of_open_clip(kind: str, scale: float):
    own, other = pair(kind, 64, scale=scale)
    found, expected = ours(kind, own), theirs(kind, other)
    torch.testing.assert_close(found, expected.reshape(()), rtol=1e-5, atol=1e-6)
    wanted = gradients(expected, other)
    for name, gradient in gradients(found, own).items():
        assert (gradient - wanted[name]).norm() <= 1e-5 * wanted[name].norm() + 1e-8, name


def on_two(kind: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    rank, world_size = distributed.rank(), distributed.world_size()
    own, other = pair(kind, 16, seed=rank)
    # Of ClipLoss's four combinations of flags these two give the gradient of the whole batch.
    flags = {} if kind == "sigmoid" else {"local_loss": True, "gather_with_grad": True}
    expected = gradients(theirs(kind, other, rank=rank, world_size=world_size, **flags), other)
    found = gradients(ours(kind, own), own)
    return {k: v.tolist() for k, v in found.items()}, {k: v.tolist() for k, v in expected.items()}


@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_on_two_processes_the_gradients_are_those_of_open_clips_exact_flags(kind: str):
    answers = toys.on_ranks(on_two, 2, kind)
    for found, expected in answers:
        for name in ("image_features", "text_features"):
            wanted = torch.tensor(expected[name])
            assert (torch.tensor(found[name]) - wanted).norm() <= 1e-5 * wanted.norm(), name
    for name in {"logit_scale", "logit_bias"} & set(answers[0][0]):  # each rank's part differs, the mean counts
        mean = [sum(torch.tensor(answer[side][name]) for answer in answers) / 2 for side in (0, 1)]
        assert (mean[0] - mean[1]).norm() <= 1e-5 * mean[1].norm(), name


def by_flags(local_loss: bool, gather_with_grad: bool) -> tuple[list[list[float]], list[list[float]]]:
    rank, world_size = distributed.rank(), distributed.world_size()
    own, other = pair("infonce", 16, seed=rank)
    flags = {"local_loss": local_loss, "gather_with_grad": gather_with_grad}
    expected = gradients(theirs("infonce", other, rank=rank, world_size=world_size, **flags), other)
    found = gradients(ours("infonce", own), own)
    return found["image_features"].tolist(), expected["image_features"].tolist()


@pytest.mark.parametrize(("local_loss", "least", "most"), [(False, 0.5, 0.5), (True, 0.3, 0.7)])
def test_open_clips_other_flags_give_another_gradient_than_the_whole_batch(local_loss: bool, least: float, most: float):
    """What docs/losses.md says of them: 1/W of it by default, another direction with `local_loss` alone."""
    for found, theirs_found in toys.on_ranks(by_flags, 2, local_loss, False):
        ours_, other = torch.tensor(found).flatten(), torch.tensor(theirs_found).flatten()
        assert least - 1e-4 <= float(other.norm() / ours_.norm()) <= most + 1e-4
        cosine = float(torch.nn.functional.cosine_similarity(other, ours_, dim=0))
        assert cosine < 0.995 if local_loss else cosine > 0.99999

from contextlib import nullcontext

import torch

from contrastive.train.culprits import culprits
from tests.train.toys import batch, doubled


def test_rows_whose_features_are_not_finite_are_found_and_nothing_is_drawn():
    task, whole = doubled("model.model_cfg.vision_cfg.patch_dropout=0.5"), batch(6)
    whole["text"][3] = 7
    with torch.no_grad():
        task.model.inner.token_embedding.weight[7] = float("nan")
    whole["text"][[0, 1, 2, 4, 5]] = whole["text"][[0, 1, 2, 4, 5]].clamp(min=8)
    state = torch.get_rng_state()
    assert culprits(task, whole, nullcontext()) == [3]
    assert torch.equal(torch.get_rng_state(), state)
    assert task.training


def test_where_all_features_are_finite_there_is_none():
    assert culprits(doubled(), batch(4), nullcontext()) == []

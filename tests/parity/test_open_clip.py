"""Our retrieval beside the metrics that open_clip's trainer prints, on pairs of one image and one text."""

import numpy as np
import pytest
import torch
from open_clip_train.train import get_clip_metrics
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.eval.retrieval import Retrieval
from tests.eval.toys import paired


def pairs(count: int, noise: float) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(count, 32, generator=draw)
    return normalize(images, dim=1), normalize(images + noise * torch.randn(count, 32, generator=draw), dim=1)


@pytest.mark.parametrize("noise", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("count", [11, 300])
def test_recalls_and_ranks_of_pairs_are_open_clips(count: int, noise: float):
    images, texts = pairs(count, noise)
    found = Retrieval()(paired(images, texts, [[index] for index in range(count)])).metrics
    expected = get_clip_metrics(images, texts, torch.tensor(100.0))
    for way in ("image_to_text", "text_to_image"):
        for k in (1, 5, 10):
            assert found[f"{way}_recall@{k}"] == pytest.approx(expected[f"{way}_R@{k}"], abs=1e-6)
        assert found[f"{way}_mean_rank"] == pytest.approx(expected[f"{way}_mean_rank"], abs=1e-6)
        assert np.floor(found[f"{way}_median_rank"]) == expected[f"{way}_median_rank"]  # theirs is rounded down

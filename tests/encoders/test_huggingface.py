from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from contrastive.encoders.huggingface import HuggingFaceText

TEXT = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 9, 3, 0, 0, 0]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_reads_real_tokens_alone(folder: Path, pooling: str):
    tower = HuggingFaceText(str(folder), pad_id=0, pooling=pooling).eval()
    pooled, tokens = tower(TEXT)
    assert tokens.shape == (2, 6, tower.width)
    for row, length in enumerate((4, 3)):
        alone = BertModel.from_pretrained(folder).eval()(TEXT[row : row + 1, :length]).last_hidden_state[0]
        expected = {"mean": alone.mean(0), "first": alone[0], "last": alone[-1]}[pooling]
        torch.testing.assert_close(pooled[row], expected, atol=1e-5, rtol=0)


def test_the_architecture_alone_has_fresh_weights(folder: Path):
    fresh = HuggingFaceText(str(folder), pad_id=0, pretrained=False, config={"num_hidden_layers": 2})
    assert len(fresh.trunk.encoder.layer) == 2

import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from tokenizers import Tokenizer as Fast
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from contrastive.errors import ModelError
from contrastive.modalities.text import Tokenizer, TokenizerSpec

TEXTS = ["a photo of a cat", "naïve café", "", "word " * 90]


def word_level(folder: Path) -> Path:
    inner = Fast(WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "cat": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_ids_are_open_clips_also_when_remembered():
    tokenizer = Tokenizer(TokenizerSpec(None, 20))
    expected = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
    for _ in range(2):
        assert torch.equal(tokenizer(TEXTS), expected)
    assert torch.equal(tokenizer([TEXTS[3], TEXTS[0], TEXTS[3]]), expected[[3, 0, 3]])
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (49408, 0)


def test_memory_is_bounded_and_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Tokenizer, "MEMORY", 3)
    tokenizer = Tokenizer(TokenizerSpec(None, 8))
    for start in range(6):
        texts = [f"thing {n}" for n in range(start, start + 3)]
        assert torch.equal(tokenizer(texts), open_clip.SimpleTokenizer(context_length=8)(texts))
        assert len(tokenizer._known) <= 3


def test_a_transformers_tokenizer_is_saved_with_the_checkpoint_and_read_back(tmp_path: Path):
    source = word_level(tmp_path / "source")
    tokenizer = Tokenizer(TokenizerSpec(str(source), 4))
    assert tokenizer(["a cat", "dog"]).tolist() == [[2, 3, 0, 0], [1, 0, 0, 0]]
    spec = tokenizer.save(tmp_path / "checkpoint")
    assert spec.name == "tokenizer"
    again = Tokenizer(TokenizerSpec(str(tmp_path / "checkpoint" / "tokenizer"), spec.context_length))
    assert torch.equal(again(["a cat", "dog"]), tokenizer(["a cat", "dog"]))
    assert (again.vocab_size, again.pad_id) == (4, 0)


def test_a_worker_builds_its_own():
    assert torch.equal(
        pickle.loads(pickle.dumps(Tokenizer(TokenizerSpec(None, 8))))(TEXTS), Tokenizer(TokenizerSpec(None, 8))(TEXTS)
    )


def test_a_tokenizer_that_cannot_be_had_is_named():
    with pytest.raises(ModelError, match="tokenizer 'no/such-tokenizer': cannot be loaded"):
        Tokenizer(TokenizerSpec("no/such-tokenizer"))

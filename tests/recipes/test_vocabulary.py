from open_clip.tokenizer import HFTokenizer
from transformers import AutoTokenizer

from contrastive.recipes.vocabulary import write_tokenizer

CAPTIONS = ["digit seven", "left-pointing arrow", "digit one"]


def test_transformers_loads_it_and_it_reads_back_what_it_was_given(tmp_path):
    size = write_tokenizer(tmp_path, CAPTIONS)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert len(tokenizer) == size == 4 + len({"digit", "seven", "left", "-", "pointing", "arrow", "one"})
    ids = tokenizer("Digit Seven")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[BOS]", "digit", "seven", "[EOS]"]


def test_open_clip_pads_and_cuts_it_with_the_end_token_as_the_largest_id(tmp_path):
    size = write_tokenizer(tmp_path, CAPTIONS)
    rows = HFTokenizer(str(tmp_path), context_length=5)(["digit one", "left-pointing arrow"])
    assert rows.shape == (2, 5)
    assert rows[0, 4] == 0
    assert rows.argmax(dim=1).tolist() == [3, 4]
    assert rows.max().item() == size - 1


def test_unknown_words_become_one_token(tmp_path):
    write_tokenizer(tmp_path, CAPTIONS)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer("digit π")["input_ids"])[2] == "[UNK]"


def test_neither_order_nor_repetition_of_the_captions_matters(tmp_path):
    write_tokenizer(tmp_path / "one", CAPTIONS)
    write_tokenizer(tmp_path / "two", [*reversed(CAPTIONS), *CAPTIONS])
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()

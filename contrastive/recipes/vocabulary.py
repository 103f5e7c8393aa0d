"""A word tokenizer made from a dataset's own captions, in the folder format of transformers.

A model trained from scratch on a small language wants one token a word: its sequences are several times shorter than
byte pairs learned on the web, and its table is hundreds of rows instead of 49,408 that the optimizer walks each step.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel

from contrastive.recipes.writing import write_json

PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[BOS]", "[EOS]"


def write_tokenizer(folder: Path, texts: Iterable[str]) -> int:
    """Write a tokenizer of the words and punctuation in `texts`, blind to case; return its vocabulary size.

    Hyphenated words are split. `transformers.AutoTokenizer` loads the folder without a network. Padding is id 0 and the
    end of text the largest id, where open_clip's text transformer looks for it.
    """
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in set(texts) for word, _ in splitter.pre_tokenize_str(text.lower())})
    vocabulary = {token: index for index, token in enumerate([PAD, UNKNOWN, *words, BEGIN, END])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
    ends = [(BEGIN, vocabulary[BEGIN]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=ends)
    tokenizer.add_special_tokens([PAD, UNKNOWN, BEGIN, END])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BEGIN, "eos_token": END}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    return len(vocabulary)

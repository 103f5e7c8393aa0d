"""A tokenizer as files that transformers reads offline."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn
from tokenizers import Regex, normalizers

from contrastive.modalities.text import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
OURS = {"<start_of_text>": START, "<end_of_text>": END}
MENDING = (
    "Our tokenizer mends captions with ftfy and html.unescape first, this one does not: do so yourself where "
    "they may need it (HTML entities, wrongly decoded text)."
)
PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^`{|}~]"""  # string.punctuation without _, which becomes a space
UNTIDY = "  A_b,\t C-d!  e "  # every way of cleaning changes it
OF_THE_LAST_CALL = (
    *("max_length", "stride", "truncation_strategy", "truncation_side", "pad_to_multiple_of", "pad_token_type_id"),
    *("is_local", "local_files_only"),
)


def tokenizer_refusal(tokenizer: Tokenizer) -> str | None:
    """Return None where transformers' own tokenizer gives our ids, else the key of our description, its value and why.

    What mends captions beforehand (ftfy, html) is not looked at: no tokenizer of transformers does it.
    """
    spec = tokenizer.spec
    for key, value in spec.options.items():
        if value and (spec.name is None or key in ("strip_sep_token", "tokenizer_mode")):
            where = "model.model_cfg.text_cfg.tokenizer_kwargs"
            return f"{where}.{key}: {value!r}: transformers' tokenizers have nothing like it"
    return None


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what `AutoTokenizer.from_pretrained(folder)` reads: our ids, at most `context_length`, where it truncates.

    CLIP's byte pairs pad with the end token, as OpenAI's own files say; behind the end nothing is read.
    """
    as_transformers(tokenizer).save_pretrained(folder)


def as_transformers(tokenizer: Tokenizer) -> Any:
    """Return the tokenizer of transformers that `write_tokenizer` saves."""
    theirs = _clip() if tokenizer.spec.name is None else _own(tokenizer)
    theirs.model_max_length = tokenizer.spec.context_length
    return theirs


def _clip() -> Any:
    """Return CLIP's byte pairs, from the vocabulary that open_clip comes with."""
    reference = SimpleTokenizer()
    vocabulary = {OURS.get(token, token): number for token, number in reference.encoder.items()}
    merges = sorted(reference.bpe_ranks, key=reference.bpe_ranks.get)
    return transformers.CLIPTokenizer(
        vocab=vocabulary, merges=merges, bos_token=START, eos_token=END, pad_token=END, unk_token=END
    )


def _own(tokenizer: Tokenizer) -> Any:
    """Return a tokenizer of transformers that cleans captions itself, as open_clip does before it asks it."""
    with TemporaryDirectory() as place:
        name = tokenizer.save(Path(place)).name or ""
        theirs = transformers.AutoTokenizer.from_pretrained(Path(place) / name, trust_remote_code=False)
    for key in OF_THE_LAST_CALL:
        theirs.init_kwargs.pop(key, None)
    backend = getattr(theirs, "backend_tokenizer", None)
    if backend is None:
        return theirs
    backend.no_truncation()
    backend.no_padding()
    clean = str(tokenizer.spec.options.get("clean", "whitespace"))
    if theirs(UNTIDY)["input_ids"] == theirs(get_clean_fn(clean)(UNTIDY))["input_ids"]:
        return theirs
    own = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([*_cleaning(clean), *own])
    # A class of its own would build its own normaliser when it is loaded; this one takes tokenizer.json as it is.
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side=theirs.padding_side,
        model_input_names=theirs.model_input_names,
        **theirs.special_tokens_map,
    )


def _cleaning(clean: str) -> list[Any]:
    """Return what open_clip's `clean` does to a plain caption.

    https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/tokenizer.py, `get_clean_fn`.
    """
    steps: list[Any] = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if clean != "whitespace":
        steps.insert(0, normalizers.Lowercase())
    if clean == "canonicalize":
        return [normalizers.Replace("_", " "), normalizers.Replace(Regex(PUNCTUATION), ""), *steps]
    return steps

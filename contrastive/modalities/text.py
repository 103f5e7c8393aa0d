"""Captions to token ids: CLIP's byte pairs, or any tokenizer of transformers through open_clip."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from contrastive.errors import ModelError, why_unread
from contrastive.modalities.clip_bpe import ClipTokenizer

REMOTE_CODE = "trust_remote_code"
PLACE = ("is_local", "local_files_only")  # what transformers 5 notes of how it found the files


@dataclass(frozen=True)
class TokenizerSpec:
    """What tokenises: CLIP's byte pairs when `name` is unset, else a transformers tokenizer (folder or hub id)."""

    name: str | None = None
    context_length: int = 77
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {"name": self.name, "context_length": self.context_length, "options": dict(self.options)}


class Tokenizer:
    """Calls a tokenizer and remembers what it has seen, since captions repeat."""

    MEMORY = 20_000  # captions; about 20 MB at 77 tokens

    def __init__(self, spec: TokenizerSpec) -> None:
        self.spec = spec
        self._encode = _build(spec)
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        """Return int64 [B, context_length]; longer texts are cut, and end with the end token."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > self.MEMORY:
            self._known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            rows = self._encode(new).unbind()
            self._known.update(zip(new, (row.clone() for row in rows), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["spec"])  # type: ignore[misc]  # a worker process builds its own

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        inner = getattr(self._encode, "tokenizer", None)
        return int(self._encode.vocab_size) if inner is None else len(inner)  # type: ignore[attr-defined]

    @property
    def pad_id(self) -> int:
        """The id that fills a short caption."""
        inner = getattr(self._encode, "tokenizer", None)
        return 0 if inner is None or inner.pad_token_id is None else int(inner.pad_token_id)

    def save(self, directory: Path) -> TokenizerSpec:
        """Write what is needed to build it again into `directory`, and return its spec relative to there."""
        if self.spec.name is None:
            return self.spec
        self._encode.save_pretrained(str(directory / "tokenizer"))  # type: ignore[attr-defined]
        forget_place(directory / "tokenizer")
        return TokenizerSpec("tokenizer", self.spec.context_length, self.spec.options)


def forget_place(folder: Path) -> None:
    """Take out of a saved tokenizer how it was found: the same tokenizer is the same files, with a hub and without."""
    path = folder / "tokenizer_config.json"
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in content.items() if key not in PLACE}
        path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _build(spec: TokenizerSpec) -> Callable[[list[str]], Tensor]:
    if spec.name is None and not spec.options:
        return ClipTokenizer(spec.context_length)
    if REMOTE_CODE in spec.options:  # checkpoints and open_clip folders bring options of their own
        raise ModelError(f"tokenizer {spec.name!r}: {REMOTE_CODE}: code that comes with a tokenizer is never run")
    given: dict[str, Any] = {"context_length": spec.context_length, **spec.options}
    try:
        if spec.name is None:
            tokenizer: Callable[[list[str]], Tensor] = SimpleTokenizer(**given)
        else:
            logging.getLogger("transformers").setLevel(logging.ERROR)
            given[REMOTE_CODE] = False  # left open, transformers asks the user on the terminal
            tokenizer = HFTokenizer(spec.name, **given)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise ModelError(f"tokenizer {spec.name!r}: cannot be loaded: {why_unread(error)}") from error
    return tokenizer

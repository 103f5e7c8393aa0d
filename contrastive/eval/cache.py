"""Features on disk: kept from one evaluation to the next, and written down while one is under way.

An entry is a folder, named by a digest of all that its features depend on. In it lie files of some rows with their ids
and a checksum: `whole.safetensors`, and before that parts, which any number of processes write. Each file is there
whole or not at all and says itself what it holds, so that nobody locks anything, and whoever is killed loses only what
was not written yet.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contrastive.files import replacing, write_whole
from contrastive.models.checkpoint import write_tensors

log = logging.getLogger("contrastive")
FORMAT = 1
WHOLE, PARTS, MANIFEST = "whole.safetensors", "part-*.safetensors", "manifest.json"
NAME = re.compile(r"[0-9a-f]{32}")  # of an entry: nothing else in the folder is ever deleted
STALE_SECONDS = 24 * 3600.0  # after which a file that was being written is nobody's any more


class Rows(NamedTuple):
    """Features and whose they are. No id stands twice."""

    ids: Tensor  # int64 [n]
    features: Tensor  # float32 [n, E], on the CPU

    @classmethod
    def joined(cls, parts: "list[Rows]") -> "Rows":
        """Return the rows of all parts, in their order."""
        parts = [part for part in parts if len(part.ids)]
        if not parts:
            return cls(torch.empty(0, dtype=torch.int64), torch.empty(0, 0))
        return cls(torch.cat([part.ids for part in parts]), torch.cat([part.features for part in parts]))

    def checksum(self, owner: str = "") -> bytes:
        """Return the SHA-256 of the rows, whose they are, and `owner`: 32 bytes."""
        digest = hashlib.sha256(owner.encode())
        for tensor in self:
            digest.update(tensor.contiguous().numpy().data)
        return digest.digest()


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder of entries, at most `max_bytes` of them; the least recently used go first.

    `identity` is a digest of weights, transform and tokenizer, `model` what people call them. What is embedded is
    written down every `flush_seconds`.
    """

    folder: Path
    identity: str
    max_bytes: int = 20 << 30
    model: str = ""
    flush_seconds: float = 30.0

    def entry(self, content: Any, about: Mapping[str, Any]) -> "Entry":
        """Return the entry of what JSON-like `content` describes completely; `about` is for people who look into it."""
        said = json.dumps([FORMAT, self.identity, content])
        name = hashlib.sha256(said.encode()).hexdigest()[:32]
        assert NAME.fullmatch(name), "or it would never be deleted"
        return Entry(self, name, {"format": FORMAT, "model": self.model, "identity": self.identity, **about})

    def make_room(self) -> None:
        """Delete the least recently used entries until the others stay within the bound."""
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                if NAME.fullmatch(path.name) and path.is_dir():
                    used = max((file.stat().st_mtime for file in path.iterdir()), default=0.0)
                    entries.append((used, sum(file.stat().st_size for file in path.iterdir()), path))
        held = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if held <= self.max_bytes:
                return
            shutil.rmtree(path, ignore_errors=True)  # who reads it has it in memory, who writes to it makes it again
            held -= size


@dataclass
class Entry:
    """The features of one list of images or texts by one model.

    Nothing here fails: a cache that cannot be read or written is warned of, and the features are computed.
    """

    cache: EmbeddingCache
    name: str
    about: dict[str, Any]
    is_off: bool = False  # it could not be written
    _pending: list[Rows] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.cache.folder / self.name

    def read(self) -> Rows:
        """Return all rows that any process has written down, and count the entry as used."""
        found: list[Rows] = []
        known = torch.empty(0, dtype=torch.int64)
        for path in [self.folder / WHOLE, *sorted(self.folder.glob(PARTS))]:
            rows = self._read(path)
            if rows is None:
                continue
            is_new = ~torch.isin(rows.ids, known)
            found.append(Rows(rows.ids[is_new], rows.features[is_new]))
            known = torch.cat([known, found[-1].ids])
        with contextlib.suppress(OSError):
            os.utime(self.folder / MANIFEST)
        self._flushed = time.monotonic()
        return Rows.joined(found)

    def add(self, ids: Tensor, features: Tensor) -> None:
        """Take in rows that were computed; they are written when it is time. Rows that are not finite are not kept."""
        good = features.isfinite().all(1)
        self._pending.append(Rows(ids[good], features[good]))
        if time.monotonic() - self._flushed >= self.cache.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write down what was taken in since the last time."""
        rows, self._pending = Rows.joined(self._pending), []
        if len(rows.ids):
            self._write(f"part-{uuid.uuid4().hex}.safetensors", rows)
        self._flushed = time.monotonic()

    def finish(self, rows: Rows | None) -> None:
        """Keep `rows`, all there are, as one file in the place of the parts; None where another process does that."""
        parts = list(self.folder.glob(PARTS)) if rows is not None else []
        is_whole = (self.folder / WHOLE).exists() and not parts
        if rows is not None and not is_whole:
            if 4 * rows.features.numel() > self.cache.max_bytes:
                size = f"{4 * rows.features.numel():,} bytes of features, more than its {self.cache.max_bytes:,}"
                log.warning("embedding cache %s: cannot keep %s", self.cache.folder, size)
                parts, self.is_off = [], True
            self._write(WHOLE, rows)
        if not self.is_off:
            self._tidy(parts)

    def _tidy(self, parts: list[Path]) -> None:
        with _warned(self.folder):
            for path in parts:
                path.unlink(missing_ok=True)
            for path in self.folder.glob(".*"):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink(missing_ok=True)
            self.cache.make_room()

    def _read(self, path: Path) -> Rows | None:
        try:
            content = load_file(str(path))
            rows = Rows(content["ids"], content["features"])
            if not torch.equal(content["sha256"], self._checksum(rows)):
                raise SafetensorError("its checksum does not fit")
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s); its rows are embedded again", path, error)
            return None
        except (SafetensorError, KeyError) as error:
            log.warning("%s is damaged (%s); its rows are embedded again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return rows

    def _write(self, name: str, rows: Rows) -> None:
        if self.is_off:
            return
        self.is_off = True
        with _warned(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            said = {**self.about, "rows": len(rows.ids), "width": rows.features.shape[1], "written": created}
            with replacing(self.folder / name) as file:
                content = {"ids": rows.ids.contiguous(), "features": rows.features.contiguous()}
                write_tensors(Path(file.name), {**content, "sha256": self._checksum(rows)})
            write_whole(self.folder / MANIFEST, json.dumps(said, indent=1) + "\n")
            self.is_off = False

    def _checksum(self, rows: Rows) -> Tensor:
        return torch.frombuffer(bytearray(rows.checksum(self.name)), dtype=torch.uint8)  # [32]


@contextlib.contextmanager
def _warned(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("embedding cache %s: cannot be written (%s); the evaluation goes on without", folder, error)

"""Reads sample number i, whatever the process: its bytes at the indexed offsets, its captions and its label."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from contrastive.data.captions import json_field, texts
from contrastive.data.pool import Found, Pool
from contrastive.data.storage import ReadError, Storage, is_remote
from contrastive.errors import DataError


class BadSampleError(DataError):
    """A sample that cannot be used: `reason` is one of few, to count by; the message says all."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.message


class Reader:
    """Random access to the samples of a pool.

    `damaged_shards` says whether bytes that cannot be read end the run, or spoil a sample for which another stands in.
    """

    def __init__(self, pool: Pool, storage: Storage, damaged_shards: Literal["fail", "substitute"] = "fail") -> None:
        self.pool, self.storage, self.damaged_shards = pool, storage, damaged_shards
        self.is_remote = any(is_remote(s.location) for manifest in pool.manifests for s in manifest.shards)

    @property
    def has_labels(self) -> bool:
        """Whether samples say what they show."""
        return self.pool.specs[0].label_key is not None

    def image(self, found: Found) -> bytes:
        """Return the encoded image of a sample.

        Raises:
            BadSampleError: its bytes cannot be read, and damaged shards do not end the run.
            DataError: its bytes cannot be read.
        """
        member = next(name for name in found.source.image if name in found.row.members)
        return self._read(found, member)

    def caption(self, found: Found, draw: float) -> str:
        """Return the caption of a sample; of several, the one that `draw` in [0, 1) picks.

        Raises:
            BadSampleError: all its captions are empty or missing.
            DataError: see `image`.
        """
        failures = []
        for key, inner in found.source.captions.drawn(draw, found.row.members):
            try:
                choices = texts(self._read(found, key.partition(".")[0]), key)
            except ValueError as error:
                failures.append(("caption: no such field", f"data.caption_key asks for {key}, and {error}"))
                continue
            if choices:
                return choices[int(inner * len(choices))]
            failures.append(("caption: empty", "its caption is empty; leave such samples out of the shards"))
        reason, rule = failures[0]
        raise BadSampleError(reason, f"{found.where}: {rule}")

    def label(self, found: Found) -> str:
        """Return what a sample shows, as text: the numbers 3 and 3.0 and the text "3" are one label.

        Raises:
            BadSampleError: the field of the JSON member is missing, or the value is no finite number and no text.
            DataError: see `image`.
        """
        assert found.source.label_key is not None, "the source has no label_key"
        member, _, field = found.source.label_key.partition(".")
        text = self._read(found, member).decode("utf-8", errors="backslashreplace")
        try:
            value = json_field(text, member, field) if field else text
        except ValueError as error:
            message = f"{found.where}: data.label_key asks for {found.source.label_key}, and {error}"
            raise BadSampleError("label: no such field", message) from None
        label = _label_text(value)
        if not label:
            rule = f"data.label_key asks for a number or a text, and this one has {str(value)[:60]!r}"
            raise BadSampleError("label: no value", f"{found.where}: {rule}")
        return label

    def probe(self, tries: int = 100) -> None:
        """Read a caption and a label of each source at the door, so that a wrong key stops the run before it starts.

        Raises:
            DataError: none of the first samples has one.
        """
        for start, end in zip(self.pool.starts[:-1].tolist(), self.pool.starts[1:].tolist(), strict=True):
            numbers = range(start, min(end, start + tries))
            _require_one(lambda found: self.caption(found, 0.0), map(self.pool.find, numbers))
            if self.has_labels:
                _require_one(self.label, map(self.pool.find, numbers))

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Begin to fetch samples that will be read soon; worth it where shards are remote."""
        for number in numbers:
            found = self.pool.find(number)
            spans = [found.row.members[name] for name in self._wanted(found)]
            first, last = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
            self.storage.prefetch(found.location, first, last - first, found.manifest.shards[found.row.shard].bytes)

    def members(self, number: int) -> dict[str, Any]:
        """Return a sample as webdataset yields it: `__key__`, `__url__`, and the bytes of every member by extension.

        Raises:
            DataError: see `image`.
        """
        found = self.pool.find(number)
        content = {name: self._read(found, name) for name in found.row.members}
        return {"__key__": found.row.key, "__url__": found.location, **content}

    def content(self, found: Found, member: str) -> bytes:
        """Return the bytes of one member of a sample; none where it has no such member.

        Raises:
            BadSampleError, DataError: see `image`.
        """
        return self._read(found, member) if member in found.row.members else b""

    def _wanted(self, found: Found) -> list[str]:
        image = next(name for name in found.source.image if name in found.row.members)
        return [image, *(name for name in found.source.captions.members if name in found.row.members)]

    def _read(self, found: Found, member: str) -> bytes:
        offset, size = found.row.members[member]
        shard = found.manifest.shards[found.row.shard]
        try:
            return self.storage.read(shard.location, offset, size, shard.bytes)
        except ReadError as error:
            if self.damaged_shards == "substitute":
                raise BadSampleError(f"shard: {error.reason}", f"{found.where}: {error}") from error
            rule = "mend it, or let other samples stand in with data.damaged_shards=substitute"
            raise DataError(f"{error} (sample {found.row.key} at byte {offset}); {rule}") from error


def _require_one(read: Callable[[Found], str], samples: Iterable[Found]) -> None:
    failures = []
    for found in samples:
        try:
            read(found)
        except BadSampleError as error:
            failures.append(error)
        else:
            return
    raise failures[0]


def _label_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None

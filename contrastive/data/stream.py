"""Reads sample number i, whatever the process: its bytes at the indexed offsets, its caption and its label."""

import json
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrastive.data.shards import Samples
from contrastive.errors import DataError


class Reader:
    """Random access to the samples of indexed shards; files are opened when first needed, once a process."""

    def __init__(self, samples: Samples, caption_key: str, label_key: str | None = None) -> None:
        self.samples = samples
        self.caption_field = caption_key.partition(".")[2]
        self.label_field = (label_key or "").partition(".")[2]
        self._files: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # file descriptors do not travel to workers

    def image(self, number: int) -> bytes:
        """Return the encoded image of sample `number`."""
        return self._read(number, self.samples.image[number])

    def caption(self, number: int, draw: float) -> str:
        """Return the caption of sample `number`; of several, the one that `draw` in [0, 1) picks.

        Raises:
            DataError: the caption is empty, or the field of the JSON member is missing or no text.
        """
        text = self._read(number, self.samples.caption[number]).decode("utf-8", errors="replace")
        choices = self._choices(number, text) if self.caption_field else [text]
        choices = [choice.strip() for choice in choices if isinstance(choice, str) and choice.strip()]
        if not choices:
            raise DataError(f"{self.where(number)}: its caption is empty; leave such samples out of the shards")
        return choices[int(draw * len(choices))]

    def label(self, number: int) -> str:
        """Return what sample `number` shows, as text: the numbers 3 and 3.0 and the text "3" are one label.

        Raises:
            DataError: the field of the JSON member is missing, or the value is no finite number and no text.
        """
        assert self.samples.label is not None, "the samples were indexed without a label_key"
        text = self._read(number, self.samples.label[number]).decode("utf-8", errors="backslashreplace")
        value = self._field(number, text, "data.label_key", self.label_field) if self.label_field else text
        label = _label_text(value)
        if not label:
            rule = f"data.label_key asks for a number or a text, and this one has {str(value)[:60]!r}"
            raise DataError(f"{self.where(number)}: {rule}")
        return label

    def probe(self, tries: int = 100) -> None:
        """Read a caption and a label at the door, so that a wrong key stops the run before it starts.

        Raises:
            DataError: none of the first samples has one.
        """
        self._probe(lambda number: self.caption(number, 0.0), tries)
        if self.samples.label is not None:
            self._probe(self.label, tries)

    def _probe(self, read: Callable[[int], str], tries: int) -> None:
        failures = []
        for number in range(min(tries, len(self.samples))):
            try:
                read(number)
            except DataError as error:
                failures.append(error)
            else:
                return
        raise failures[0]

    def where(self, number: int) -> str:
        """Return 'shard:key' of a sample, for messages."""
        return f"{self.samples.shards[self.samples.shard[number]]}:{self.samples.keys[number]}"

    def _choices(self, number: int, text: str) -> list[Any]:
        value = self._field(number, text, "data.caption_key", self.caption_field)
        return value if isinstance(value, list) else [value]

    def _field(self, number: int, text: str, setting: str, field: str) -> Any:
        try:
            return json.loads(text)[field]
        except (ValueError, KeyError, TypeError) as error:
            rule = f"{setting} asks for a JSON member with a field {field!r}, and this one has none"
            raise DataError(f"{self.where(number)}: {rule}") from error

    def _read(self, number: int, span: NDArray[np.int64]) -> bytes:
        shard = int(self.samples.shard[number])
        if shard not in self._files:
            try:
                self._files[shard] = os.open(self.samples.shards[shard], os.O_RDONLY)
            except OSError as error:
                raise DataError(f"{self.samples.shards[shard]}: cannot be opened any more: {error.strerror}") from error
        offset, size = int(span[0]), int(span[1])
        data = os.pread(self._files[shard], size, offset)
        if len(data) != size:
            raise DataError(f"{self.where(number)}: {len(data)} of {size} bytes; was the shard changed while training?")
        return data


def _label_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None

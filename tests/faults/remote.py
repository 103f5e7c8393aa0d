"""Shards behind the misbehaving server: what is served, and reads that must not hang."""

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive.data.storage import Storage, StorageOptions

CONTENT = random.Random(0).randbytes(2_000_000)
QUICK = StorageOptions(chunk_bytes=300_000, memory_bytes=1_500_000, retries=3, stall_seconds=0.4, backoff_seconds=0.01)


def storage(tmp_path: Path, mode: str, **options: Any) -> Storage:
    return Storage(replace(QUICK, cache=tmp_path / "cache" if mode == "cache" else None, **options))


def read(found: Storage, url: str, offset: int = 500_000, size: int = 700_000, seconds: float = 15) -> bytes:
    """Read in a thread: a test must not hang with the code."""
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(found.read(url, offset, size, len(CONTENT)))
        except Exception as error:  # noqa: BLE001  (handed over)
            answers.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, "the read hangs"
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]

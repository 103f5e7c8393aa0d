"""Checkpoints are copied to host memory at once and written in the background, one at a time."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger("contrastive")


class HostCopy:
    """Room in host memory for one checkpoint's tensors, kept from save to save: new memory costs more than copying."""

    def __init__(self) -> None:
        self._room: dict[str, Tensor] = {}
        self._event: torch.Event | None = None

    def take(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Return contiguous copies of `files`, by file and name, as they are now; the last ones are overwritten.

        From a GPU they are under way while the next step already begins; `wait` before reading them.
        """
        copies = {file: {name: self._copy(f"{file}/{name}", value) for name, value in tensors.items()}
                  for file, tensors in files.items()}  # fmt: skip
        devices = {value.device for tensors in files.values() for value in tensors.values()} - {torch.device("cpu")}
        for device in devices:
            self._event = torch.Event(device)
            self._event.record()
        return copies

    def wait(self) -> None:
        """Wait until the copies are there."""
        if self._event is not None:
            self._event.synchronize()

    def _copy(self, name: str, value: Tensor) -> Tensor:
        room = self._room.get(name)
        if room is None or room.shape != value.shape or room.dtype != value.dtype:
            room = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
            self._room[name] = room
        if value.device.type == "cpu" and value.is_contiguous():
            # The C library's copy is three times as fast as torch's, whose threads wait for each other.
            np.copyto(_bytes(room), _bytes(value.detach()))
            return room
        return room.copy_(value.detach(), non_blocking=True)


def _bytes(value: Tensor) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = value.reshape(-1).view(torch.uint8).numpy()
    return found


class Saver:
    """Runs one write at a time in a thread. `failures` counts those that failed since the last that did not."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self.failures = 0
        self.error: OSError | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Begin to `write`; an earlier write that is still under way is waited for."""
        self.settle()
        self._pending = self._thread.submit(write)

    def is_busy(self, patience: float) -> bool:
        """Whether a write is still under way after `patience` seconds."""
        if self._pending is not None:
            wait([self._pending], patience)
        return self._pending is not None and not self._pending.done()

    def settle(self) -> None:
        """Wait for the write that is under way. What the disk refused is told and counted, and not raised."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except OSError as error:
            self.failures += 1
            self.error = error
            log.warning("a checkpoint could not be written (%d in a row): %s; earlier ones are intact",
                        self.failures, error)  # fmt: skip
        else:
            self.failures, self.error = 0, None

    def close(self) -> None:
        """Wait for what is under way, and end the thread."""
        self.settle()
        self._thread.shutdown()

"""Ways to save and resume a training, behind one face: what `checkpoint.py` compares."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from checkpoint_training import Trained
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from contrastive.files import sync
from contrastive.train.checkpoints import Checkpoints
from contrastive.train.guard import Guard
from contrastive.train.keeper import Keeper, Told
from contrastive.train.state import TrainingState


class Way(Protocol):
    """A way to save. `save` returns when training may go on; times are those of time.perf_counter."""

    name: str

    @property
    def whole(self) -> float | None:
        """When the last save was whole, None as long as it is not."""

    @property
    def ended(self) -> float | None:
        """When all that it does in the background had ended, None as long as it has not."""

    def save(self, number: int) -> None:
        """Save under a number."""

    def settle(self) -> None:
        """Wait until the last save has ended."""

    def place(self) -> Path:
        """Return the file or folder of the last save."""

    def kept_bytes(self) -> int:
        """Return the host memory that is kept from save to save."""

    def resume(self) -> None:
        """Bring the last save back, as a run that goes on does."""

    def close(self) -> None:
        """Give up what is held."""


class _Ours:
    """`contrastive`'s keeper, put together as a launch does."""

    name = "ours"

    def __init__(self, folder: Path, held: Trained) -> None:
        self.held, self.checkpoints = held, _Timed(folder, held.config.train.keep_checkpoints)
        self.state = TrainingState(held.task, held.own, None)
        self.keeper = Keeper(
            self.checkpoints,
            self.state,
            held.built,
            held.accelerator,
            Guard(held.config.train),
            held.config.train,
            tell=lambda step: Told({"step": step}, {"step": step}),
            alive=lambda: None,
        )
        self.last = 0

    @property
    def whole(self) -> float | None:
        return self.checkpoints.whole.get(self.last)

    @property
    def ended(self) -> float | None:
        return self.checkpoints.ended.get(self.last)

    def save(self, number: int) -> None:
        self.last = number
        self.keeper.save(number)

    def settle(self) -> None:
        self.keeper.settle()

    def place(self) -> Path:
        return self.checkpoints.path(self.last)

    def kept_bytes(self) -> int:
        return sum(value.nbytes for file in self.state.tensors().values() for value in file.values())

    def resume(self) -> None:
        step, problems = Checkpoints(self.checkpoints.folder.parent, 2).newest()
        assert step == self.last, problems
        self.keeper.restore(step)

    def close(self) -> None:
        self.keeper.close()


class _Timed(Checkpoints):
    """Checkpoints that know, by step, when they were on disk, and when superseded ones had been removed."""

    def __init__(self, run: Path, keep: int | None) -> None:
        super().__init__(run, keep)
        self.whole: dict[int, float] = {}
        self.ended: dict[int, float] = {}

    def write(self, step: int, size: int, fill: Callable[[Path], None]) -> Path:
        try:
            path = super().write(step, size, fill)
        except OSError:
            self.ended[step] = time.perf_counter()  # nobody need wait for what has failed; settling says why
            raise
        self.whole[step] = time.perf_counter()
        return path

    def prune(self, best: Iterable[int] = ()) -> None:
        super().prune(best)
        self.ended[max(self.whole)] = time.perf_counter()


class _Peer:
    """What the peers share: one file or folder, written over and over."""

    def __init__(self, folder: Path, held: Trained) -> None:
        self.folder, self.held = folder, held
        self.ended: float | None = None
        folder.mkdir(parents=True)

    @property
    def whole(self) -> float | None:
        return self.ended

    def settle(self) -> None:
        pass

    def place(self) -> Path:
        return self.folder

    def kept_bytes(self) -> int:
        return 0

    def close(self) -> None:
        self.settle()


class _TorchSave(_Peer):
    """`torch.save` of weights and optimizer, as open_clip's trainer calls it; the training waits."""

    name, is_synced = "torch.save", False

    def save(self, number: int) -> None:
        held = self.held
        content = {
            "epoch": number,
            "name": "benchmark",
            "state_dict": held.task.state_dict(),
            "optimizer": held.own.state_dict(),
        }
        draft = self.folder / "tmp.pt"
        torch.save(content, draft)
        if self.is_synced:
            sync(draft)
        os.replace(draft, self.place())
        if self.is_synced:
            sync(self.folder)
        self.ended = time.perf_counter()

    def place(self) -> Path:
        return self.folder / "epoch_latest.pt"

    def resume(self) -> None:
        held = self.held
        content = torch.load(self.place(), map_location="cpu", weights_only=True)
        held.task.load_state_dict(content["state_dict"])
        held.own.load_state_dict(content["optimizer"])


class _TorchSaveSynced(_TorchSave):
    """The same, and the training waits until it is on disk."""

    name, is_synced = "torch.save + fsync", True


class _SaveState(_Peer):
    """`Accelerator.save_state` with its defaults (safetensors for the weights); the training waits."""

    name = "save_state"

    def save(self, number: int) -> None:  # noqa: ARG002
        self.held.accelerator.save_state(str(self.folder))
        self.ended = time.perf_counter()

    def resume(self) -> None:
        self.held.accelerator.load_state(str(self.folder))


class _AsyncSave(_Peer):
    """`async_save` of torch's distributed checkpointing in a thread, its copy in memory kept from save to save."""

    name = "dcp.async_save"

    def __init__(self, folder: Path, held: Trained) -> None:
        super().__init__(folder, held)
        on_gpu = held.accelerator.device.type == "cuda"
        self.stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        self.future: Future[Any] | None = None

    def save(self, number: int) -> None:  # noqa: ARG002
        self.settle()
        self.ended = None
        model, optimizer = get_state_dict(self.held.task, self.held.own)
        found = dcp.async_save(
            {"model": model, "optimizer": optimizer},
            checkpoint_id=str(self.folder),
            async_stager=self.stager,
            no_dist=True,
        )
        self.future = getattr(found, "upload_completion", found)  # type: ignore[assignment]
        assert self.future is not None
        self.future.add_done_callback(self._note)

    def _note(self, _: Future[Any]) -> None:
        self.ended = time.perf_counter()

    def settle(self) -> None:
        if self.future is not None:
            self.future.result()

    def kept_bytes(self) -> int:
        return self.held.size()

    def resume(self) -> None:
        model, optimizer = get_state_dict(self.held.task, self.held.own)
        dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=str(self.folder), no_dist=True)
        set_state_dict(self.held.task, self.held.own, model_state_dict=model, optim_state_dict=optimizer)

    def close(self) -> None:
        super().close()
        self.stager.close()


WAYS: tuple[type[Any], ...] = (_Ours, _TorchSave, _TorchSaveSynced, _SaveState, _AsyncSave)


def files_of(place: Path) -> list[Path]:
    """Return the files of a save."""
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def drop_from_memory(place: Path) -> None:
    """Have the kernel drop what it keeps of a save in memory, so that it is read from the disk."""
    for path in files_of(place):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not yet on disk stays
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

"""Saves a run and brings it back: the one place that knows what a checkpoint holds and when it is whole."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from contrastive import distributed
from contrastive.errors import RunError
from contrastive.hashing import mix
from contrastive.models.build import Built
from contrastive.models.checkpoint import describe, write_tensors
from contrastive.settings import TrainConfig
from contrastive.train.checkpoints import Checkpoints
from contrastive.train.guard import Guard
from contrastive.train.saver import Saver
from contrastive.train.state import FACTS, RANDOM, ShardedState, TrainingState, random_state, restore_random_state

log = logging.getLogger("contrastive")
Facts = dict[str, Any]
Write = Callable[[Path], None]
WAIT_SECONDS, TELL_SECONDS = 5.0, 60.0


@dataclass(frozen=True)
class Told:
    """What a checkpoint says in words: `info` of its model, and `facts` for whoever goes on."""

    info: Facts
    facts: Facts


class Keeper:
    """Every method is called by all ranks at the same step; rank 0 writes.

    `tell` says what belongs to a step; `alive` is called while ranks wait for the disk.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        state: TrainingState,
        built: Built,
        accelerator: Accelerator,
        guard: Guard,
        config: TrainConfig,
        *,
        tell: Callable[[int], Told],
        alive: Callable[[], None],
    ) -> None:
        self.checkpoints, self.state, self.built, self.accelerator = checkpoints, state, built, accelerator
        self.guard, self.config, self.tell, self.alive = guard, config, tell, alive
        self.saved: int | None = None  # the step of the last save that was begun
        self._saver = Saver()

    def save(self, step: int, *, wait: bool = False) -> None:
        """Begin to write the checkpoint of `step`, unless that was done, and `wait` for it if asked to.

        The step is held up while its tensors are copied to host memory, and while an earlier write is under way.

        Raises:
            RunError: too many in a row could not be written, or the one that is waited for could not.
        """
        self._wait()
        if step != self.saved:
            drawn = distributed.gather_objects((random_state(self.accelerator.device), self._saver.failures))
            if drawn[0][1] > self.config.max_failed_saves:
                raise RunError(
                    self._failure("in a row could not be written (train.max_failed_saves)", drawn[0][1])
                ).everywhere()
            self._begin(step, {f"{rank}/{k}": v for rank, (own, _) in enumerate(drawn) for k, v in own.items()})
            self.saved = step
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            RunError: it is not.
        """
        self._wait()
        if distributed.from_main(self._saver.failures):
            raise RunError(self._failure("could not be written", 1)).everywhere()

    def note_evaluation(self, step: int, value: float) -> None:
        """Keep the checkpoint of `step` if `value` of train.best_metric puts it among the best."""
        self._wait()
        if self.accelerator.is_main_process and self.checkpoints.path(step).is_dir():
            metric, count = str(self.config.best_metric), self.config.keep_best
            self.checkpoints.note_best(step, value, metric, count, highest=self.config.best_is == "highest")
            self.checkpoints.prune(self.checkpoints.best())

    def restore(self, step: int) -> None:
        """Take over the checkpoint of `step`, which is sound, with the random state of this rank.

        Raises:
            RunError: it is of another model.
        """
        folder = self.checkpoints.path(step)
        self.state.load(folder)
        facts = json.loads((folder / FACTS).read_text())
        self.guard.load_state_dict(facts["guard"])
        if self.accelerator.scaler is not None and facts["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        mine = f"{distributed.rank()}/"
        drawn = {k.removeprefix(mine): v for k, v in load_file(folder / RANDOM).items() if k.startswith(mine)}
        if drawn:
            restore_random_state(drawn, self.accelerator.device)
        else:  # there were fewer ranks: any stream of its own will do
            torch.manual_seed(int(mix("random state", step, distributed.rank()) >> np.uint64(1)))
        self.saved = step

    def set_back(self, before: int) -> int:
        """Take weights, optimizer and average of the newest sound checkpoint of a step before `before`; return it.

        Raises:
            RunError: there is none.
        """
        self._wait()
        step = distributed.on_main(lambda: self.checkpoints.newest(before)[0])
        if step is None:
            raise RunError("train.on_spike: rollback needs a checkpoint, and there is none yet; save more often")
        self.state.load(self.checkpoints.path(step))
        return step

    def close(self) -> None:
        """Let a write that is under way end."""
        self._saver.close()

    def _wait(self) -> None:
        """Wait for the write that is under way, all ranks together: none is silent for so long that it seems dead."""
        began = said = time.monotonic()
        while distributed.from_main(self._saver.is_busy(WAIT_SECONDS)):
            self.alive()
            if time.monotonic() - said > TELL_SECONDS and self.accelerator.is_main_process:
                said = time.monotonic()
                log.warning("still writing the checkpoint of step %s, for %.0f s", self.saved, said - began)
        self._saver.settle()

    def _begin(self, step: int, drawn: Mapping[str, Tensor]) -> None:
        copies, shards = self.state.copies(), self.state.shards()
        if self.accelerator.is_main_process:
            told, scaler = self.tell(step), self.accelerator.scaler
            facts = {
                **told.facts,
                "guard": self.guard.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            whole = partial(self._fill, copies={**copies, RANDOM: dict(drawn)}, info=told.info, facts=facts)
            self._saver.start(partial(self._write, step, self.state.size(), whole, shards))
        elif shards is not None:
            self._saver.start(partial(self._write_shards, step, shards))

    def _write(self, step: int, size: int, whole: Write, shards: Write | None) -> None:
        """Write a checkpoint; the others begin with their shards when its folder is there, and not if it never is."""
        self.state.wait()
        is_told = False

        def fill(folder: Path) -> None:
            nonlocal is_told
            whole(folder)
            if shards is not None:
                is_told = self._tell_writers(True)
                shards(folder)

        try:
            self.checkpoints.write(step, size, fill)
        except RunError as error:  # of a rank's shards
            raise OSError(str(error)) from error
        finally:
            if shards is not None and not is_told:
                self._tell_writers(False)
        self.checkpoints.prune(self.checkpoints.best())

    def _write_shards(self, step: int, shards: Write) -> None:
        if self._tell_writers(True):
            try:
                shards(self.checkpoints.draft(step))
            except RunError as error:
                raise OSError(str(error)) from error

    def _tell_writers(self, begins: bool) -> bool:
        """Return what rank 0 says, to those that write, about whether to begin."""
        assert isinstance(self.state, ShardedState), "only shards have several writers"
        return distributed.from_main(begins, self.state.group)

    def _fill(self, folder: Path, *, copies: dict[str, dict[str, Tensor]], info: Facts, facts: Facts) -> None:
        describe(folder, self.built, info)
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        for name, tensors in copies.items():
            write_tensors(folder / name, tensors)

    def _failure(self, what: str, count: int) -> str:
        many = f"{count} checkpoints" if count > 1 else "a checkpoint"
        return f"run.directory: {many} {what}: {distributed.from_main(str(self._saver.error))}"

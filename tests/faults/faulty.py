"""A training process with faults planted in it: `FAULT=point:rank:step:action[=value];…`, and else what a user starts.

Ranks and steps may be `*`, steps a range like `10-19`. A fault of one step happens once. Points: `start` (of the
process), `step` (before it is taken), `micro` (between the passes of a cached step), `before_write`, `after_model`,
`before_rename`, `after_rename`, `in_prune`, `eval` (each batch), `journal` (each record), `worker` (its start).
"""

import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


@dataclass
class Fault:
    point: str
    rank: str
    step: str
    action: str
    value: str
    is_done: bool = False

    @classmethod
    def parse(cls, text: str) -> "Fault":
        point, rank, step, what = text.split(":", 3)
        action, _, value = what.partition("=")
        assert action in ACTIONS, action
        return cls(point, rank, step, action, value)

    def is_due(self, point: str, step: int) -> bool:
        if self.is_done or point != self.point or self.rank not in ("*", os.environ.get("RANK", "0")):
            return False
        first, _, last = self.step.partition("-")
        return first == "*" or int(first) <= step <= int(last or first)


class Faults:
    """What goes wrong in this process. `step` is the one that is being taken."""

    def __init__(self, spec: str) -> None:
        self.planted = [Fault.parse(one) for one in spec.split(";") if one]
        self.step = 0
        self.training: Any = None
        self.images: Callable[[torch.Tensor], torch.Tensor] = lambda image: image
        self.hooks: list[Any] = []
        self.free: int | None = None

    def hit(self, point: str, step: int) -> None:
        for fault in self.planted:
            if fault.is_due(point, step):
                fault.is_done = fault.step.isdigit()
                ACTIONS[fault.action](self, fault.value)

    def begin(self, training: Any, number: int) -> None:
        self.step, self.training, self.images = number, training, lambda image: image
        while self.hooks:
            self.hooks.pop().remove()
        self.hit("step", number)


def _nan(faults: Faults, value: str) -> None:
    """Make the first sample of this rank's batch NaN."""

    def spoiled(image: torch.Tensor) -> torch.Tensor:
        image[0] = torch.nan
        return image

    faults.images = spoiled


def _scale(faults: Faults, value: str) -> None:
    faults.images = lambda image: image * float(value)


def _inf(faults: Faults, value: str) -> None:
    """Make this rank's gradient of the largest parameter infinite."""
    parameter = max(faults.training.task.parameters(), key=torch.numel)
    faults.hooks.append(parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf)))


def _limit(faults: Faults, value: str) -> None:
    """Let no file become larger, as a full disk does (Python ignores SIGXFSZ); `none` makes room again."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if value == "none" else int(value), hard))


def _free(faults: Faults, value: str) -> None:
    """Say that so many bytes of the disk are free."""
    faults.free = int(value)


def _unprivileged(faults: Faults, value: str) -> None:
    """Take from root what lets it write where it may not."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0


def _memory(faults: Faults, value: str) -> None:
    """Leave this process so many MiB more than it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(value) * 2**20,) * 2)


def _clock(faults: Faults, value: str) -> None:
    real = time.time
    time.time = lambda: real() + float(value)


def _refuse(faults: Faults, value: str) -> None:
    raise OSError(value)


def _remove(faults: Faults, value: str) -> None:
    path = Path(value)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


ACTIONS: dict[str, Callable[[Faults, str], None]] = {
    "kill": lambda faults, value: os.kill(os.getpid(), signal.SIGKILL),
    "kill_all": lambda faults, value: os.killpg(0, signal.SIGKILL),
    "signal": lambda faults, value: os.kill(os.getpid(), int(value)),
    "sleep": lambda faults, value: time.sleep(float(value)),
    "nan": _nan,
    "scale": _scale,
    "inf": _inf,
    "limit": _limit,
    "free": _free,
    "unprivileged": _unprivileged,
    "memory": _memory,
    "clock": _clock,
    "refuse": _refuse,
    "remove": _remove,
}


def install(faults: Faults) -> None:
    """Plant the faults in the package, in this process alone."""
    _in_steps(faults)
    _in_saves(faults)
    _elsewhere(faults)


def _before(owner: Any, name: str, then: Callable[..., None]) -> None:
    real = getattr(owner, name)

    def patched(*given: Any, **named: Any) -> Any:
        then(*given)
        return real(*given, **named)

    setattr(owner, name, patched)


def _in_steps(faults: Faults) -> None:
    from contrastive.train.caching import CachedBackward
    from contrastive.train.loop import Training
    from contrastive.train.task import ContrastiveTask

    def begin(training: Any, number: int, batch: Any, progress: Any) -> None:
        if path := os.environ.get("FAULT_IDS"):
            size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
            row = {"step": number, "size": size, "rank": rank, "ids": batch["index"].tolist()}
            with open(path, "a") as file:
                file.write(json.dumps(row) + "\n")
        faults.begin(training, number)

    def run(self: Any) -> None:
        trained(self)
        content = hashlib.sha256()
        for parameter in self.task.parameters():
            content.update(parameter.detach().numpy().tobytes())
        sys.stdout.write(f"rank {os.environ.get('RANK', '0')} ends with weights {content.hexdigest()}\n")
        sys.stdout.flush()

    trained, Training.run = Training.run, run  # type: ignore[method-assign]
    _before(Training, "_advance", begin)
    _before(CachedBackward, "_replay", lambda *given: faults.hit("micro", faults.step))
    augmented = ContrastiveTask.augmented
    ContrastiveTask.augmented = lambda self, batch: faults.images(augmented(self, batch))  # type: ignore[method-assign]


def _in_saves(faults: Faults) -> None:
    from contrastive.train import checkpoints, keeper

    def hit(point: str, folder: Path) -> None:
        faults.hit(point, int(folder.name.lstrip(".").split(".")[0].removeprefix("step-")))

    def after_a_file(path: Path, tensors: Any) -> None:
        write(path, tensors)
        if path.name == "model.safetensors":
            hit("after_model", path.parent)

    def after_sealing(folder: Path) -> None:
        seal(folder)
        hit("before_rename", folder)

    def after_writing(self: Any, step: int, *rest: Any) -> Any:
        found = written(self, step, *rest)
        faults.hit("after_rename", step)
        return found

    def prune(folder: Path, **options: Any) -> None:
        if folder.name.endswith(".removing") and folder.exists():
            if files := sorted(path for path in folder.iterdir() if path.is_file()):
                files[0].unlink()
            hit("in_prune", folder)
        shutil.rmtree(folder, **options)

    def usage(path: Path) -> Any:
        found = shutil.disk_usage(path)
        return found if faults.free is None else found._replace(free=faults.free)

    write, keeper.write_tensors = keeper.write_tensors, after_a_file  # type: ignore[attr-defined]
    seal, checkpoints.seal = checkpoints.seal, after_sealing
    written, checkpoints.Checkpoints.write = checkpoints.Checkpoints.write, after_writing  # type: ignore[method-assign,assignment]
    checkpoints.shutil = SimpleNamespace(rmtree=prune, disk_usage=usage)  # type: ignore[attr-defined,assignment]
    _before(keeper.Keeper, "_fill", lambda self, folder: hit("before_write", folder))


def _elsewhere(faults: Faults) -> None:
    from contrastive.data import loader
    from contrastive.runs import launch
    from contrastive.runs.hooks import RunHooks
    from contrastive.tracking.journal import Journal

    # Drawing the report takes as long as training.
    setattr(launch, "write_report", lambda directory: directory / "report.html")  # noqa: B010
    _before(loader, "_begin", lambda number: faults.hit("worker", number))
    _before(RunHooks, "_pulse", lambda *given: faults.hit("eval", faults.step))
    _before(Journal, "write", lambda self, row, numbers: faults.hit("journal", row["step"]))


def main(arguments: list[str]) -> int:
    """Be `pretrain.py` with the faults of the environment; return its status."""
    if folder := os.environ.get("FAULT_PIDS"):
        (Path(folder) / f"pid.{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
    faults = Faults(os.environ.get("FAULT", ""))
    install(faults)
    faults.hit("start", 0)
    from contrastive.cli import pretrain

    return pretrain(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main(sys.argv[1:]))

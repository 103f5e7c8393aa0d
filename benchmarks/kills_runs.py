"""The runs that `kills.py` starts, kills and compares."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image
from safetensors.torch import load_file
from trainers import ROOT, BenchmarkError

LAUNCH = ROOT / "configs/launch/cpu2.yaml"
GLYPHS = ROOT / "configs/glyphs.yaml"
TENSORS = ("model", "training", "ema", "random")
GLYPHS_BATCH, GLYPHS_STEPS = 128, 375
TINY: dict[str, Any] = {
    "model": {
        "model_cfg": {
            "embed_dim": 16,
            # Dropout, so that the random states matter.
            "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 32, "layers": 2, "head_width": 16}
            | {"patch_dropout": 0.25},
            "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
        }
    },
    "data": {"global_batch_size": 8, "workers": 1},
    "train": {"total_samples": 720, "save_every_steps": 7, "ema_decay": 0.99, "precision": "fp32", "threads": 1},
    "tracking": {"log_every_steps": 1, "tensorboard": False},
}


@dataclass(frozen=True)
class Course:
    """What is trained, in `folder`: arguments of `pretrain.py` but for the directory, and what is known of the run."""

    folder: Path
    configuration: tuple[str, ...]
    processes: int
    steps: int
    evaluates_every: int | None
    timeout_seconds: float

    def command(self, run: Path) -> list[str]:
        """Return what trains into `run`, and goes on there."""
        launch = [sys.executable]
        if self.processes > 1:
            launch += ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCH), "--main_process_port", "0"]
            launch += ["--num_processes", str(self.processes)]
        own = (f"run.directory={run}", f"train.world_size={self.processes}")
        return [*launch, str(ROOT / "pretrain.py"), *self.configuration, *own]


def glyphs(folder: Path, processes: int, timeout_seconds: float) -> Course:
    """Return the built-in run, a quarter as long, with frequent saves, a moving average and the cheapest evaluation.

    Raises:
        BenchmarkError: its data have not been made.
    """
    if not (ROOT / "data/glyphs/train").is_dir():
        raise BenchmarkError("data/glyphs is missing: make it by .venv/bin/python data_recipes/glyphs.py")
    overrides = (
        f"train.total_samples={GLYPHS_BATCH * GLYPHS_STEPS}",
        f"data.global_batch_size={GLYPHS_BATCH}",
        "train.save_every_steps=20",
        "train.ema_decay=0.999",
        "eval.datasets=[configs/eval/digits.yaml]",
        "eval.every_steps=100",
        "tracking.log_every_steps=5",
        "tracking.tensorboard=false",
    )
    return Course(folder, (str(GLYPHS), *overrides), processes, GLYPHS_STEPS, 100, timeout_seconds)


def tiny(folder: Path, processes: int, timeout_seconds: float) -> Course:
    """Return a run of seconds on pictures of noise, which are made here."""
    random = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(32 * shard, 32 * shard + 32):
                picture = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(picture, "PNG")
                for suffix, content in (("png", picture.getvalue()), ("txt", f"picture number {number}".encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    data = {**TINY["data"], "train": str(folder / "{0..1}.tar")}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, "data": data}))
    steps = TINY["train"]["total_samples"] // data["global_batch_size"]
    return Course(folder, (str(file),), processes, steps, None, timeout_seconds)


class Launched:
    """A launch of a run, whose processes are gone when the block is left."""

    def __init__(self, course: Course, run: Path) -> None:
        self.course, self.log = course, run.with_name(f"{run.name}.log")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        environment.pop("OMP_NUM_THREADS", None)  # train.threads, or a process's share of the cores
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                course.command(run), cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> "Launched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def ends_within(self, seconds: float) -> bool:
        """Whether the launch ends by itself in this time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            BenchmarkError: it failed, or took too long.
        """
        limit = self.course.timeout_seconds
        if not self.ends_within(limit):
            raise BenchmarkError(f"{self.log}: no end after {limit:.0f} s (--timeout); {self._last_lines()}")
        if self._process.returncode:
            raise BenchmarkError(f"{self.log}: status {self._process.returncode}; {self._last_lines()}")

    def kill(self) -> None:
        """End the launcher and all its ranks and workers by SIGKILL, and wait until they are gone.

        Raises:
            BenchmarkError: some are still there.
        """
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGSTOP)  # so that it starts no more ranks, and ends none in an orderly way
        others = psutil.Process(self._process.pid).children(recursive=True)
        for process in others:
            process.kill()
        self._process.kill()
        self._process.wait()
        if left := psutil.wait_procs(others, timeout=30)[1]:
            raise BenchmarkError(f"{self.log}: processes {[one.pid for one in left]} survive SIGKILL")

    def _last_lines(self) -> str:
        return "its last lines:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def records(run: Path) -> list[dict[str, Any]]:
    """Return what a run has written down; a kill may have cut the last line."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def steps_done(run: Path) -> int:
    """Return the last step that was logged, 0 before the first."""
    return max((int(row["step"]) for row in records(run) if row["kind"] == "train"), default=0)


def newest(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")), default=0)


def stage(course: Course, run: Path, launched: float) -> str:
    """Return what a run that was launched at a time (of time.time) did when it was killed, by what it has left."""
    metrics, rows = run / "metrics.jsonl", records(run)
    if not rows or rows[-1]["kind"] == "resume" or metrics.stat().st_mtime < launched:
        return "starting"
    if (run / "finished.json").is_file():
        return "ending"
    step, every = steps_done(run), course.evaluates_every
    evaluated = {row["step"] for row in rows if row["kind"] == "eval"}
    is_due = every is not None and step > 0 and (step % every == 0 or step == course.steps)
    doing = "evaluating" if is_due and step not in evaluated else "training"
    return f"{doing}, saving" if any(run.glob("checkpoints/.step-*.writing")) else doing


def digest(course: Course, run: Path) -> dict[str, str]:
    """Return SHA-256 of what a run ended with, by part: tensors by file, position in the data, evaluation.

    Raises:
        BenchmarkError: it did not end with its last step, or ran on another number of processes.
    """
    folder = run / "checkpoints" / f"step-{course.steps:08d}"
    if not folder.is_dir():
        raise BenchmarkError(f"{run}: ended without a checkpoint of step {course.steps}")
    facts = json.loads((folder / "training.json").read_text())
    if facts["world_size"] != course.processes:
        raise BenchmarkError(f"{run}: ran on {facts['world_size']} processes, not {course.processes}")
    found = {name: _tensors(folder / f"{name}.safetensors") for name in TENSORS}
    position = {name: facts[name] for name in ("step", "samples_seen", "data", "guard")}
    found["position"] = hashlib.sha256(json.dumps(position, sort_keys=True).encode()).hexdigest()
    if course.evaluates_every is not None:
        results = [result["metrics"] for result in json.loads((run / "evaluation.json").read_text())]
        found["evaluation"] = hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()
    return found


def _tensors(path: Path) -> str:
    """Return SHA-256 over the names, types, shapes and bytes of a file's tensors."""
    content = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        content.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        content.update(value.contiguous().view(-1).numpy().tobytes())
    return content.hexdigest()

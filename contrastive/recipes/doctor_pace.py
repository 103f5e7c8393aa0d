"""How long a run takes as far as its data go, what it needs of the machine, and what limits."""

import math
from dataclasses import dataclass

from contrastive.data.loader import SHARED
from contrastive.recipes.doctor import Finding, RunFacts, gigabytes

SLACK = 0.02  # of the speed: closer than the clock can tell
ADAMW = 3  # tensors of the size of the weights that a checkpoint holds: they, and two averages
BYTES = 4  # of a number in a checkpoint: weights and averages are float32
ROOM = 1.1  # of the files' sizes; see `contrastive.train.checkpoints`
HOUR = 3600.0


@dataclass(frozen=True)
class Pace:
    """Samples per second of a run. `loader` is what one rank's workers were measured to deliver, if they were."""

    per_core: float
    cores: int
    run: RunFacts
    epoch_samples: int
    loader: float | None = None
    step_seconds: float | None = None  # of the model alone, as it was measured somewhere

    @property
    def per_worker(self) -> float:
        """What one loader process delivers."""
        return self.per_core if self.loader is None else self.loader / self.run.workers

    @property
    def data(self) -> float:
        """What all loaders deliver together, no more than the cores can prepare."""
        readers = self.run.ranks * max(1, self.run.workers)
        return min(readers * self.per_worker, max(self.cores, 1) * max(self.per_core, self.per_worker))

    @property
    def model(self) -> float | None:
        """What the model takes, where its step time is known."""
        return None if self.step_seconds is None else self.run.global_batch_size / self.step_seconds

    @property
    def samples_per_second(self) -> float:
        """The speed of the run: the slower of data and model; without workers they take turns."""
        if self.model is None:
            return self.data
        if self.run.workers == 0:
            return 1 / (1 / self.data + 1 / self.model)
        return min(self.data, self.model)

    @property
    def steps(self) -> int:
        """How many steps the run has; the last one is whole."""
        return math.ceil(self.run.total_samples / self.run.global_batch_size)

    @property
    def epoch_hours(self) -> float:
        """Hours of an epoch."""
        return self.epoch_samples / self.samples_per_second / HOUR

    @property
    def run_hours(self) -> float:
        """Hours of all steps."""
        return self.steps * self.run.global_batch_size / self.samples_per_second / HOUR

    @property
    def workers_needed(self) -> int | None:
        """Loader processes of each rank that keep the model busy; None where its step time is unknown."""
        return None if self.model is None else math.ceil(self.model / self.per_worker / self.run.ranks)

    @property
    def is_data_limiting(self) -> bool:
        """Whether a faster loader makes a faster run; assumed where the model's step time is unknown."""
        return self.model is None or self.samples_per_second < (1 - SLACK) * self.model


def of_pace(pace: Pace, advice: str) -> list[Finding]:
    """Return whether the model waits for its data; `advice` says which stage of the loader limits."""
    needed, model = pace.workers_needed, pace.model
    if model is None or needed is None or not pace.is_data_limiting:
        return []
    share = 1 - pace.samples_per_second / model
    hours = pace.run_hours * share
    what = f"the data limit: {pace.data:,.0f} samples/s of {model:,.0f} that the model takes"
    gain = f"the model waits {share:.0%} of the time, {shown_hours(hours)} of the run"
    cores = needed * pace.run.ranks
    fix = f"data.workers={needed}"
    if cores > pace.cores:
        most = max(1, pace.cores // pace.run.ranks)
        fix = f"{cores} cores are needed and {pace.cores} are here: data.workers={most}, and less work: {advice}"
    return [Finding("wastes", share, what, gain, fix)]


@dataclass(frozen=True)
class Memory:
    """Bytes of host memory; None where nobody knows."""

    batch: int  # of a rank's images in shared memory
    slots: int  # batches that the loader would like to keep there
    shared_free: float | None = None
    worker: float | None = None  # of one loader process for itself
    available: float | None = None

    def wanted(self, run: RunFacts) -> float:
        """Return what the loaders of all ranks take together."""
        own = (self.worker or 0.0) * run.ranks * run.workers
        return own + (self.batch * self.slots * run.ranks if run.workers else 0)


def of_memory(memory: Memory, run: RunFacts) -> list[Finding]:
    """Return whether the loaders' memory is too small."""
    found = []
    if run.workers and memory.shared_free is not None:
        slots = int(memory.shared_free // max(1, memory.batch * run.ranks))
        if slots < memory.slots:
            want = memory.batch * run.ranks * memory.slots
            what = f"{SHARED} has {gigabytes(memory.shared_free)} free, and batches want {gigabytes(want)}"
            fix = (
                f"docker run --shm-size={math.ceil(want / 2**30)}g or a remount, fewer samples a batch, data.workers=0"
            )
            if slots < 2:
                found.append(Finding("stops the run", 1.0, what, "there is no room for two batches", fix))
            else:
                gain = f"only {slots - 1} batches are prepared ahead, not {memory.slots - 1}: slow reads are not hidden"
                found.append(Finding("wastes", 1 - slots / memory.slots, what, gain, fix))
    wanted = memory.wanted(run)
    if memory.available is not None and wanted > memory.available:
        what = f"loader processes need about {gigabytes(wanted)} of memory and {gigabytes(memory.available)} are free"
        fix = f"data.workers={max(1, int(run.workers * memory.available / wanted))}, or a smaller data.memory_gigabytes"
        found.append(Finding("stops the run", 1.0, what, "the system ends processes that ask for more", fix))
    return found


@dataclass(frozen=True)
class Disk:
    """Checkpoints and where they go."""

    parameters: int
    kept: int | None  # newest checkpoints that stay; None for all
    best: int  # more that stay
    saves: int  # that the run writes in all
    has_average: bool  # of the weights
    free: float  # bytes
    folder: str

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint."""
        return self.parameters * BYTES * (ADAMW + self.has_average)

    @property
    def count(self) -> int:
        """How many there are at once: those that stay, and the one that is being written."""
        return self.saves if self.kept is None else min(self.saves, self.kept + self.best + 1)

    @property
    def needed(self) -> float:
        """Bytes that all of them take."""
        return self.count * self.checkpoint * ROOM


def of_disk(disk: Disk) -> list[Finding]:
    """Return whether checkpoints fill the disk."""
    if disk.needed <= disk.free:
        return []
    what = f"{disk.count} checkpoints of {gigabytes(disk.checkpoint)} need {gigabytes(disk.needed)} and "
    what += f"{gigabytes(disk.free)} are free at {disk.folder}"
    fix = "free some space, name another run.directory, or "
    fix += "set train.keep_checkpoints=2" if disk.kept is None else "a smaller train.keep_best or keep_checkpoints"
    return [Finding("stops the run", 1.0, what, "a run ends when it cannot save", fix)]


@dataclass(frozen=True)
class Download:
    """What a run fetches of shards behind a network; `kept` bytes fit into data.cache, 0 without one."""

    shards: float
    kept: float
    epochs: float

    @property
    def bytes(self) -> float:
        """What is fetched in all: with a cache that holds everything once, else in every epoch."""
        again = max(0.0, self.epochs - 1)
        return self.shards * min(1.0, self.epochs) + max(0.0, self.shards - self.kept) * again


def of_download(download: Download) -> list[Finding]:
    """Return what a cache would save."""
    least = Download(download.shards, download.shards, download.epochs)
    saved = download.bytes - least.bytes
    if saved <= 0.01 * max(1.0, download.bytes):
        return []
    what = f"{gigabytes(download.bytes)} are fetched over {download.epochs:.1f} epochs of {gigabytes(download.shards)}"
    fix = f"data.cache=FOLDER data.cache_gigabytes={math.ceil(download.shards / 1e9 * 1.05)}"
    return [Finding("note", saved / download.bytes, what, f"a cache saves {gigabytes(saved)}", fix)]


def shown_hours(hours: float) -> str:
    """Return hours as a person reads them: in days, hours, minutes or seconds."""
    for size, name, least in ((24.0, "days", 48.0), (1.0, "h", 1.0), (1 / 60, "min", 1 / 60)):
        if hours >= least:
            return f"{hours / size:,.1f} {name}"
    return f"{hours * HOUR:,.1f} s"

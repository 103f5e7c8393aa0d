"""Where a launch begins: at the first step, or at the newest sound checkpoint of the run that its directory holds."""

import json
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from contrastive import distributed
from contrastive.data.pool import Pool
from contrastive.data.state import StreamState
from contrastive.errors import DataError, ModelError, RunError
from contrastive.models.build import Built, build
from contrastive.models.checkpoint import restore
from contrastive.settings import Config
from contrastive.train.checkpoints import Checkpoints
from contrastive.train.resume import Change
from contrastive.train.state import FACTS

log = logging.getLogger("contrastive")
DAMAGED = "nothing was changed; bring one back from a copy, or begin anew in another run.directory"
PATIENCE_SECONDS = 60.0  # so long NFS may remember that a file was not there


@dataclass(frozen=True)
class Start:
    """The position at which a launch begins, the same on all ranks; `facts` are those of the checkpoint, if any."""

    step: int = 0
    samples_seen: int = 0
    consumed: int = 0  # positions of the order of data
    goes_on: bool = False  # the directory held a run already
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What earlier launches took."""
        return float(self.facts.get("seconds", 0.0))


def find_start(config: Config, data: StreamState, checkpoints: Checkpoints, changed: Sequence[Change]) -> Start:
    """Return where to begin; every rank asks. `data` is where this run's stream would begin anew.

    Raises:
        RunError: all checkpoints are damaged, a rank does not see them, or there should be one and is none.
        DataError: the order of the data is another one.
    """
    start = distributed.on_main(lambda: _newest(config, data, checkpoints, changed))
    if start.step:
        require_shared(checkpoints.path(start.step))
    return start


def _newest(config: Config, data: StreamState, checkpoints: Checkpoints, changed: Sequence[Change]) -> Start:
    directory = config.run.directory
    goes_on = (Path(directory) / "config.yaml").is_file()
    checkpoints.clean()
    step, problems = checkpoints.newest()
    for problem in problems:
        log.warning("skipped: %s", problem)
    if step is None and problems:
        raise RunError(f"run.directory: every checkpoint of {directory} is damaged ({problems[0]}); {DAMAGED}")
    if step is None:
        if config.run.resume == "must":
            raise RunError(f"run.resume: must, and {directory} holds no checkpoint to go on with")
        if goes_on:
            log.warning("%s: no checkpoint was ever written; the run begins again at its first step", directory)
        return Start(goes_on=goes_on)
    try:
        facts = json.loads((checkpoints.path(step) / FACTS).read_text())
    except (OSError, ValueError) as error:
        rule = "it was not written by this version; begin anew in another run.directory"
        raise RunError(f"{checkpoints.path(step)}: holds no state of a training; {rule}") from error
    return Start(step, int(facts["samples_seen"]), _consumed(config, data, facts, changed), True, facts)


def _consumed(config: Config, data: StreamState, facts: dict[str, Any], changed: Sequence[Change]) -> int:
    """Return how far the data were read; where other data are accepted, a new pass begins."""
    accepted = config.run.accept_changes
    others = [c.key for c in changed if c.meaning == "fixed" and (c.key.startswith("data.") or c.key == "train.seed")]
    restarts = "data" in accepted or any(key != "data.global_batch_size" for key in others)
    try:
        saved = StreamState.from_dict(facts["data"])
        return data.resumed_from(saved, "restart" if restarts else "refuse").consumed
    except DataError as error:
        raise DataError(f"{error}: run.accept_changes=[data]") from error


def untrained(config: Config, begun: Built | None) -> Built:
    """Return the model of a run before what its checkpoints hold is read: built, or `begun` from model.checkpoint.

    Of a run that goes on, its newest readable checkpoint describes it: what it began with may be gone by now, or be
    another model.

    Raises:
        RunError: no checkpoint of the run can be read.
    """
    if not config.model.checkpoint:
        return build(config.model)
    if begun is not None:
        return begun
    checkpoints, problems = Checkpoints(Path(config.run.directory), None), []
    for step in checkpoints.steps():
        try:
            with torch.random.fork_rng(devices=[]):
                return restore(checkpoints.path(step))[0]
        except ModelError as error:
            problems.append(str(error))
    said = problems[0] if problems else "there is none"
    raise RunError(f"run.directory: every checkpoint of {config.run.directory} is damaged ({said}); {DAMAGED}")


def require_shared(path: Path) -> None:
    """Refuse ranks that cannot see what rank 0 has written.

    Raises:
        RunError: there are some.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)
    for rank, (host, sees) in enumerate(distributed.gather_objects((socket.gethostname(), path.exists()))):
        if not sees:
            rule = "the run directory must lie on a file system that all machines share"
            raise RunError(f"run.directory: rank {rank} on {host} does not see {path}; {rule}").everywhere()


def require_one_dataset(pool: Pool) -> None:
    """Refuse ranks that see other samples: their batches would overlap and miss some, and nobody would notice.

    Raises:
        RunError: there are some.
    """
    prints = distributed.gather_objects(pool.fingerprint)
    for rank, found in enumerate(prints):
        if found != prints[0]:
            rule = "copy the shards whole to every machine, and run contrastive data index there"
            raise RunError(f"data: rank {rank} sees other samples than rank 0 ({found[:8]}, {prints[0][:8]}); {rule}")

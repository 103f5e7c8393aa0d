"""`pretrain.py`: from a configuration to a run directory."""

from collections.abc import Callable
from pathlib import Path

from contrastive.processes import end_with_launcher
from contrastive.runs.launch import Launch
from contrastive.runs.preparing import Prepared, prepare
from contrastive.train.signals import StopRequest
from contrastive.train.watchdog import Watchdog

__all__ = ["Prepared", "prepare", "pretrain"]


def pretrain(prepared: Prepared) -> Path:
    """Train, evaluate and report, from where an earlier launch has got to; return the run directory.

    Raises:
        UserError: the data or the numbers turned out to be unusable on the way.
        Preempted: a signal asked for the end; the run is saved.
    """
    end_with_launcher()
    known: list[Callable[[], str]] = []
    train = prepared.config.train

    def standing() -> str:
        return "; ".join(filter(None, (tell() for tell in known)))

    watchdog = Watchdog(train.hang_seconds, train.start_seconds, describe=standing)
    with StopRequest() as stop, watchdog:
        Launch(prepared, stop, watchdog).run(known)
    return prepared.directory

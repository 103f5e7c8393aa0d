"""What another configuration means to a run that goes on: nothing, another schedule, or another run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from contrastive.config import to_dict
from contrastive.errors import RunError
from contrastive.settings import Config

Meaning = Literal["free", "schedule", "fixed"]
# Where shards lie is free: their fingerprint tells whether the samples are the same. So is how a step is computed:
# it has the same gradients. Everything that is not named here makes it another run.
FREE = (
    *("data.train", "data.sources", "data.workers", "data.cache", "data.cache_gigabytes", "data.memory_gigabytes"),
    *("data.retries", "data.stall_seconds", "data.timeout_seconds", "data.max_bad_share", "data.allow_pipes"),
    *("train.micro_batch_size", "train.text_micro_batch_size", "train.threads", "train.compile", "train.sharding"),
    *("train.gradient_checkpointing", "train.world_size", "train.start_seconds", "train.hang_seconds"),
    *("train.save_every_steps", "train.save_every_minutes", "train.keep_checkpoints", "train.keep_best"),
    *("train.best_metric", "train.best_is", "train.max_failed_saves", "eval", "tracking", "run"),
)
SCHEDULE = (
    *("optim", "train.total_samples", "train.precision", "train.ema_decay", "train.on_nonfinite", "train.max_skips"),
    *("train.spike_factor", "train.on_spike"),
)


@dataclass(frozen=True)
class Change:
    """One key that differs between the run and what it is told now."""

    key: str
    before: Any
    now: Any
    meaning: Meaning

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.before)} -> {_shown(self.now)}"


def changes(before: Mapping[str, Any], config: Config) -> list[Change]:
    """Return in what `config` differs from a saved one, in the order of the settings."""
    then, now = _flat(before), _flat(json.loads(json.dumps(to_dict(config))))
    keys = list(dict.fromkeys([*now, *then]))
    return [Change(k, then.get(k), now.get(k), meaning(k)) for k in keys if then.get(k) != now.get(k)]


def meaning(key: str) -> Meaning:
    """Return what a change of `key` means."""
    for name, keys in (("free", FREE), ("schedule", SCHEDULE)):
        if any(key == one or key.startswith(f"{one}.") for one in keys):
            return name  # type: ignore[return-value]
    return "fixed"


def require_same_run(found: Sequence[Change], accepted: Sequence[str], directory: str) -> None:
    """Refuse changes that make it another run, unless they are accepted by name.

    Raises:
        RunError: there are some.
    """
    refused = [change for change in found if change.meaning == "fixed" and not _accepts(accepted, change.key)]
    if refused:
        said = "; ".join(str(change) for change in refused)
        names = ",".join(change.key for change in refused)
        rule = "take another run.directory, put them back, or go on all the same with"
        raise RunError(f"run.directory: {directory} holds a run with other settings: {said}; {rule} "
                       f"run.accept_changes=[{names}]")  # fmt: skip


def _accepts(accepted: Sequence[str], key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in accepted)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys; an empty mapping is no key, so that an option that was left out equals one that is empty."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"

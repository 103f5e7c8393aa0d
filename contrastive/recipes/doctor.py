"""From what was seen of shards to what is to be done: findings, each with its cost and its remedy, the costliest first.

Every function here is pure: facts go in, findings come out. `contrastive.runs.doctor` gathers the facts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contrastive.data.quarantine import FEWEST, RECENT

Severity = Literal["stops the run", "wastes", "note"]
SEVERITIES: tuple[Severity, ...] = ("stops the run", "wastes", "note")
UNEQUAL = 4.0  # times the median shard, above which a shard is called large
SORTED = 1.25  # times as many words as by chance, above which neighbours are called alike
SORTED_MORE = 0.05  # and more of their words by so much: a few of one kind side by side harm nobody
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Finding:
    """One thing to fix. `share` is how much of the samples, or of the time, it costs, 0 to 1; `gain` says it."""

    severity: Severity
    share: float
    what: str
    gain: str
    fix: str


@dataclass(frozen=True)
class RunFacts:
    """What a run asks for."""

    shards: str  # as they are named on a command line, or the file of a run
    source: str = "SHARDS"  # the same where no file of a run will do
    total_samples: int = 1_000_000
    global_batch_size: int = 256
    ranks: int = 1  # its processes
    workers: int = 2  # loader processes of each
    max_bad_share: float = 0.01
    is_substituting: bool = False  # data.damaged_shards=substitute


@dataclass(frozen=True)
class ShardFacts:
    """What the indexes say."""

    counts: NDArray[np.int64]  # usable samples of each shard, [S]
    epoch_samples: int
    unusable: Mapping[str, int] = field(default_factory=dict)  # by reason
    damaged: Mapping[str, str] = field(default_factory=dict)  # location to what is wrong
    missing: str = ""  # the message that names missing shards
    is_remote: bool = False


@dataclass(frozen=True)
class BadFacts:
    """How many samples of those looked at cannot be used; `example` is the message of one for each reason."""

    looked_at: int
    samples: int  # in all shards
    reasons: Mapping[str, int]
    example: Mapping[str, str]

    @property
    def bad(self) -> int:
        """How many of those looked at cannot be used."""
        return sum(self.reasons.values())

    @property
    def share(self) -> float:
        """The share that cannot be used."""
        return self.bad / max(1, self.looked_at)


@dataclass(frozen=True)
class OrderFacts:
    """How like neighbours are, and how the order of a run mixes them."""

    near_words: float  # words that captions near each other share, of all words of both
    far_words: float  # the same of captions drawn at random
    is_certain: bool  # the difference is beyond chance
    verdict: Sequence[str] = ()  # of `contrastive.recipes.mixing`

    @property
    def is_local(self) -> bool:
        """Whether samples of one kind stand together."""
        return self.is_certain and self.near_words > max(SORTED * self.far_words, self.far_words + SORTED_MORE)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by severity, then by what they cost; equal ones in their order."""
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), -one.share))


def interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4)."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = hits / total, Z_95 * Z_95
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == total else high)


def of_shards(facts: ShardFacts, run: RunFacts) -> list[Finding]:
    """Return what is wrong with shards as wholes: damage, gaps, unusable samples, sizes."""
    found = [*_damage(facts, run), *_unusable(facts, run), *_unequal(facts, run)]
    if run.global_batch_size > facts.epoch_samples:
        what = f"a batch of {run.global_batch_size:,} is more than the {facts.epoch_samples:,} samples of an epoch"
        fix = f"data.global_batch_size={facts.epoch_samples}, or more data"
        found.append(Finding("stops the run", 1.0, what, "the run is refused before its first step", fix))
    return found


def _damage(facts: ShardFacts, run: RunFacts) -> list[Finding]:
    found, rule = [], "training refuses them before its first step"
    severity: Severity = "wastes" if run.is_substituting else "stops the run"
    if facts.missing:
        gain = "their samples are not seen" if run.is_substituting else rule
        fix = "bring them back, or data.damaged_shards=substitute to train without them"
        found.append(Finding(severity, 0.5, f"shards are missing: {facts.missing}", gain, fix))
    if facts.damaged:
        location, said = next(iter(facts.damaged.items()))
        share = len(facts.damaged) / max(1, len(facts.counts))
        what = f"{len(facts.damaged):,} of {len(facts.counts):,} shards are damaged: {location} {said}"
        gain = "what is behind the damage is not seen" if run.is_substituting else rule
        fix = "write or copy them again, or data.damaged_shards=substitute to use what is whole"
        found.append(Finding(severity, share, what, gain, fix))
    return found


def _unusable(facts: ShardFacts, run: RunFacts) -> list[Finding]:
    reasons = {reason: count for reason, count in facts.unusable.items() if reason != "quarantined" and count}
    lost, usable = sum(reasons.values()), int(facts.counts.sum())
    if not lost:
        return []
    share = lost / (lost + usable)
    said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
    what = f"{lost:,} of {lost + usable:,} rows are no samples: {said}"
    fix = "are data.image_key and data.caption_key right? `contrastive data index " + run.shards + "` shows the members"
    severity: Severity = "wastes" if share >= 0.001 else "note"
    return [Finding(severity, share, what, f"{share:.2%} of the rows are lost", fix)]


def _unequal(facts: ShardFacts, run: RunFacts) -> list[Finding]:
    held = facts.counts[facts.counts > 0]
    empty = len(facts.counts) - len(held)
    found = []
    middle, largest = float(np.median(held)) if len(held) else 0.0, int(held.max(initial=0))
    if len(held) > 1 and largest >= UNEQUAL * middle:
        share = largest / float(held.sum())
        what = f"the largest shard has {largest:,} samples, {largest / middle:.1f} times the median of {middle:,.0f}"
        harm = "a cache and a read-ahead by shards stall on it" if facts.is_remote else "this loader does not mind"
        gain = f"{share:.0%} of all samples lie in one file: {harm}; readers that go by shards repeat or drop samples"
        fix = f"contrastive data reshard {run.shards} --out equal"
        found.append(Finding("wastes" if facts.is_remote else "note", share, what, gain, fix))
    if empty:
        what = f"{empty:,} of {len(facts.counts):,} shards have no usable sample"
        fix = f"contrastive data index {run.shards} says why; leave them out of data.train"
        found.append(Finding("note", empty / len(facts.counts), what, "opened for nothing", fix))
    return found


def of_bad_samples(facts: BadFacts, run: RunFacts) -> list[Finding]:
    """Return what follows from samples that cannot be read: whether they end a run, or how many are replaced."""
    if not facts.bad:
        return []
    low, high = interval(facts.bad, facts.looked_at)
    reasons = sorted(facts.reasons.items(), key=lambda pair: -pair[1])
    said = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    what = (
        f"{facts.bad:,} of {facts.looked_at:,} samples looked at cannot be used ({facts.share:.2%}, 95 % interval "
        f"{low:.2%} to {high:.2%}): {said}; for example {facts.example[reasons[0][0]]}"
    )
    of_all = f"about {facts.share * facts.samples:,.0f} of {facts.samples:,} samples"
    fix = (
        f"contrastive data verify {run.shards} --quarantine bad.jsonl, then "
        f"contrastive data index {run.shards} --quarantine bad.jsonl"
    )
    if facts.bad == facts.looked_at:
        keys = "see data.image_key and data.caption_key; " if "field" in reasons[0][0] else ""
        return [Finding("stops the run", 1.0, what, "no sample can be used", keys + fix)]
    of_shards = sum(count for reason, count in reasons if reason.startswith("shard:"))
    if of_shards and not run.is_substituting:
        gain = f"{of_all}; the first whose bytes cannot be read ends the run"
        return [Finding("stops the run", facts.share, what, gain, "data.damaged_shards=substitute; or " + fix)]
    if ends_run(facts.share, run):
        gain = f"{of_all}; more than data.max_bad_share={run.max_bad_share:g} of them ends the run"
        return [Finding("stops the run", facts.share, what, gain, fix)]
    may = f"; above data.max_bad_share={run.max_bad_share:g} the run would end" if ends_run(high, run) else ""
    return [Finding("wastes", facts.share, what, f"{of_all} are replaced by others{may}", fix)]


def ends_run(bad_share: float, run: RunFacts) -> bool:
    """Whether so many bad samples are expected to end a run; see `contrastive.data.quarantine`."""
    rows = min(RECENT, run.total_samples // run.ranks)
    return bad_share * rows > run.max_bad_share * max(rows, FEWEST)


def of_order(facts: OrderFacts, run: RunFacts) -> list[Finding]:
    """Return whether batches mix badly, which matters most where samples of one kind stand together."""
    if not facts.verdict and not facts.is_local:
        return []
    alike = f"captions near each other in a shard share {facts.near_words:.0%} of their words, others "
    alike += f"{facts.far_words:.0%}: samples of one kind stand together"
    mend = f"contrastive data reshard {run.shards} --out mixed"
    if not facts.verdict:
        gain = "nothing here: this run mixes them; readers that go by shards would see one kind after another"
        return [Finding("note", 0.0, alike, gain, f"{mend}, where others read them")]
    mixes = "; ".join(facts.verdict)
    if not facts.is_local:
        return [Finding("note", 0.0, f"the order mixes less than it could: {mixes}", "none was seen to suffer", mend)]
    excess = min(1.0, (facts.near_words - facts.far_words) / max(facts.near_words, 1e-9))
    what = f"{alike}, and the order does not mix them: {mixes}"
    return [Finding("wastes", excess, what, "negatives of a batch are too alike, and batches differ", mend)]


def gigabytes(count: float) -> str:
    """Return bytes as a person reads them."""
    for size, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= 0.1 * size:
            return f"{count / size:,.1f} {name}"
    return f"{count / 1e3:,.1f} KB"

"""Work that ranks share by id, and fail at together.

W ranks, N ids, E embed_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrastive import distributed
from contrastive.errors import DataError, Preempted, RunError, UserError
from contrastive.eval.cache import Rows

T = TypeVar("T")
U = TypeVar("U")

PIECE_BYTES = 64 << 20  # of one rank's features in one exchange


@dataclass(frozen=True)
class Computed:
    """What one rank made of its ids: features, and what is wrong with those that have none."""

    rows: Rows
    broken: dict[int, str] = field(default_factory=dict)


def everywhere(work: Callable[[], tuple[T, U]]) -> tuple[T, list[U]]:
    """Do `work` on every rank; return the first of what it gave here, and the second of what it gave on each rank.

    An error on one rank is raised on all, where the others would wait for it for ever; so is a signal that asks one of
    them to end.

    Raises:
        UserError: `work` raised it on some rank.
        RunError: `work` raised another error on another rank.
        Preempted: a rank was asked to end.
    """
    done: tuple[T, U] | None = None
    failure: Exception | None = None
    signal = 0
    try:
        done = work()
    except Preempted as asked:
        signal = asked.signal
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again below
        failure = error
    said = None if failure is None else (_kind(failure), str(failure) or repr(failure))
    everybody = distributed.gather_objects((None if done is None else done[1], said, signal))
    if failure is not None:
        failure.is_everywhere = True  # type: ignore[attr-defined]  # all ranks raise: a training may go on
        raise failure
    if asked_to_end := max(one[2] for one in everybody):
        raise Preempted(asked_to_end)
    for rank, (_, said, _) in enumerate(everybody):
        if said is not None:
            kind, message = said
            what = message if kind is not None else f"evaluation failed on rank {rank}: {message}"
            raise (kind or RunError)(what).everywhere()
    assert done is not None, "what was raised is raised above"
    return done[0], [one[0] for one in everybody]  # type: ignore[misc]  # all are done


def _kind(failure: Exception) -> type[UserError] | None:
    return type(failure) if isinstance(failure, UserError) else None


def spread(
    name: str,
    count: int,
    kept: Callable[[], tuple[Rows, str]],
    compute: Callable[[list[int]], Computed],
    device: torch.device,
) -> tuple[Rows, dict[int, str], int]:
    """Return, on all ranks, the rows of ids 0 to `count` - 1 in their order; what is broken; how many were computed.

    `name` begins messages. `kept` returns the rows that this rank has already, and a digest of what the ids stand for.
    Ids that no rank has are dealt out to `compute`. Ranks that read one folder, and ranks with a folder each, are both
    served: what all have is not sent. `device` is where the ranks exchange tensors.

    Raises:
        DataError: ranks see other data.
        Exception: see `everywhere`.
    """
    held, told = everywhere(lambda: _held(kept, count))
    _refuse_other_data(name, [digest for digest, _, _ in told])
    has = np.stack([np.unpackbits(packed, count=count).astype(bool) for _, packed, _ in told])  # [W, N]
    missing = np.flatnonzero(~has.any(0))
    own = missing[distributed.rank() :: distributed.world_size()].tolist()
    # Ranks must end with the same bits, and caches of several machines may hold other roundings.
    is_common = len({rows for _, _, rows in told}) == 1

    def work() -> tuple[Rows, tuple[NDArray[np.int64], int, dict[int, str]]]:
        computed = compute(own)
        sends = torch.from_numpy((has.argmax(0) == distributed.rank()) & has.any(0) & (not is_common))[held.ids]
        rows = Rows.joined([Rows(held.ids[sends], held.features[sends]), computed.rows])
        return rows, (rows.ids.numpy(), rows.features.shape[1], computed.broken)

    sent, offers = everywhere(work)
    broken = {id_: reason for _, _, found in offers for id_, reason in found.items()}
    parts = _exchanged(sent, [ids for ids, _, _ in offers], max(width for _, width, _ in offers), device)
    rows = _in_order([held, *parts] if is_common else parts)
    return rows, dict(sorted(broken.items())), len(missing) - len(broken)


def _held(kept: Callable[[], tuple[Rows, str]], count: int) -> tuple[Rows, tuple[str, NDArray[np.uint8], bytes]]:
    rows, digest = kept()
    has = np.zeros(count, bool)
    has[rows.ids.numpy()] = True
    return rows, (digest, np.packbits(has), rows.checksum())


def _refuse_other_data(name: str, digests: list[str]) -> None:
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            rule = "give all machines the same copy"
            raise DataError(f"{name}: rank {rank} sees other data than rank 0; {rule}").everywhere()


def _exchanged(own: Rows, ids: list[NDArray[np.int64]], width: int, device: torch.device) -> list[Rows]:
    """Return every rank's rows, of which `ids` are known; in pieces, so that a device needs little memory for it."""
    counts = [len(some) for some in ids]
    if len(counts) == 1 or max(counts) == 0:
        return [own] if max(counts) else []
    features = own.features if len(own.ids) else torch.empty(0, width)
    step = max(1, PIECE_BYTES // (4 * width))
    parts = []
    for start in range(0, max(counts), step):
        pieces = [min(max(count - start, 0), step) for count in counts]
        rows = distributed.gather_rows(features[start : start + step].to(device), pieces).cpu()
        whose = np.concatenate([some[start : start + step] for some in ids])
        parts.append(Rows(torch.from_numpy(whose), rows))
    return parts


def _in_order(parts: list[Rows]) -> Rows:
    rows = Rows.joined(parts)
    ids, order = rows.ids.sort()
    assert len(ids) == len(ids.unique()), "every id is embedded once"
    features: Tensor = rows.features if torch.equal(ids, rows.ids) else rows.features[order]
    return Rows(ids, features)

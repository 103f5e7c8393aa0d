"""Quarantine files, as training and `contrastive data verify` write them: which rows of which shards are left out."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.data.index import Table, key_of
from contrastive.errors import DataError

log = logging.getLogger("contrastive")
OF_THE_SHARD = "shard:"  # begins the reason where not the sample was bad but its bytes could not be had


@dataclass(frozen=True)
class Line:
    """One row of a shard that cannot be used; `is_certain` when the shard lies where the file says."""

    file: Path
    row: int
    key: str
    is_certain: bool


def read_quarantine(files: Sequence[Path], locations: Sequence[str]) -> dict[str, list[Line]]:
    """Return the lines that are of any of these shards, by location.

    A shard is found by its location or, when it has moved, by its file's name if no other has that. Lines of other
    shards, and of shards that could not be read at the time, are passed over.

    Raises:
        DataError: a file is missing or none of these.
    """
    places = {os.path.abspath(location): location for location in locations}
    names: dict[str, list[str]] = {}
    for location in locations:
        names.setdefault(location.rpartition("/")[2], []).append(location)
    found: dict[str, list[Line]] = {}
    for file in files:
        for record in _records(file):
            same = places.get(os.path.abspath(record["location"]))
            others = names.get(record["location"].rpartition("/")[2], [])
            place = same or (others[0] if len(others) == 1 else None)
            if place is not None and not record["reason"].startswith(OF_THE_SHARD):
                found.setdefault(place, []).append(Line(file, record["row"], record["key"], same is not None))
    return found


def rows_of(lines: Sequence[Line], table: Table, location: str) -> set[int]:
    """Return the rows that lines leave out.

    Raises:
        DataError: a line is of another version of this shard.
    """
    rows, strange = set(), 0
    for line in lines:
        if 0 <= line.row < len(table) and key_of(table, line.row) == line.key:
            rows.add(line.row)
        elif line.is_certain:
            rule = "belongs to another version of the shard; run contrastive data verify again"
            raise DataError(f"{line.file}: row {line.row}, {line.key!r} of {location}, {rule}")
        else:
            strange += 1
    if strange:
        log.warning("%s: %d lines about shards of its name elsewhere are passed over", location, strange)
    return rows


def _records(file: Path) -> list[Mapping[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); name a quarantine.jsonl") from error
    return [_record(file, line) for line in lines if line.strip()]


def _record(file: Path, line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
        location, key, row = str(record["location"]), str(record["key"]), int(record["row"])
        return {"location": location, "key": key, "row": row, "reason": str(record.get("reason", ""))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "is no line of a quarantine file, which has location, key and row"
        raise DataError(f"{file}: {line[:60]!r} {rule}") from error

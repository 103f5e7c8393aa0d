"""manifest.json: what is known of each shard of a folder."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from contrastive.data.index import Pattern
from contrastive.data.storage import Stat
from contrastive.data.tar import Damage
from contrastive.files import write_whole

MANIFEST, VERSION = "manifest.json", 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What manifest.json says of one shard: `bytes` and `version` tell whether it still is the one that was read."""

    bytes: int
    version: str
    rows: int
    patterns: dict[Pattern, int]  # of the rows that are not in `skip`
    digest: str
    table: int = 0  # bytes of the table's file
    notes: dict[str, int] = field(default_factory=dict)
    damage: tuple[Damage, ...] = ()
    skip: tuple[int, ...] = ()  # quarantined rows

    def is_of(self, stat: Stat) -> bool:
        """Whether a shard is the one that was read; what a pipe wrote is taken for good."""
        return stat.size < 0 or (stat.size, stat.version) == (self.bytes, self.version)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them, those that say nothing left out."""
        patterns = {"/".join(pattern): count for pattern, count in self.patterns.items()}
        values = {"bytes": self.bytes, "version": self.version, "rows": self.rows, "patterns": patterns}
        damage = [[one.offset, one.reason] for one in self.damage]
        rest = {"notes": self.notes, "damage": damage, "skip": list(self.skip)}
        return {**values, "digest": self.digest, "table": self.table, **{name: v for name, v in rest.items() if v}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Entry":
        """Return the entry in JSON content; whatever is wrong with it is a TypeError, KeyError or ValueError."""
        patterns = {_pattern(text): int(count) for text, count in values["patterns"].items()}
        damage = tuple(Damage(int(offset), str(reason)) for offset, reason in values.get("damage", ()))
        skip = tuple(int(row) for row in values.get("skip", ()))
        return cls(**{**values, "patterns": patterns, "damage": damage, "skip": skip})


def read_entries(folder: Path) -> dict[str, Entry] | None:
    """Return what manifest.json in a folder says of its shards; None where it is somebody else's."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # there is none, or one that a dying machine left
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        return None
    shards = content.get("shards")
    if not isinstance(shards, dict) or not all(isinstance(one, dict) and "digest" in one for one in shards.values()):
        return None
    found = {}
    for name, values in shards.items() if content["version"] == VERSION else ():
        with suppress(TypeError, KeyError, ValueError, AttributeError):
            found[name] = Entry.from_json(values)
    return found


def write_entries(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write manifest.json, a line for each shard."""
    lines = (f"  {json.dumps(name)}: {json.dumps(entries[name].to_json())}" for name in sorted(entries))
    content = f'{{\n "version": {VERSION},\n "shards": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    write_whole(folder / MANIFEST, content)


@lru_cache(1 << 16)
def _pattern(text: str) -> Pattern:
    return tuple(filter(None, text.split("/")))

"""What a translated command consists of: settings that know their flags, and flags that have none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from contrastive.runs.open_clip_command import Command


@dataclass(frozen=True)
class Line:
    """One setting, by its dotted key, and from what it comes."""

    key: str
    value: Any
    origin: str

    def text(self) -> str:
        """Return the value as YAML on one line."""
        plain = _plain(self.value)
        text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
        return text.strip().removesuffix("\n...").strip()


@dataclass(frozen=True)
class Remarks:
    """`without`: a flag as it was given, and why it has no equivalent. `known`: sentences."""

    command: Command
    without: list[tuple[str, str]] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def refuse(self, name: str, why: str) -> None:
        """Add a flag that has no equivalent."""
        self.without.append((self.command.said(name), why))

    def tell(self, sentence: str) -> None:
        """Add what a user should know."""
        self.known.append(sentence)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value

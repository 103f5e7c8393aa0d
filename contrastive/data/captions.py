"""Which of a sample's captions is read: several members or JSON fields with weights, drawn by sample."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contrastive.errors import ConfigError
from contrastive.registry import convert


@dataclass(frozen=True)
class CaptionChoice:
    """Where captions lie: `txt`, or `json.FIELD` for a text or a list of texts; each key has its share of the draws."""

    keys: tuple[str, ...]
    shares: tuple[float, ...]  # sum to 1

    @classmethod
    def parse(cls, value: Any, setting: str = "data.caption_key") -> "CaptionChoice":
        """Return the choice that a key, or a mapping of keys to weights, stands for.

        Raises:
            ConfigError: neither of these, an empty key, or a weight that is not above 0.
        """
        if isinstance(value, str) and value.strip():
            return cls((value.strip(),), (1.0,))
        if not isinstance(value, Mapping) or not value:
            rule = "must be a member (txt, json.FIELD), or several with their weights ({txt: 0.3, json.recaption: 0.7})"
            raise ConfigError(f"{setting}: {value!r} {rule}")
        weights = {str(key): convert(weight, float, f"{setting}.{key}") for key, weight in value.items()}
        for key, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(f"{setting}.{key}: {weight} must be more than 0; leave the key out instead")
        total = sum(weights.values())
        return cls(tuple(weights), tuple(weight / total for weight in weights.values()))

    @property
    def members(self) -> tuple[str, ...]:
        """The extensions that hold captions: `json` of `json.captions`."""
        return tuple(dict.fromkeys(key.partition(".")[0] for key in self.keys))

    def drawn(self, draw: float, held: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Yield keys whose member is among `held`, the one that `draw` in [0, 1) picks first, each with its own draw.

        Keys whose member is absent give their share to the others in proportion. The keys after the first are for
        whoever finds nothing there.
        """
        present = [(key, share) for key, share in zip(self.keys, self.shares, strict=True) if _member(key) in held]
        total = sum(share for _, share in present)
        below = 0.0
        for position, (_, share) in enumerate(present):
            width = share / total
            if draw < below + width or position == len(present) - 1:
                inner = min(max((draw - below) / width, 0.0), 1 - 2.0**-53)
                for key, _ in present[position:] + present[:position]:
                    yield key, inner
                return
            below += width


def texts(content: bytes, key: str) -> list[str]:
    """Return the captions that a member holds under `key`, stripped, empty ones left out.

    Bytes that are not UTF-8 become replacement characters.

    Raises:
        ValueError: the member is no JSON with that field; the message says so without naming the sample.
    """
    text = content.decode("utf-8", errors="replace")
    member, _, field = key.partition(".")
    value: Any = json_field(text, member, field) if field else text
    choices = value if isinstance(value, list) else [value]
    return [choice.strip() for choice in choices if isinstance(choice, str) and choice.strip()]


def json_field(text: str, member: str, field: str) -> Any:
    """Return one field of a JSON object.

    Raises:
        ValueError: it is no JSON, no object, or has no such field.
    """
    try:
        return json.loads(text)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"its {member} member is no JSON with a field {field!r}") from None


def _member(key: str) -> str:
    return key.partition(".")[0]

"""From rows with named columns to records: what tables and Hugging Face datasets have in common."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from contrastive.errors import ConfigError
from contrastive.recipes.forms.cells import BadRowError, Images, captions_of, is_scalar, name_of, plain
from contrastive.recipes.records import Record, Rejected
from contrastive.registry import suggest

ALL = "*"


class Row(NamedTuple):
    """A row: how messages name it, and its cells by column; an absent one has no value."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Which columns hold what. `fields` are those that go into the json; None: all others of one plain value each."""

    image: str
    captions: tuple[str, ...]
    id: str | None
    split: str | None
    fields: tuple[str, ...] | None

    @classmethod
    def named(
        cls,
        present: Sequence[str],
        where: str,
        *,
        image: str,
        caption: str,
        id: str | None,
        split: str | None,
        fields: str,
    ) -> "Columns":
        """Return the columns that options name; `caption` and `fields` may name several, joined by commas.

        Raises:
            ConfigError: one is not there.
        """
        chosen = None if fields == ALL else several(fields, present)
        found = cls(image, several(caption, present), id, split, chosen)
        if not found.captions:
            raise ConfigError("caption: names no column; give one, or several joined by commas")
        for option, names in found.asked().items():
            for name in names:
                if name not in present:
                    raise ConfigError(_missing(option, name, present, where))
        return found

    def asked(self) -> dict[str, tuple[str, ...]]:
        """Return the names that each option asks for."""
        single = {"image": self.image, "id": self.id, "split": self.split}
        asked = {option: (name,) for option, name in single.items() if name is not None}
        return {**asked, "caption": self.captions, "fields": self.fields or ()}

    def wanted(self, present: Iterable[str], plain_ones: Iterable[str]) -> list[str]:
        """Return the columns to read, in their order, of which `plain_ones` hold one plain value each."""
        named = {name for names in self.asked().values() for name in names}
        others = set(plain_ones) if self.fields is None else set()
        return [name for name in present if name in named or name in others]

    def record(self, row: Row, images: Images, within: str = "", split: str | None = None) -> Record | Rejected:
        """Return what a row says; keys that come of paths begin with `within`, a folder."""
        key = ""
        try:
            content, own = images.of(row.values.get(self.image))
            key = within + own if self.id is None else name_of(row.values.get(self.id), "id")
            captions = captions_of(row.values.get(name) for name in self.captions)
            if self.split is not None:
                split = name_of(row.values.get(self.split), "split")
        except BadRowError as bad:
            return bad.at(row.where, key)
        return Record(key, content, captions, row.where, self._fields(row), split=split)

    def _fields(self, row: Row) -> dict[str, Any]:
        if self.fields is not None:
            chosen = {name: plain(row.values.get(name)) for name in self.fields}
            return {name: value for name, value in chosen.items() if value is not None}
        taken = {self.image, self.split, *self.captions}
        others = {name: value for name, value in row.values.items() if name and name not in taken}
        return {str(plain(name)): plain(value) for name, value in others.items() if value != "" and is_scalar(value)}


def several(names: str, present: Sequence[str]) -> tuple[str, ...]:
    """Return the columns in a text of names joined by commas; a column may itself have a comma in its name."""
    if names in present:
        return (names,)
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def _missing(option: str, name: str, present: Sequence[str], where: str) -> str:
    close = suggest(name, present)
    hint = close if "did you mean" in close else f"; set {option} to one of them"
    return f"{option}: {where} has no column {name!r}; it has {', '.join(present) or 'none'}{hint}"

"""Rows with named columns, grouped into samples: what tables and Hugging Face datasets have in common."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contrastive.errors import ConfigError, DataError
from contrastive.eval.samples import Caption, Content, ImageSource, Kind, Sample

ROLES = ("image", "caption", "label", "labels", "id", "caption_id")
ROLE_OF: dict[Kind, str] = {"classification": "label", "multilabel": "labels", "retrieval": "caption"}
Raw = int | str  # a class as a row gives it: its index or its name


@dataclass(frozen=True)
class ColumnNames:
    """Which column holds what; None: the column of that very name, where there is one.

    `image` is the image, `caption` a text or a list of texts, `label` the class, by index or name, `labels` the classes
    that are present. Captions of one `caption_id` are one text of several images. Rows of one `id` are one image; it is
    only looked at when it is named, as many tables number their rows so.
    """

    image: str = "image"
    caption: str | None = None
    label: str | None = None
    labels: str | None = None
    id: str | None = None
    caption_id: str | None = None

    def wanted(self) -> dict[str, str]:
        """Return the column of every role, as named or by default."""
        named = {role: getattr(self, role) for role in ROLES}
        return {role: column or role for role, column in named.items() if column or role != "id"}

    def found(self, present: Collection[str], where: str) -> dict[str, str]:
        """Return the columns that are there, by role.

        Raises:
            DataError: a column that is named here, or that of the images, is not there.
        """
        for role, column in self.wanted().items():
            if column not in present and (role == "image" or getattr(self, role) is not None):
                rule = f"set format.{role} to one of them"
                raise DataError(f"{where}: has no column {column!r}; it has {', '.join(present) or 'none'}; {rule}")
        return {role: column for role, column in self.wanted().items() if column in present}


@dataclass(frozen=True)
class Rows:
    """Columns of equal length, by name; row i is `numbers[i]`, counted in lines or rows, in messages."""

    where: str
    unit: str
    numbers: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    present: tuple[str, ...]  # all columns there are, read or not

    def at(self, row: int) -> str:
        """Return how messages name a row."""
        return f"{self.where}: {self.unit} {self.numbers[row]}"


@dataclass
class _Group:
    """What the rows of one image say."""

    first: int
    captions: list[Caption] = field(default_factory=list)
    label: list[Raw] = field(default_factory=list)
    labels: list[Raw] = field(default_factory=list)


def kinds_of(roles: Mapping[str, str], kinds: Sequence[Kind], rows: Rows) -> tuple[Kind, ...]:
    """Return the kinds of annotations to read: those asked for, or those that there are columns for.

    Raises:
        ConfigError: there is no column for one, or for any.
    """
    columns = ", ".join(rows.present)
    for kind in kinds:
        if ROLE_OF.get(kind) not in roles:
            role = ROLE_OF.get(kind)
            rule = f"name it with format.{role}" if role else f"this layout holds {', '.join(ROLE_OF)}"
            raise ConfigError(f"{rows.where}: no column is known for {kind}; {rule} (columns: {columns})")
    held = tuple(kind for kind, role in ROLE_OF.items() if role in roles)
    if not held:
        rule = "name one with format.caption, format.label or format.labels"
        raise ConfigError(f"{rows.where}: no column of captions or classes is known; {rule} (columns: {columns})")
    return tuple(kinds) or held


def grouped(
    rows: Rows,
    roles: Mapping[str, str],
    kinds: tuple[Kind, ...],
    image: Callable[[int], ImageSource],
    *,
    classes: tuple[str, ...] = (),
    separator: str | None = None,
) -> Content:
    """Return one sample for all rows of an image, in the order of their first rows.

    `roles` are the columns by role; rows belong together by their id, or where there is none by the value of the image
    column; without either each row is an image. `image(row)` opens the image of a row. `classes` are the names that
    labels may have; without them those that occur, sorted. A text of several labels is split at `separator`.

    Raises:
        DataError: the first row that repeats or contradicts another, or has no image, caption or class.
    """
    columns = {role: rows.columns[name] for role, name in roles.items() if name in rows.columns}
    groups: dict[Any, _Group] = {}
    seen: dict[tuple[Any, ...], int] = {}
    for row in range(len(rows.numbers)):
        group = groups.setdefault(_key(rows, row, roles, columns, seen), _Group(row))
        _require_same(rows, roles, columns, "image", group.first, row)
        if "retrieval" in kinds:
            group.captions += _captions(rows, row, columns["caption"][row], columns.get("caption_id"))
        if "multilabel" in kinds:
            group.labels += _raw(rows, row, columns["labels"][row], separator)
        if "classification" in kinds:
            _require_same(rows, roles, columns, "label", group.first, row)
            group.label = group.label or _raw(rows, row, columns["label"][row], None)
    classnames, index = _classes(rows, list(groups.values()), classes)
    samples = [
        Sample(
            image(group.first),
            index[group.label[0]] if group.label else -1,
            tuple(sorted({index[raw] for raw in group.labels})),
            tuple(group.captions),
        )
        for group in groups.values()
    ]
    return Content(samples, kinds, classnames)


def _key(
    rows: Rows,
    row: int,
    roles: Mapping[str, str],
    columns: Mapping[str, Sequence[Any]],
    seen: dict[tuple[Any, ...], int],
) -> Any:
    """Return by what a row belongs to an image; what it says is noted in `seen`."""
    role = "id" if "id" in columns else "image"
    if role not in columns:
        return row
    key = _given(rows, row, columns[role][row], roles[role])
    known = seen.setdefault(tuple(_hashable(values[row]) for values in columns.values()), row)
    if known != row:
        raise DataError(
            f"{rows.at(row)}: repeats {rows.unit} {rows.numbers[known]} in all columns that are read; remove it, or "
            "name the column that tells them apart (format.caption, format.caption_id)"
        )
    return key


def _given(rows: Rows, row: int, value: Any, column: str) -> Any:
    if isinstance(value, str | int) and str(value).strip():
        return value
    if value is None or value == "":
        raise DataError(f"{rows.at(row)}: {column} is empty; fill it or remove the {rows.unit}")
    raise DataError(f"{rows.at(row)}: {column}: {str(value)[:40]!r} must be a text or a whole number")


def _hashable(value: Any) -> Any:
    return tuple(map(str, value)) if isinstance(value, list) else value


def _require_same(
    rows: Rows, roles: Mapping[str, str], columns: Mapping[str, Sequence[Any]], role: str, first: int, row: int
) -> None:
    if role in columns and columns[role][first] != columns[role][row]:
        raise DataError(
            f"{rows.at(row)}: {roles[role]} is {columns[role][row]!r}, and {columns[role][first]!r} in {rows.unit} "
            f"{rows.numbers[first]} of the same image; mend one of them"
        )


def _captions(rows: Rows, row: int, value: Any, ids: Sequence[Any] | None) -> list[Caption]:
    texts = value if isinstance(value, list) else [value]
    for text in texts or [None]:
        if text is None or (isinstance(text, str) and not text.strip()):
            raise DataError(f"{rows.at(row)}: the caption is empty; write one or remove the {rows.unit}")
        if not isinstance(text, str):
            raise DataError(f"{rows.at(row)}: the caption {str(text)[:40]!r} must be a text or a list of texts")
    if ids is None:
        return [Caption(text) for text in texts]
    given = ids[row] if isinstance(ids[row], list) else [ids[row]]
    if len(given) != len(texts) or None in given or "" in given:
        raise DataError(
            f"{rows.at(row)}: has {len(texts)} captions and {given!r} as ids; give every caption its own id"
        )
    return [Caption(text, str(id_)) for text, id_ in zip(texts, given, strict=True)]


def _raw(rows: Rows, row: int, value: Any, separator: str | None) -> list[Raw]:
    """Return the classes in a cell, whole numbers as numbers; several where `separator` says so or it is a list."""
    is_set = separator is not None
    if is_set and isinstance(value, list):
        parts = value
    elif is_set and isinstance(value, str):
        parts = value.split(separator) if value.strip() else []
    elif is_set and value is None:
        parts = []  # an image may hold none of the classes
    else:
        parts = [value]
    found: list[Raw] = []
    for part in parts:
        text = part.strip() if isinstance(part, str) else part
        if text is None or text == "":
            raise DataError(f"{rows.at(row)}: the label is empty; write a class or remove the {rows.unit}")
        if not isinstance(text, str | int) or isinstance(text, bool):
            raise DataError(f"{rows.at(row)}: label {str(part)[:40]!r} must be a whole number or the name of a class")
        found.append(int(text) if isinstance(text, int) or _is_whole(text) else text)
    return found


def _is_whole(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def _classes(rows: Rows, groups: Sequence[_Group], classes: tuple[str, ...]) -> tuple[tuple[str, ...], dict[Raw, int]]:
    """Return the class names and the index of every class that occurs.

    Where all are whole numbers they are the indices; else all are names.
    """
    first: dict[Raw, int] = {}  # the row in which a class occurs first
    for group in groups:
        for raw in (*group.label, *group.labels):
            first.setdefault(raw, group.first)
    if all(isinstance(raw, int) for raw in first):
        return classes, {raw: int(raw) for raw in first}
    names = classes or tuple(sorted({str(raw) for raw in first}))
    place = {name: index for index, name in enumerate(names)}
    for raw, row in first.items():
        if str(raw) not in place:
            some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise DataError(f"{rows.at(row)}: label {raw!r} is none of the {len(names)} classes ({some}); mend it")
    return names, {raw: place[str(raw)] for raw in first}

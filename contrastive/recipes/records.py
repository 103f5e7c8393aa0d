"""What every source of images and captions becomes, before it is packed into shards."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias


class File(NamedTuple):
    """Bytes that are a file of this machine."""

    path: str


class Span(NamedTuple):
    """Bytes within a shard, wherever it lies; see `contrastive.data.storage`. `total` is the shard's size, or -1."""

    location: str
    offset: int
    size: int
    total: int = -1


Content: TypeAlias = bytes | File | Span  # bytes are kept on disk until they are packed


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source: an image, its captions, and whatever else is known of it.

    `key` is the source's own name of the sample (an id, or the path below the root without its ending); packing makes
    it fit for a tar. Rows of one key and one image are one sample with the captions of all. `fields` go into the json
    member, and hold what JSON can hold. `members` are further members by extension (of shards), copied as they are.
    `split` is the part that the source itself puts the sample in. `where` is how messages name the row.
    """

    key: str
    image: Content
    captions: tuple[str, ...]
    where: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, Content] = field(default_factory=dict)
    split: str | None = None


class Rejected(NamedTuple):
    """A row that is no sample: `reason` is one of few, to count by; `message` says which rule, and the value."""

    where: str
    key: str
    reason: str
    message: str


class Form(Protocol):
    """A form in which sources come; its constructor's arguments are the options that a user may set.

    A form that cannot be read at all is refused by the constructor or the first record, with a DataError or
    ConfigError; a row that cannot be read is a Rejected. Text is UTF-8, a BOM is passed over, and captions are stripped
    of blanks.
    """

    def records(self) -> Iterator[Record | Rejected]:
        """Yield every row, in an order that depends on the content alone; held is a row, or a list of files."""
        ...

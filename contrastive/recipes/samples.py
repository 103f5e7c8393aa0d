"""A sample of shards as curation sees it: bytes, size, pixels, captions and fields, each read when asked for."""

import io
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from PIL import Image

from contrastive.data.captions import texts
from contrastive.data.pool import Found
from contrastive.data.stream import BadSampleError, Reader
from contrastive.modalities.decode import BadImageError, Pixels, decode, size_of

T = TypeVar("T")


class Sample:
    """Sample `number` of a reader's pool; what cannot be read raises BadSampleError."""

    def __init__(self, reader: Reader, number: int) -> None:
        self.reader, self.number = reader, number

    @cached_property
    def found(self) -> Found:
        """Where the sample lies."""
        return self.reader.pool.find(self.number)

    @property
    def key(self) -> str:
        """The sample's key."""
        return self.found.row.key

    @cached_property
    def encoded(self) -> bytes:
        """The image as it is stored."""
        return self.reader.image(self.found)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the image, from its header."""
        return self._of_image(size_of, self.encoded)

    @cached_property
    def pixels(self) -> Pixels:
        """The image's pixels, uint8 [H, W, 3]."""
        return self._of_image(decode, self.encoded)

    @cached_property
    def image(self) -> Image.Image:
        """The image in RGB."""
        return Image.fromarray(self.pixels)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """All captions that training may draw: those of every caption key, equal ones once."""
        found: dict[str, None] = {}
        for key in self.found.source.captions.keys:
            member = key.partition(".")[0]
            if member in self.found.row.members:
                try:
                    found.update(dict.fromkeys(texts(self.member(member), key)))
                except ValueError:
                    continue  # another key may hold one
        if not found:
            raise BadSampleError("caption: empty", f"{self.found.where}: its caption is empty")
        return tuple(found)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of the json member; none where there is no such member."""
        if "json" not in self.found.row.members:
            return {}
        try:
            content = json.loads(self.member("json"))
        except (ValueError, RecursionError):
            raise BadSampleError("json: damaged", f"{self.found.where}: its json member is no JSON") from None
        return content if isinstance(content, dict) else {}

    def member(self, name: str) -> bytes:
        """Return the bytes of a member of the sample, empty where it has none of that name."""
        return self.reader.content(self.found, name)

    def _of_image(self, read: Callable[[bytes], T], encoded: bytes) -> T:
        try:
            return read(encoded)
        except BadImageError as error:
            raise BadSampleError(f"image: {error.reason}", f"{self.found.where}: its image {error}") from error


def thumbnail(image: Image.Image, side: int = 160) -> bytes:
    """Return a small JPEG of an image, at most `side` pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return content.getvalue()

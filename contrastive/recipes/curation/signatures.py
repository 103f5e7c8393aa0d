"""What is known of each image of a set, in one file of equal records, which a killed pass goes on with."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contrastive.data.stream import BadSampleError, Reader
from contrastive.errors import DataError
from contrastive.modalities.decode import BadImageError, as_rgb, decode
from contrastive.recipes.curation.exact import Digest, Of, digest, of_captions, of_pixels
from contrastive.recipes.curation.perceptual import COLOURS, SIDE, look, reduction
from contrastive.recipes.engine import Engine
from contrastive.recipes.samples import Sample

VERSION = 1  # of what a record means
SPAN = 512  # images of a task: what a kill may cost each process
READ, UNREAD = 1, 2  # 0: the record was never written
Records: TypeAlias = NDArray[Any]  # of the type that `layout` returns
Span: TypeAlias = tuple[int, int]
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What of an image is to be known."""

    of: Of | None = "image"  # what `digest` is of; None: nothing
    pixels: bool = False  # a digest of the pixels too
    looks: bool = False


class Picture(Protocol):
    """An image that is not in shards: a file, a row of an evaluation set."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    def decode(self) -> Image.Image:
        """Return the decoded image.

        Raises:
            DataError: its bytes cannot be read as an image.
        """
        ...


def layout(wanted: Wanted) -> np.dtype[Any]:
    """Return the type of a record; `reason` says why an image cannot be read."""
    fields: list[Any] = [("state", "u1"), ("reason", "S47"), ("size", "<i4", 2), ("digest", "<u8", 2)]
    if wanted.pixels or wanted.looks:
        fields.append(("pixels", "<u8", 2))
    if wanted.looks:
        fields += [
            ("hash", "<u8"),
            ("flat", "u1"),
            ("luma", "u1", (SIDE, SIDE)),
            ("chroma", "u1", (COLOURS, COLOURS, 2)),
        ]
    return np.dtype(fields)


@dataclass(frozen=True)
class OfSamples:
    """Looks at samples of shards."""

    reader: Reader
    wanted: Wanted

    def __call__(self, span: Span) -> Records:
        """Return the records of samples start to stop - 1."""
        if self.reader.is_remote:
            self.reader.prefetch(range(*span))
        records = np.zeros(span[1] - span[0], layout(self.wanted))
        for row, number in enumerate(range(*span)):
            sample = Sample(self.reader, number)
            try:
                self._fill(records[row], sample)
                records[row]["state"] = READ
            except BadSampleError as error:
                records[row]["state"], records[row]["reason"] = UNREAD, error.reason.encode("ascii", "replace")
        return records

    def _fill(self, record: Any, sample: Sample) -> None:
        wanted = self.wanted
        if wanted.of != "caption":
            record["size"] = sample.size
        pixels: Digest | None = None
        if wanted.pixels or wanted.of == "pixels":
            pixels = of_pixels(sample.pixels)
        if wanted.of is not None:
            record["digest"] = pixels if wanted.of == "pixels" else _digest(sample, wanted.of)
        if wanted.pixels:
            record["pixels"] = pixels
        if wanted.looks:
            _fill_look(record, sample.pixels if wanted.pixels else _reduced(sample), lambda: sample.pixels)


@dataclass(frozen=True)
class OfPictures:
    """Looks at images that are not in shards."""

    pictures: Sequence[Picture]
    wanted: Wanted

    def __call__(self, span: Span) -> Records:
        """Return the records of images start to stop - 1."""
        records = np.zeros(span[1] - span[0], layout(self.wanted))
        for record, picture in zip(records, self.pictures[slice(*span)], strict=True):
            try:
                pixels = np.asarray(as_rgb(picture.decode()))
            except DataError:
                record["state"], record["reason"] = UNREAD, b"image: cannot be read"
                continue
            record["state"], record["size"] = READ, (pixels.shape[1], pixels.shape[0])
            if "pixels" in records.dtype.names:
                record["pixels"] = of_pixels(pixels)
            if self.wanted.looks:
                _fill_look(record, pixels, partial(_same, pixels))
        return records


def signed(
    path: Path, count: int, sign: Callable[[Span], Records], kind: np.dtype[Any], engine: Engine, progress: Progress
) -> Records:
    """Return the records of `count` images, mapped from the file at `path`, which is finished first.

    Raises:
        DataError: the disk is full; a process was killed, or `sign` raised it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _whole(path, kind)
    spans: list[Span] = [(start, min(start + SPAN, count)) for start in range(done, count, SPAN)]
    try:
        with path.open("ab") as file:
            for (_, stop), records in zip(spans, engine.map(sign, spans), strict=True):
                file.write(records.tobytes())
                file.flush()
                progress(stop, count)
    except OSError as error:
        rule = "make room there and run the same command again, which goes on"
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); {rule}") from None
    found: Records = np.memmap(path, kind, "r", shape=(count,)) if count else np.zeros(0, kind)
    return found


def identity(**said: Any) -> str:
    """Return 16 digits that differ where any of these things does; for the names of files."""
    content = json.dumps({"version": VERSION, "span": SPAN, **said}, sort_keys=True, default=str)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def in_pieces(records: Records, field: str, rows: int = 65_536) -> NDArray[Any]:
    """Return one field of all records, read a piece at a time: a mapped file would stay in memory as a whole."""
    pieces: Iterable[NDArray[Any]] = (records[at : at + rows][field].copy() for at in range(0, len(records), rows))
    return np.concatenate([np.zeros((0, *records.dtype[field].shape), records.dtype[field].base), *pieces])


def _whole(path: Path, kind: np.dtype[Any]) -> int:
    """Return how many images a file knows, after cutting off the end that a kill or a crash left half written."""
    if not path.exists():
        return 0
    whole = path.stat().st_size // kind.itemsize
    if whole:
        blank = np.flatnonzero(in_pieces(np.memmap(path, kind, "r", shape=(whole,)), "state") == 0)
        whole = int(blank[0]) if len(blank) else whole
    os.truncate(path, whole * kind.itemsize)
    return whole


def _digest(sample: Sample, of: Of) -> Digest:
    image = () if of == "caption" else (sample.encoded,)
    captions = () if of == "image" else of_captions(sample.captions)
    return digest((*image, *captions))


def _reduced(sample: Sample) -> NDArray[np.uint8]:
    try:
        return decode(sample.encoded, reduce=reduction)
    except BadImageError as error:
        raise BadSampleError(f"image: {error.reason}", f"{sample.found.where}: its image {error}") from error


def _same(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


def _fill_look(record: Any, pixels: NDArray[np.uint8], whole: Callable[[], NDArray[np.uint8]]) -> None:
    """Fill in a look; of a flat image, which has no hash, the digest of its pixels must do."""
    seen = look(pixels)
    record["hash"], record["flat"], record["luma"], record["chroma"] = seen.hash, seen.is_flat, seen.luma, seen.chroma
    if seen.is_flat and not record["pixels"].any():
        record["pixels"] = of_pixels(whole())


def reasons(records: Records) -> Mapping[int, str]:
    """Return why images cannot be read, by number."""
    bad = np.flatnonzero(in_pieces(records, "state") == UNREAD)
    return {int(number): records[number]["reason"].decode() for number in bad}

"""Features of every sample of a pool on disk: a few files for each chunk of consecutive samples, and what made them.

DIR/embed.json            which model, samples and settings; `finished` once all chunks are there
DIR/features/00000.npy    image features of the chunk's samples, float16 [n, E], of length 1; NaN where there are none
DIR/features/00000.text.npy    features of the caption that fits best, float16 [n, E]
DIR/features/00000.parquet     scores in float32, which caption that was, and the reason of what has none
DIR/scores.parquet        the scores of all samples: see `contrastive.recipes.verdicts`

n samples of a chunk, N of the pool, E embed_dim.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from contrastive.data.pool import Pool
from contrastive.errors import DataError
from contrastive.files import replacing, write_whole

FORMAT = 1
DESCRIPTION, SCORES, FOLDER = "embed.json", "scores.parquet", "features"
SCORE, MEAN = "clip_score", "clip_score_mean"
Kind: TypeAlias = Literal["image", "text"]
SUFFIX: dict[Kind, str] = {"image": ".npy", "text": ".text.npy"}
# What must be equal for chunks to belong together, and how a message names it.
IDENTITY = {
    "format": "the format",
    "identity": "the model",
    "fingerprint": "the samples",
    "captions": "--captions",
    "caption_keys": "data.caption_key",
    "image_keys": "data.image_key",
    "precision": "--precision",
    "chunk": "--chunk",
}


@dataclass(frozen=True)
class Chunk:
    """What became of consecutive samples; a row is NaN where the sample has a reason to have none."""

    image: NDArray[np.float32]  # [n, E]
    text: NDArray[np.float32]  # [n, E]
    scores: NDArray[np.float32]  # [n, 2]: cosine of the best caption, and mean cosine of all captions
    best: NDArray[np.int32]  # [n]: which caption is the best; -1 where none is
    reasons: tuple[str, ...]  # empty where nothing is wrong


@dataclass(frozen=True)
class Layout:
    """Where the chunks of `samples` samples lie, and which are there."""

    folder: Path
    samples: int
    width: int
    chunk: int

    @property
    def chunks(self) -> int:
        """How many chunks there are in all."""
        return -(-self.samples // self.chunk)

    def span(self, chunk: int) -> range:
        """Return the numbers of a chunk's samples."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.samples))

    def path(self, chunk: int, suffix: str) -> Path:
        """Return a file of a chunk."""
        return self.folder / FOLDER / f"{chunk:05d}{suffix}"

    def missing(self) -> list[int]:
        """Return the chunks that are not there whole, in order."""
        return [chunk for chunk in range(self.chunks) if not self._is_whole(chunk)]

    def write(self, chunk: int, content: Chunk) -> None:
        """Write a chunk, each file whole or not at all; the last one says that all are there.

        Raises:
            OSError: the disk is full or gone.
        """
        for kind, rows in (("image", content.image), ("text", content.text)):
            with replacing(self.path(chunk, SUFFIX[kind])) as file:  # type: ignore[index]
                np.save(file, rows.astype(np.float16))
        table = pa.table(
            {
                SCORE: content.scores[:, 0],
                MEAN: content.scores[:, 1],
                "caption": content.best,
                "reason": pa.array(content.reasons, pa.string()),
            }
        )
        with replacing(self.path(chunk, ".parquet")) as file:
            parquet.write_table(table, file)

    def scored(self, chunk: int) -> tuple[NDArray[np.float32], list[int], list[str]]:
        """Return the scores of a chunk's samples, float32 [n, 2], their best captions, and their reasons.

        Raises:
            DataError: the file is damaged.
        """
        path = self.path(chunk, ".parquet")
        try:
            with parquet.ParquetFile(path) as file:
                table = file.read()
            scores = np.stack([table.column(name).to_numpy() for name in (SCORE, MEAN)], 1)
            return scores, table.column("caption").to_pylist(), table.column("reason").to_pylist()
        except (OSError, pa.ArrowException, KeyError) as error:
            raise _damaged(path, error) from None

    def rows(self, chunk: int, kind: Kind) -> NDArray[np.float16]:
        """Return the features of a chunk, float16 [n, E], mapped from its file.

        Raises:
            DataError: the file is missing or damaged.
        """
        path, shape = self.path(chunk, SUFFIX[kind]), (len(self.span(chunk)), self.width)
        try:
            rows: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, error) from None
        if rows.shape != shape or rows.dtype != np.float16:
            raise _damaged(path, f"{rows.dtype} {list(rows.shape)} instead of float16 {list(shape)}")
        return rows

    def _is_whole(self, chunk: int) -> bool:
        size = _npy_size(len(self.span(chunk)), self.width)
        try:
            sizes = [self.path(chunk, suffix).stat().st_size for suffix in SUFFIX.values()]
            return sizes == [size, size] and self.path(chunk, ".parquet").stat().st_size > 0
        except OSError:
            return False


class Features:
    """The features of all samples of a pool, read where they are asked for; rows without features are NaN."""

    def __init__(self, layout: Layout, about: Mapping[str, Any]) -> None:
        self.layout, self.about = layout, about

    @classmethod
    def open(cls, folder: Path, pool: Pool) -> "Features":
        """Return what `contrastive data embed --out FOLDER` wrote of exactly these samples.

        Raises:
            DataError: there is nothing, it is not finished, or it is of other samples.
        """
        about = description(folder)
        if about is None:
            raise DataError(f"{folder}: holds no {DESCRIPTION}; make it with contrastive data embed --out {folder}")
        if about["fingerprint"] != pool.fingerprint or about["samples"] != len(pool):
            said = f"{about['samples']:,} samples, fingerprint {about['fingerprint'][:8]}"
            now = f"{len(pool):,}, {pool.fingerprint[:8]}"
            rule = "name the shards that it was made of, or run contrastive data embed on these"
            raise DataError(f"{folder}: holds the features of other samples ({said}) than those given ({now}); {rule}")
        layout = Layout(folder, about["samples"], about["width"], about["chunk"])
        if not about["finished"]:
            left = len(layout.missing())
            rule = "run the same contrastive data embed again, which goes on from there"
            raise DataError(f"{folder}: {left:,} of {layout.chunks:,} chunks are missing; {rule}")
        return cls(layout, about)

    def __len__(self) -> int:
        return self.layout.samples

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return self.layout.width

    def image(self, numbers: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the image features of samples, float32 [n, E], in the order of `numbers`."""
        return self._rows("image", numbers)

    def text(self, numbers: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of each sample's best caption, float32 [n, E], in the order of `numbers`."""
        return self._rows("text", numbers)

    def chunks(self, kind: Kind = "image") -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the number of each chunk's first sample and the chunk's features, float32 [n, E]; one is held."""
        for chunk in range(self.layout.chunks):
            yield self.layout.span(chunk).start, self.layout.rows(chunk, kind).astype(np.float32)

    def _rows(self, kind: Kind, numbers: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        if isinstance(numbers, slice):
            numbers = np.arange(*numbers.indices(len(self)), dtype=np.int64)
        wanted = np.asarray(numbers, np.int64)
        found = np.empty((len(wanted), self.width), np.float32)
        if not len(wanted):
            return found
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"sample numbers must lie from 0 to {len(self) - 1}")
        order = np.argsort(wanted, kind="stable")  # each file is opened once, and read forwards
        chunks, starts = np.unique(wanted[order] // self.layout.chunk, return_index=True)
        for chunk, at in zip(chunks.tolist(), np.split(order, starts[1:]), strict=True):
            found[at] = self.layout.rows(chunk, kind)[wanted[at] - chunk * self.layout.chunk]
        return found


def description(folder: Path) -> dict[str, Any] | None:
    """Return what embed.json says; None where there is no such file.

    Raises:
        DataError: it is damaged, or of another version.
    """
    path = folder / DESCRIPTION
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise DataError(f"{path}: has format {about['format']!r}, and this version reads {FORMAT}; embed again")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); name another folder, and embed again") from None
    return about


def describe(folder: Path, about: Mapping[str, Any]) -> None:
    """Write embed.json."""
    write_whole(folder / DESCRIPTION, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def require_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with features that were made otherwise.

    Raises:
        DataError: they were; it names all that differs.
    """
    said = []
    for key, name in IDENTITY.items():
        if found.get(key) != wanted[key]:
            before, now = (
                f"{one['form']} ({one[key][:8]})" if key == "identity" else str(one.get(key))[:60]
                for one in (found, wanted)
            )
            said.append(f"{name} is {now}, and was {before}")
    if said:
        rule = "give what was given then, or another --out"
        raise DataError(f"{folder / DESCRIPTION}: was begun otherwise: {'; '.join(said)}; {rule}")


@cache
def _npy_size(count: int, width: int) -> int:
    """Return how many bytes a .npy of float16 [count, width] has."""
    header = io.BytesIO()
    said = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, {**said, "shape": (count, width)})
    return len(header.getvalue()) + 2 * count * width


def _damaged(path: Path, why: object) -> DataError:
    said = " ".join(str(why).split())
    return DataError(f"{path}: cannot be read ({said}); delete it and run contrastive data embed again")

"""Write datasets once and whole: webdataset shards, CLIP_benchmark folders, and folders that appear only when finished.

The same samples give the same bytes on every machine: members carry no time and no user, and their order is the
caller's. Whoever reads a folder therefore finds all of it or none of it.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import webdataset

from contrastive.errors import DataError

MANIFEST = "manifest.json"
Sample = Mapping[
    str, str | bytes
]  # "__key__" and one entry per extension: {"__key__": "a", "png": b"...", "txt": "a cat"}


def write_shards(folder: Path, samples: Sequence[Sample], shards: int) -> dict[str, int]:
    """Write `00000.tar` ... of lengths that differ by one sample at most, and `sizes.json`; return the sizes.

    Raises:
        DataError: fewer samples than shards, or a key that would split or repeat a sample.
    """
    names = [f"{index:05d}.tar" for index in range(shards)]
    sizes = _write_tars(folder, samples, names)
    write_json(folder / "sizes.json", sizes)
    return sizes


def write_classification(
    folder: Path, samples: Sequence[Sample], classnames: Sequence[str], templates: Sequence[str], shards: int = 1
) -> None:
    """Write the CLIP_benchmark layout of a labelled test set: samples of an image and `cls`, the label in ASCII.

    Labels index `classnames`; each template holds `{c}` where the class name goes.
    """
    _write_benchmark(folder, samples, shards)
    write_lines(folder / "classnames.txt", classnames)
    write_lines(folder / "zeroshot_classification_templates.txt", templates)


def write_retrieval(folder: Path, samples: Sequence[Sample], shards: int = 1) -> None:
    """Write the CLIP_benchmark layout of a retrieval test set: samples of an image and `txt`, one caption a line."""
    _write_benchmark(folder, samples, shards)
    write_lines(folder / "dataset_type.txt", ["retrieval"])


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON with a final newline; keys keep the caller's order."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write one line each, UTF-8, with Unix line ends on every system."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


@contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; on success it takes the place of `target`, on an error nothing is left behind.

    Raises:
        DataError: `target` holds something that is not a dataset of ours (it has no manifest), so it is not replaced.
    """
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise DataError(f"{target}: holds files but no {MANIFEST}, so it is not replaced; name an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))  # same disk: the rename is atomic
    try:
        draft.chmod(0o755)  # mkdtemp makes it private
        yield draft
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_finished(target: Path, recipe: Mapping[str, object]) -> bool:
    """Tell whether `target` was completed by exactly this recipe: its manifest's "recipe" entry equals `recipe`."""
    path = target / MANIFEST
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["recipe"] == recipe)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_benchmark(folder: Path, samples: Sequence[Sample], shards: int) -> None:
    _write_tars(folder / "test", samples, [f"{index}.tar" for index in range(shards)])
    write_lines(folder / "test" / "nshards.txt", [str(shards)])


def _write_tars(folder: Path, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, int]:
    _check(folder, samples, len(names))
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [len(samples) * index // len(names) for index in range(len(names) + 1)]
    for name, start, stop in zip(names, bounds, bounds[1:], strict=False):
        with open(folder / name, "wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as tar:
            for index in range(start, stop):
                tar.write({key: _bytes(key, value) for key, value in samples[index].items()})
    return {name: stop - start for name, start, stop in zip(names, bounds, bounds[1:], strict=False)}


def _bytes(key: str, value: str | bytes) -> str | bytes:
    return value.encode() if isinstance(value, str) and key != "__key__" else value


def _check(folder: Path, samples: Sequence[Sample], shards: int) -> None:
    if not 1 <= shards <= len(samples):
        raise DataError(f"{folder}: {len(samples)} samples cannot fill {shards} shards; write fewer shards")
    keys = [str(sample["__key__"]) for sample in samples]
    if len(set(keys)) < len(keys):
        raise DataError(f"{folder}: two samples share a key; keys must be unique")
    dotted = next((key for key in keys if "." in key.rpartition("/")[2]), None)
    if dotted is not None:  # webdataset cuts a member's name at its first dot
        raise DataError(f"{folder}: key {dotted!r} holds a dot, which webdataset reads as an extension")

"""Records as forms give them, good and bad, for the tests of packing."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.recipes.engine import Local
from contrastive.recipes.packing.pack import Packed, Packing, pack
from contrastive.recipes.records import File, Record, Rejected
from tests import toys

IDENTITY = {"source": "toys"}


def jpeg(number: int) -> bytes:
    pixels = np.kron(toys.image(number, 6), np.ones((4, 5, 1), np.uint8))
    return toys.encode(pixels, "JPEG", quality=90)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"i{number:03d}.jpg").write_bytes(jpeg(number))
    return folder


def good(folder: Path, count: int) -> list[Record]:
    """One record for each image of a folder."""
    return [
        Record(f"i{n:03d}", File(str(folder / f"i{n:03d}.jpg")), (toys.caption(n),), f"row {n}", {"n": n, "who": n % 5})
        for n in range(count)
    ]


def mixed(folder: Path, count: int) -> list[Record | Rejected]:
    """The same, with bytes instead of files, several captions, and rows of every kind that cannot be used."""
    (folder / "broken.jpg").write_bytes(b"<html>not found</html>")
    (folder / "zero.jpg").write_bytes(b"")
    rows: list[Record | Rejected] = list(good(folder, count))
    again = good(folder, count // 4)
    rows += [Record(row.key, row.image, (f"again {row.key}",), f"again {row.key}", {}) for row in again]
    rows += [Record(f"b{n}", toys.encode(toys.image(n)), (f"bytes {n}",), f"bytes {n}", {}) for n in range(6)]
    bad = ((File(str(folder / "gone.jpg")), "x"), (File(str(folder / "broken.jpg")), "x"), (jpeg(1), " "))
    for number, (image, caption) in enumerate((*bad, (File(str(folder / "zero.jpg")), "x"))):
        rows.insert(5 * number + 3, Record(f"bad{number}", image, (caption,), f"bad row {number}", {}))
    rows.append(Record("i001", File(str(folder / "i002.jpg")), ("another image",), "collision", {}))
    rows.insert(2, Rejected("line 3", "", "row: broken", "line 3: has 2 cells, not 3"))
    return rows


def packed(rows: Iterable[Record | Rejected], out: Path, processes: int = 1, **how: Any) -> Packed:
    with Local(processes) as engine:
        return pack(rows, out, Packing(**how), engine, identity=IDENTITY, progress=lambda done, total: None)


def read(out: Path) -> dict[str, dict[str, bytes]]:
    """Return the samples of a folder by key, read by tarfile, and by nobody of ours."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.rpartition(".")
                content = tar.extractfile(member)
                assert content is not None
                assert ending not in found.setdefault(key, {})
                found[key][ending] = content.read()
    return found


def sizes(out: Path) -> list[int]:
    """Return the samples of each tar."""
    counts = []
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            counts.append(len({name.rpartition(".")[0] for name in tar.getnames()}))
    return counts


def lasting(out: Path) -> dict[str, bytes]:
    """Return what must be the same whatever happened on the way: tars, sizes, rejected rows and provenance."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in ("manifest.json", ".lock")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def rejections(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]

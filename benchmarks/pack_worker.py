"""One packing in a process of its own, by ours or a peer's packages: prints a line of JSON.

pack_worker.py ours|loop|img2dataset kept|resized TABLE OUT PROCESSES SHARD_SIZE
"""

import csv
import io
import json
import logging
import os
import resource
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SIZE, QUALITY = 256, 95
Pack = Callable[[], None]


class Order(NamedTuple):
    """What is to be packed, and how; peers have one process."""

    table: Path
    out: Path
    is_resized: bool
    processes: int
    shard_size: int


def main(arguments: list[str]) -> None:
    way, mode, table, out, processes, shard_size = arguments
    logging.disable(logging.WARNING)
    order = Order(Path(table), Path(out), mode == "resized", int(processes), int(shard_size))
    pack = {"ours": ours, "loop": loop, "img2dataset": img2dataset}[way](order)
    cpu, clock = _processors(), time.perf_counter()
    pack()
    answer = {"clock": time.perf_counter() - clock, "cpu": _processors() - cpu}
    print(json.dumps({**answer, **_written(order.out)}))


def _processors() -> float:
    """Return the seconds of processor time of this process, and of those that it started and that are done."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def _written(out: Path) -> dict[str, int]:
    """Return how many images are in the tars, and their bytes."""
    sizes = []
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            sizes += [member.size for member in tar if member.name.endswith(".jpg")]
    return {"images": len(sizes), "bytes": sum(sizes)}


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield os.path.join(table.parent, row["image"]), row["caption"]


def ours(order: Order) -> Pack:
    """Return our packer from the table to whole, shuffled shards with index and manifest."""
    from contrastive.recipes.engine import Local
    from contrastive.recipes.forms.table import Table
    from contrastive.recipes.packing.encoding import Encoding
    from contrastive.recipes.packing.pack import Packing, pack

    how = Packing(
        order.shard_size, encoding=Encoding(SIZE, quality=QUALITY, format="jpg") if order.is_resized else None
    )

    def run() -> None:
        with Local(order.processes) as engine:
            pack(Table(str(order.table)).records(), order.out, how, engine, identity={})

    return run


def loop(order: Order) -> Pack:
    """Return the loop over `webdataset.ShardWriter` that people write, in one process."""
    import webdataset

    def run() -> None:
        order.out.mkdir(parents=True)
        with webdataset.ShardWriter(
            f"{order.out}/%05d.tar", maxcount=order.shard_size, maxsize=1e12, verbose=0
        ) as sink:
            for number, (path, caption) in enumerate(_rows(order.table)):
                image = smaller(path) if order.is_resized else Path(path).read_bytes()
                sink.write({"__key__": f"{number:08d}", "jpg": image, "txt": caption})

    return run


def smaller(path: str) -> bytes:
    """Return an image with its shorter side at SIZE, by Pillow alone."""
    from PIL import Image

    with Image.open(path) as image:
        scale = min(1.0, SIZE / min(image.size))
        resized = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
    content = io.BytesIO()
    resized.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def img2dataset(order: Order) -> Pack:
    """Return img2dataset's resizer and writer of shards over the files, in one process and without a download."""
    import pyarrow as pa
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    resizer = Resizer(SIZE, "keep_ratio", True, encode_quality=QUALITY, disable_all_reencoding=not order.is_resized)
    fields = [("key", pa.string()), ("caption", pa.string()), ("width", pa.int32()), ("height", pa.int32())]

    def run() -> None:
        order.out.mkdir(parents=True)
        writer = None
        for number, (path, caption) in enumerate(_rows(order.table)):
            if number % order.shard_size == 0:
                if writer is not None:
                    writer.close()
                writer = WebDatasetSampleWriter(
                    number // order.shard_size, str(order.out), True, 5, pa.schema(fields), "jpg"
                )
            with open(path, "rb") as file:
                image, width, height, _, _, error = resizer(io.BytesIO(file.read()))
            if error is not None:
                raise SystemExit(f"{path}: {error}")
            meta = {"key": f"{number:08d}", "caption": caption, "width": width, "height": height}
            writer.write(image, meta["key"], caption, meta)
        if writer is not None:
            writer.close()

    return run


if __name__ == "__main__":
    main(sys.argv[1:])

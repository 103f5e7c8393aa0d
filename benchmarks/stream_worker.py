"""One measurement of `stream.py` in a process of its own: prints a line of JSON.

stream_worker.py ours|normalised|open_clip|stages_ours|stages_open_clip FOLDER WORKERS BATCH WARMUP STEPS
stream_worker.py pixels FOLDER [FOLDER …]
stream_worker.py resume LANES WINDOW
"""

import io
import json
import os
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZE, CROP, SEED = 224, (0.9, 1.0), 0
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def main(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "pixels":
        answer: dict[str, Any] = {Path(folder).name: pixels(Path(folder)) for folder in rest}
    elif kind == "resume":
        answer = resume(int(rest[0]), None if rest[1] == "none" else int(rest[1]))
    else:
        folder, workers, batch, warmup, steps = Path(rest[0]), *map(int, rest[1:])
        made = {"ours": ours, "normalised": normalised, "open_clip": open_clip}
        if kind in made:
            answer = timed(made[kind](folder, workers, batch, warmup + steps), batch, warmup, steps)
        else:
            answer = {"stages_ours": stages_ours, "stages_open_clip": stages_open_clip}[kind](folder)
    print(json.dumps(answer))


def timed(batches: Iterator[Any], batch: int, warmup: int, steps: int) -> dict[str, float]:
    """Return microseconds per sample over `steps` batches: of all processors, of the main process, of the clock."""
    import psutil

    for _ in range(warmup):
        next(batches)
    root = psutil.Process()
    before, own, clock = _processors(root), time.process_time(), time.perf_counter()
    for _ in range(steps):
        next(batches)
    count = steps * batch / 1e6
    found = {"cpu": (_processors(root) - before) / count, "main": (time.process_time() - own) / count}
    return {**found, "clock": (time.perf_counter() - clock) / count}


def _processors(root: Any) -> float:
    found = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in found)


def _rows(folder: Path, batch: int, workers: int) -> Any:
    from contrastive.data.pool import open_pool
    from contrastive.data.rows import Plan, RankRows
    from contrastive.data.storage import Storage
    from contrastive.data.stream import Reader
    from contrastive.modalities.image import Preprocess, TrainTransform
    from contrastive.modalities.text import Tokenizer, TokenizerSpec
    from contrastive.settings import DataConfig

    data = DataConfig(train=str(folder), global_batch_size=batch, workers=workers)
    storage = Storage()
    pool = open_pool(data, storage)
    plan = Plan(pool.order(data, SEED), SEED, batch)
    transform = TrainTransform(Preprocess(SIZE, MEAN, STD), CROP)
    # As a run with default losses reads: nobody asks which images are equal.
    return RankRows(Reader(pool, storage), transform, Tokenizer(TokenizerSpec()), plan, image_ids=False)


def ours(folder: Path, workers: int, batch: int, steps: int) -> Iterator[Any]:
    """Yield our batches: uint8 images, which the training step normalises on the device."""
    from contrastive.data.loader import Loader

    return Loader(_rows(folder, batch, workers), workers=workers).batches(0, steps)


def normalised(folder: Path, workers: int, batch: int, steps: int) -> Iterator[Any]:
    """Yield our batches normalised by the main process on this processor, as a step does it on the device."""
    import torch

    from contrastive.modalities.image import Preprocess

    torch.set_num_threads(1)
    preprocess = Preprocess(SIZE, MEAN, STD)
    for one in ours(folder, workers, batch, steps):
        yield preprocess.normalise(one["image"].float().div_(255)), one["text"]


def open_clip(folder: Path, workers: int, batch: int, steps: int) -> Iterator[Any]:
    """Yield the batches of open_clip's own pipeline, as its trainer builds it."""
    import open_clip as peer
    from open_clip_train.data import get_wds_dataset

    shards = sorted(folder.glob("*.tar"))
    args = Namespace(
        train_data=str(folder / f"{{{shards[0].stem}..{shards[-1].stem}}}.tar"), train_num_samples=steps * batch * 2,
        train_data_upsampling_factors=None, dataset_resampled=True, seed=SEED, workers=workers, batch_size=batch,
        world_size=1, val_data=None, val_num_samples=0,
    )  # fmt: skip
    transform = peer.image_transform(SIZE, is_train=True, mean=MEAN, std=STD)
    info = get_wds_dataset(args, transform, True, tokenizer=peer.get_tokenizer("ViT-B-32"))
    return iter(info.dataloader)


def _stage(work: Callable[[], int], seconds: float = 1.5) -> float:
    """Return microseconds of processor per sample of `work`, which says how many samples it did."""
    work()
    begin, count = time.process_time(), 0
    while time.process_time() - begin < seconds:
        count += work()
    return (time.process_time() - begin) / count * 1e6


def stages_ours(folder: Path) -> dict[str, float]:
    """Return microseconds a sample of each of our stages, on one thread."""
    import numpy as np
    import torch

    from contrastive.hashing import mix
    from contrastive.modalities.decode import decode
    from contrastive.modalities.image import CROP_DRAWS, crop_box

    torch.set_num_threads(1)
    rows = _rows(folder, 64, 0)
    reader, numbers = rows.reader, range(64)
    found = [reader.pool.find(number) for number in numbers]
    encoded, captions = [reader.image(one) for one in found], [reader.caption(one, 0.0) for one in found]
    decoded = [decode(data) for data in encoded]
    draws = [mix("loader", number, np.arange(CROP_DRAWS)) / 2.0**64 for number in numbers]
    out = torch.empty(64, SIZE, SIZE, 3, dtype=torch.uint8)
    tokenizer = rows.tokenizer

    def read() -> int:
        for number in numbers:
            one = reader.pool.find(number)
            reader.image(one), reader.caption(one, 0.0)
        return 64

    def decoding() -> int:
        for data in encoded:
            decode(data)
        return 64

    def resize() -> int:
        for image, draw, row in zip(decoded, draws, out, strict=True):
            top, left, height, width = crop_box(*image.shape[:2], CROP, draw)
            rows.transform._resize_into(image[top : top + height, left : left + width], row)
        return 64

    def tokenise() -> int:
        tokenizer._known.clear()
        tokenizer(captions)
        return 64

    stages = {"read": read, "decode": decoding, "crop and resize": resize, "tokenise": tokenise}
    return {name: _stage(work) for name, work in stages.items()} | {"normalise": 0.0, "collate": 0.0}


def stages_open_clip(folder: Path) -> dict[str, float]:
    """Return microseconds a sample of each stage of open_clip's pipeline, on one thread."""
    import open_clip as peer
    import torch
    import webdataset as wds
    from PIL import Image
    from torch.utils.data import default_collate
    from torchvision import transforms

    torch.set_num_threads(1)
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = [one for one, _ in zip(wds.WebDataset(shards, shardshuffle=False), range(64), strict=False)]
    crop = transforms.RandomResizedCrop(SIZE, scale=CROP, interpolation=transforms.InterpolationMode.BICUBIC)
    convert = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    tokenizer = peer.get_tokenizer("ViT-B-32")
    images = [Image.open(io.BytesIO(one["jpg"])).convert("RGB") for one in samples]
    cropped = [crop(image) for image in images]
    texts = [one["txt"].decode() for one in samples]
    tensors = [(convert(image), tokenizer(text)[0]) for image, text in zip(cropped, texts, strict=True)]

    def read() -> int:
        return sum(1 for _ in wds.WebDataset(shards, shardshuffle=False))

    def decoding() -> int:
        for one in samples:
            Image.open(io.BytesIO(one["jpg"])).convert("RGB")
        return 64

    def each(work: Callable[[Any], Any], items: list[Any]) -> Callable[[], int]:
        return lambda: len([work(item) for item in items])

    stages = {
        "read": read, "decode": decoding, "crop and resize": each(crop, images), "normalise": each(convert, cropped),
        "tokenise": each(lambda text: tokenizer(text)[0], texts), "collate": lambda: (default_collate(tensors), 64)[1],
    }  # fmt: skip
    return {name: _stage(work) for name, work in stages.items()}


def pixels(folder: Path) -> dict[str, float]:
    """Return how far our pixels are from Pillow's of the same crops, in levels of 255: largest, and share above one."""
    import numpy as np
    from PIL import Image

    from contrastive.modalities.image import CROP_DRAWS, crop_box

    rows = _rows(folder, 64, 0)
    off = []
    for number in range(300):
        data = rows.reader.image(rows.reader.pool.find(number))
        draws = np.random.default_rng(number).random(CROP_DRAWS)
        with Image.open(io.BytesIO(data)) as image:
            top, left, height, width = crop_box(image.height, image.width, CROP, draws)
            crop = image.convert("RGB").crop((left, top, left + width, top + height))
            expected = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
        off.append(np.abs(rows.transform(data, draws).permute(1, 2, 0).numpy().astype(int) - expected))
    return {"max": float(np.max(off)), "mean": float(np.mean(off)), "above_one": float(np.mean(np.array(off) > 1))}


def resume(lanes: int, window: int | None) -> dict[str, float]:
    """Return what the first batch at position 10^9 of 10^5 shards costs: seconds and MiB, beyond the imports.

    The manifest is simulated: its shards have sizes, names and digests but no files. Order, and in which shard which of
    its samples lies, are computed as in a run; what is left of a batch are 4,096 reads.
    """
    import numpy as np

    from contrastive.data.index import Selection
    from contrastive.data.order import Order, Source
    from contrastive.data.rows import Plan
    from contrastive.data.shards import Manifest, Shard

    held, begin = _peak(), time.perf_counter()
    sizes = 9_000 + np.arange(100_000) % 2_000
    shards = tuple(
        Shard(f"/data/part-{n // 1000:03d}/{n:06d}.tar", int(size) * 50_000, int(size), int(size), f"{n:032x}")
        for n, size in enumerate(sizes.tolist())
    )
    manifest = Manifest(shards, Selection(("jpg",), ("txt",)))
    order = Order([Source(manifest.counts, 1.0, lanes, window)], SEED)
    plan = Plan(order, SEED, 4096, consumed=10**9)
    number = plan.draws(0).number
    shard, row = manifest.locate(number)
    assert (row < manifest.counts[shard]).all()
    assert len(np.unique(number)) == 4096
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "mib": _peak() - held, "total_mib": _peak(), "samples": float(len(manifest))}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main(sys.argv[1:])

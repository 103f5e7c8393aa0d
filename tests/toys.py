"""Tiny shards, configurations and launches for the tests."""

import io
import json
import multiprocessing
import os
import socket
import tarfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = 16
TINY_MODEL = [
    "model.model_cfg.embed_dim=16",
    "model.model_cfg.vision_cfg={image_size: 16, patch_size: 8, width: 32, layers: 1, head_width: 16}",
    "model.model_cfg.text_cfg={context_length: 12, width: 32, heads: 2, layers: 1}",
]


def image(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def caption(number: int) -> str:
    return f"a picture of thing number {number}"


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def members(number: int) -> list[tuple[str, bytes]]:
    key = f"s{number:05d}"
    captions = {"captions": [f"{caption(number)} seen {way}" for way in ("here", "there", "nowhere")]}
    return [
        (f"{key}.png", encode(image(number))),
        (f"{key}.txt", caption(number).encode()),
        (f"{key}.json", json.dumps(captions).encode()),
    ]


def write_shards(folder: Path, count: int, shards: int = 2) -> Path:
    for shard, numbers in enumerate(np.array_split(np.arange(count), shards)):
        write_tar(folder / f"{shard:05d}.tar", [member for n in numbers.tolist() for member in members(n)])
    return folder


def overrides(shards: Path, run: Path, *more: str) -> list[str]:
    """Return the overrides of a run that takes a second: a tiny open_clip model on tiny shards."""
    settings = [f"data.train={shards}", f"run.directory={run}", "data.workers=0", "data.global_batch_size=8"]
    fast = ["train.precision=fp32", "train.total_samples=48", "train.threads=1", "tracking.log_every_steps=1"]
    return [*TINY_MODEL, *settings, *fast, "tracking.tensorboard=false", *more]


def records(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def on_ranks(work: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 120) -> list[Any]:
    """Run `work(*arguments)` in `world_size` real processes joined by gloo, and return what each returns.

    The processes are forked, which spares them the imports; each asserts that the group has the size asked for.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(work, rank, world_size, port, arguments, queue))
        for rank in range(world_size)
    ]
    for one in ranks:
        one.start()
    answers: dict[int, Any] = {}
    try:
        for _ in ranks:
            rank, error, answer = queue.get(timeout=timeout)
            assert error is None, f"rank {rank} of {world_size}:\n{error}"
            answers[rank] = answer
    finally:
        for one in ranks:
            one.join(5)
            one.kill()
    return [answers[rank] for rank in range(world_size)]


def _rank(work: Callable[..., Any], rank: int, world_size: int, port: int, arguments: Any, queue: Any) -> None:
    import torch.distributed as dist
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # what the parent knew of its own, single process
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size)
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo")
        assert dist.get_world_size() == world_size
        queue.put((rank, None, work(*arguments)))
        if dist.is_initialized():
            dist.destroy_process_group()
    except BaseException:
        queue.put((rank, traceback.format_exc(), None))
        raise

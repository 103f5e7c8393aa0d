"""Small pools, a model without training, and their embedding, for the tests of `contrastive data embed`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrastive.data.pool import Pool, open_pool
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.models import forms
from contrastive.models.build import build
from contrastive.models.checkpoint import Loaded, save
from contrastive.recipes.embedding import Chunk, Layout
from contrastive.recipes.embedding_model import Embedder, Precision
from contrastive.recipes.embedding_samples import Reading, batches, spans
from contrastive.settings import DataConfig, ModelConfig
from tests import toys

MODEL_CFG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
}
WIDTH = 16
CPU = torch.device("cpu")


def model(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of an open_clip model with random weights; it reads no padding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return save(folder, build(ModelConfig(model_cfg=MODEL_CFG)), {"step": 1})


def loaded(folder: Path) -> Loaded:
    return forms.open_model(str(folder))


def pool_of(shards: Path, caption_key: str = "json.captions") -> Pool:
    return open_pool(DataConfig(train=str(shards), caption_key=caption_key), Storage())


def reading(pool: Pool, model: Loaded, captions: Any = "all") -> Reading:
    return Reading(Reader(pool, Storage(), "substitute"), model.transform, model.tokenizer, captions)


def spoilt(folder: Path) -> Path:
    """Write six samples, of which only the first, the fourth and the last can be embedded."""
    picture, words = toys.encode(toys.image(3)), b"words"
    members = [("a.png", picture), ("a.txt", words)]
    members += [("b.png", b"no image at all"), ("b.txt", words)]
    members += [("c.png", picture), ("c.txt", b"  ")]
    members += [("d.png", toys.encode(toys.image(4))), ("d.txt", b"other words")]
    members += [("e.png", picture[:-30]), ("e.txt", words)]
    members += [("f.png", picture), ("f.txt", words)]
    toys.write_tar(folder / "0.tar", members)
    return folder


def varied(folder: Path, count: int) -> Path:
    """Write samples with one to four captions of one to six words each."""
    draw = np.random.default_rng(1)
    words = ["red", "green", "blue", "cat", "dog", "house", "tree", "river", "small", "large", "old", "new"]
    members = []
    for number in range(count):
        said = [" ".join(draw.choice(words, draw.integers(1, 7))) for _ in range(draw.integers(1, 5))]
        members.append((f"s{number:05d}.png", toys.encode(toys.image(number))))
        members.append((f"s{number:05d}.json", json.dumps({"captions": said}).encode()))
    toys.write_tar(folder / "0.tar", members)
    return folder


def embedded(
    pool: Pool, model: Loaded, *, batch_size: int = 4, chunk: int = 100, workers: int = 0, precision: Precision = "fp32"
) -> list[Chunk]:
    """Return all chunks of a pool, as one process makes them."""
    layout = Layout(Path(), len(pool), WIDTH, chunk)
    embedder = Embedder(model, CPU, batch_size, precision)
    wanted = spans(map(layout.span, range(layout.chunks)), batch_size)
    found = batches(reading(pool, model), wanted, workers)
    return [embedder.chunk(layout.span(at), WIDTH, found, lambda count: None) for at in range(layout.chunks)]

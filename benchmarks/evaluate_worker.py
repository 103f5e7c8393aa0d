"""One measurement of `evaluate.py`: retrieval metrics of embeddings, ours or CLIP_benchmark's, in a fresh process."""

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

WIDTH, CAPTIONS, RECALL_K = 512, 5, (1, 5, 10)
NOISE = 5.5  # of a caption around its image: recall@1 near a half
BATCH = 64  # what CLIP_benchmark takes unless told otherwise


def main(side: str, images: int) -> None:
    """Print processor and clock seconds, growth of memory at its peak, and the recalls."""
    image_features, text_features = embeddings(images)
    work = {"ours": ours, "theirs": theirs}[side](image_features, text_features)
    before = settle()
    clock, processor = time.perf_counter(), time.process_time()
    recalls = work()
    spent = {"cpu": time.process_time() - processor, "clock": time.perf_counter() - clock}
    sys.stdout.write(json.dumps({**spent, "mib": (resident("VmHWM") - before) / 2**20, "recalls": recalls}) + "\n")


def embeddings(images: int) -> tuple[Tensor, Tensor]:
    """Return features of images [N, D] and of their captions [5 N, D], caption after caption."""
    draw = torch.Generator().manual_seed(0)
    image_features = torch.randn(images, WIDTH, generator=draw)
    around = image_features.repeat_interleave(CAPTIONS, 0)
    text_features = around + NOISE * torch.randn(around.shape, generator=draw)
    return normalize(image_features, dim=1), normalize(text_features, dim=1)


def ours(image_features: Tensor, text_features: Tensor) -> Callable[[], dict[str, float]]:
    """Return the whole task: recalls, ranks, mAP@R, gallery and rows."""
    from contrastive.eval.datasets import EvalDataset
    from contrastive.eval.embed import Embeddings
    from contrastive.eval.formats.clip_benchmark import ImageMember
    from contrastive.eval.retrieval import Retrieval
    from contrastive.eval.spec import DatasetSpec

    count = len(image_features)
    dataset = EvalDataset(
        spec=DatasetSpec(name="scores", root="", recall_k=RECALL_K),
        images=tuple(ImageMember("0.tar", f"s{index}", 0, 0) for index in range(count)),
        texts=tuple(f"caption {index}" for index in range(len(text_features))),
        documents=tuple(range(len(text_features))),
        captions=tuple(tuple(range(CAPTIONS * index, CAPTIONS * (index + 1))) for index in range(count)),
    )
    given = Embeddings(dataset, image_features, text_features)

    def work() -> dict[str, float]:
        metrics = Retrieval()(given).metrics
        ways = {"image_retrieval": "text_to_image", "text_retrieval": "image_to_text"}
        return {f"{their}_recall@{k}": metrics[f"{our}_recall@{k}"] for k in RECALL_K for their, our in ways.items()}

    return work


def theirs(image_features: Tensor, text_features: Tensor) -> Callable[[], dict[str, float]]:
    """Return CLIP_benchmark's evaluation with a model that only hands over the features."""
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    class Model:
        encode_image = encode_text = staticmethod(lambda features: features)

    def batches() -> Iterator[tuple[Tensor, list[list[int]]]]:
        for start in range(0, len(image_features), BATCH):
            rows = range(start, min(start + BATCH, len(image_features)))
            yield image_features[start : start + BATCH], [[CAPTIONS * row + i for i in range(CAPTIONS)] for row in rows]

    def work() -> dict[str, float]:
        recalls: dict[str, float] = evaluate(
            Model(), batches(), lambda texts: text_features[texts], "cpu", amp=False, recall_k_list=list(RECALL_K)
        )
        return recalls

    return work


def settle() -> int:
    """Give back what is free, start the peak of memory again, and return the bytes that are held."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return held


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

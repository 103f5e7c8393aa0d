"""Tiny datasets and models for the tests of evaluation."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.formats.clip_benchmark import ImageMember
from contrastive.eval.spec import DatasetSpec

PIXELS = 6


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_folder(root: Path, annotations: list[dict[str, str]], shards: int = 2, kind: str | None = None) -> Path:
    """Write a CLIP_benchmark folder; `annotations` gives each sample's other members, such as {"cls": "3"}."""
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text(f"{shards}\n")
    if kind is not None:
        (root / "dataset_type.txt").write_text(kind)
    for shard in range(shards):
        members = {}
        for index in range(shard, len(annotations), shards):
            members[f"s{index:07d}.png"] = png(index)
            members |= {f"s{index:07d}.{ext}": text.encode() for ext, text in annotations[index].items()}
        write_tar(root / "test" / f"{shard}.tar", members)
    return root


def write_classes(root: Path, classnames: list[str], templates: tuple[str, ...] = ("{c}", "a photo of a {c}.")) -> Path:
    (root / "classnames.txt").write_text("\n".join(classnames) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    return root


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 255 - 0.5


def tokenize(texts: list[str]) -> Tensor:
    rows = [list(text.encode()[:32]) for text in texts]
    return torch.tensor([row + [0] * (32 - len(row)) for row in rows])


class ToyModel(nn.Module):
    """A random linear model with dropout, whose modes and randomness must not show in an evaluation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(3 * PIXELS * PIXELS, width, generator=generator))
        self.text = nn.Parameter(torch.randn(256, width, generator=generator))
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.logit_scale = nn.Parameter(torch.full((1,), 3.0))

    def encode_image(self, image: Tensor) -> Tensor:
        return nn.functional.normalize(self.dropout(image.flatten(1)) @ self.image, dim=1)

    def encode_text(self, text: Tensor) -> Tensor:
        place = torch.arange(1, text.shape[1] + 1)
        return nn.functional.normalize((self.dropout(self.text[text]) * place[:, None].cos()).sum(1), dim=1)


def unit(rows: int, width: int, seed: int) -> Tensor:
    return nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def members(count: int) -> tuple[ImageMember, ...]:
    return tuple(ImageMember("0.tar", f"s{index}", 0, 0) for index in range(count))


def classified(image_features: Tensor, text_features: Tensor, labels: list[int], templates: int = 1) -> Embeddings:
    """Embeddings of a classification set whose class c has the text rows c * templates and following."""
    classes = len(text_features) // templates
    dataset = EvalDataset(
        spec=DatasetSpec(name="toy", root="toy"),
        images=members(len(image_features)),
        texts=tuple(f"prompt {index}" for index in range(len(text_features))),
        labels=tuple(labels),
        classnames=tuple(f"class {index}" for index in range(classes)),
        prompts=tuple(tuple(range(c * templates, (c + 1) * templates)) for c in range(classes)),
        templates=tuple(f"{{c}} {index}" for index in range(templates)),
    )
    return Embeddings(dataset, image_features, text_features)


def paired(
    image_features: Tensor,
    text_features: Tensor,
    captions: list[list[int]],
    lookalikes: dict[int, set[int]] | None = None,
    recall_k: tuple[int, ...] = (1, 5, 10),
) -> Embeddings:
    """Embeddings of a retrieval set; text t is document t."""
    dataset = EvalDataset(
        spec=DatasetSpec(name="toy", root="toy", recall_k=recall_k),
        images=members(len(image_features)),
        texts=tuple(f"text {index}" for index in range(len(text_features))),
        captions=tuple(map(tuple, captions)),
        documents=tuple(range(len(text_features))),
        lookalikes={text: frozenset(others) for text, others in (lookalikes or {}).items()},
    )
    return Embeddings(dataset, image_features, text_features)

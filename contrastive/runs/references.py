"""Images that must not be trained on: evaluation sets, other shards, folders; by the words that name them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from contrastive.config import read_yaml
from contrastive.data.pool import storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import DataError, ModelError
from contrastive.eval.samples import file_image
from contrastive.models import forms
from contrastive.recipes.curation.signatures import Picture, Progress, identity
from contrastive.recipes.embedding import Features
from contrastive.registry import suggest
from contrastive.runs.eval_data import open_eval_dataset
from contrastive.runs.opening import configuration, open_shards

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
EVALUATION = Path("configs/eval")
BATCH = 64  # images through the model at a time


@dataclass(frozen=True)
class ReferenceSet:
    """Named images; `stamp` differs where they do."""

    name: str
    pictures: Sequence[Picture]
    stamp: str


@dataclass(frozen=True)
class ShardPicture:
    """The image of a sample of shards."""

    reader: Reader
    number: int

    @property
    def name(self) -> str:
        """Return shard and key."""
        found = self.reader.pool.find(self.number)
        return f"{found.location.rpartition('/')[2]}: {found.row.key}"

    def decode(self) -> Image.Image:
        """Return the decoded image.

        Raises:
            DataError: it cannot be read.
        """
        found = self.reader.pool.find(self.number)
        try:
            image = Image.open(io.BytesIO(self.reader.image(found)))
            image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{found.where}: the image cannot be read ({error})") from None
        return image


@dataclass(frozen=True)
class ShardPictures(Sequence[Picture]):
    """The images of all samples of shards."""

    reader: Reader

    def __len__(self) -> int:
        return len(self.reader.pool)

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...

    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        if isinstance(index, slice):
            return [ShardPicture(self.reader, number) for number in range(*index.indices(len(self)))]
        return ShardPicture(self.reader, index)


def open_reference(word: str, settings: Sequence[str] = ()) -> ReferenceSet:
    """Return the images that a word names: an evaluation YAML or its name, a folder, shards, or the YAML of a run.

    A folder may be a dataset in CLIP_benchmark's layout, hold tars, or image files at any depth.

    Raises:
        UserError: there is no such thing, or it holds no image.
    """
    path = Path(word)
    if word.endswith((".yaml", ".yml")):
        return _of_shards(word, settings) if "data" in read_yaml(word) else _of_dataset(word)
    if path.is_dir():
        if (path / "dataset_type.txt").is_file() or next(path.glob("*/nshards.txt"), None) is not None:
            return _of_dataset(word)
        return _of_shards(word, settings) if next(path.glob("*.tar"), None) is not None else _of_folder(path)
    if ".tar" in word or "://" in word:
        return _of_shards(word, settings)
    if (EVALUATION / f"{word}.yaml").is_file():
        return _of_dataset(str(EVALUATION / f"{word}.yaml"))
    known = suggest(word, sorted(file.stem for file in EVALUATION.glob("*.yaml")))
    said = known if known.startswith("; did") else ""
    rule = f"name a YAML of {EVALUATION}/, shards, or a folder of images"
    raise DataError(f"--against {word}: there is no such file, folder or evaluation set{said}; {rule}")


def embedded(reference: ReferenceSet, features: Features, progress: Progress) -> NDArray[np.float32]:
    """Return the features of a set by the model that embedded the samples, float32 [R, E]; NaN where unreadable.

    Raises:
        ModelError: the model is gone or another one by now.
    """
    about = features.about
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    loaded = forms.open_model(about["form"], device or "cpu", about["weights"])
    if loaded.identity != about["identity"]:
        said = f"{about['form']} is another model ({loaded.identity[:8]}) than embedded the samples"
        raise ModelError(f"--features: {said} ({about['identity'][:8]}); run contrastive data embed again")
    found = np.full((len(reference.pictures), features.width), np.nan, np.float32)
    for start in range(0, len(found), BATCH):
        inputs, rows = [], []
        for row, picture in enumerate(reference.pictures[start : start + BATCH], start):
            try:
                inputs.append(loaded.transform(picture.decode()))
            except (DataError, OSError, ValueError):
                continue  # the records count what cannot be read
            rows.append(row)
        if rows:
            found[rows] = _features(loaded.model, torch.stack(inputs).to(device or "cpu"), about["precision"])
        progress(min(start + BATCH, len(found)), len(found))
    return found


def _features(model: Any, images: torch.Tensor, precision: str) -> NDArray[np.float32]:
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, precision == "bf16"):
        features = model.encode_image(images).float()
    found: NDArray[np.float32] = (features / features.norm(dim=1, keepdim=True)).cpu().numpy()
    return found


def _of_dataset(path: str) -> ReferenceSet:
    dataset = open_eval_dataset(path)
    return ReferenceSet(dataset.spec.name, dataset.images, dataset.fingerprint())


def _of_shards(word: str, settings: Sequence[str]) -> ReferenceSet:
    is_file = word.endswith((".yaml", ".yml"))
    config = configuration([word] if is_file else [], settings, [] if is_file else [word])
    reader = Reader(open_shards(config), Storage(storage_options(config.data)), "substitute")
    return ReferenceSet(Path(word).name, ShardPictures(reader), reader.pool.fingerprint)


def _of_folder(path: Path) -> ReferenceSet:
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"--against {path}: holds neither tars nor images ({', '.join(SUFFIXES)})")
    pictures = [file_image(path, file) for file in files]
    return ReferenceSet(path.resolve().name, pictures, identity(files=[(one.name, one.stamp) for one in pictures]))

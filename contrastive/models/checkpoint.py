"""A checkpoint explains itself: weights, model, preprocessing and tokenizer in one folder, nothing pickled."""

import dataclasses
import inspect
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from contrastive.errors import ModelError
from contrastive.modalities.image import Preprocess
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.models.build import Built, build
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.models.identity import identity, saved
from contrastive.registry import IMAGE_ENCODERS, TEXT_ENCODERS
from contrastive.registry import find as find_part
from contrastive.settings import ModelConfig

FORMAT = 1
ALLOWED = "CONTRASTIVE_PARTS"  # packages, with commas between them, whose classes a checkpoint may name
DESCRIPTION, WEIGHTS, EMA, BEST = "checkpoint.json", "model.safetensors", "ema.safetensors", "best.json"
Weights = Literal["trained", "ema"]


@dataclass(frozen=True)
class Loaded:
    """A model ready to embed: `transform` takes a PIL image, `tokenizer` a list of texts.

    `identity` is a digest of all that decides an embedding: weights, architecture, pixels and token ids.
    """

    model: ContrastiveModel
    transform: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    info: dict[str, Any]
    identity: str


def save(directory: Path, built: Built, info: dict[str, Any]) -> Path:
    """Write a checkpoint folder, whole or not at all, and return it. `info` is kept as JSON (step, samples_seen, …)."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = directory.with_name(f".{directory.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    describe(scratch, built, info)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in built.model.state_dict().items()}
    write_tensors(scratch / WEIGHTS, weights)
    scratch.rename(directory)
    return directory


def describe(folder: Path, built: Built, info: dict[str, Any]) -> None:
    """Write everything but the weights: what the model is, its preprocessing and its tokenizer."""
    tokenizer = built.tokenizer.save(folder)
    description = {
        "format": FORMAT,
        "model": dataclasses.asdict(built.config),
        "preprocess": built.preprocess.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "info": info,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write contiguous tensors of the CPU that share no memory.

    Raises:
        OSError: the disk is full or gone.
    """
    try:
        save_file(dict(tensors), str(path), metadata={"format": "pt"})
    except SafetensorError as error:  # what the operating system said, in its words
        raise OSError(f"{path}: {error}") from error


def find(path: str | Path) -> Path:
    """Return the checkpoint folder that `path` is, or the newest one of the run that it is.

    RUN/checkpoints/best is the best one by the run's train.best_metric.

    Raises:
        ModelError: there is none.
    """
    path = Path(path)
    best = path.parent / BEST
    if path.name == "best" and best.is_file():
        try:
            path = path.parent / Path(json.loads(best.read_text())["checkpoints"][0]["checkpoint"]).name
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(f"{best}: cannot be read ({type(error).__name__}); give a checkpoints/step-…") from error
    if (path / DESCRIPTION).is_file():
        return path
    saved = sorted(p for p in path.glob("checkpoints/step-*") if (p / DESCRIPTION).is_file())
    if not saved:
        what = "holds no checkpoint" if path.is_dir() else "does not exist"
        raise ModelError(f"{path}: {what}; give a run directory or one of its checkpoints/step-…")
    return saved[-1]


def load(path: str | Path, device: torch.device | str = "cpu", weights: Weights = "trained") -> Loaded:
    """Return the model of a checkpoint or run directory, in evaluation mode, with its transform and tokenizer.

    Raises:
        ModelError: none there, damaged, of a newer format, or without the weights asked for.
    """
    folder = find(path)
    built, info = restore(folder, weights)
    return ready(built, {**info, "path": str(folder), "weights": weights}, device)


def ready(built: Built, info: dict[str, Any], device: torch.device | str) -> Loaded:
    """Return a model that was built on the CPU on its device, in evaluation mode, with `info` and its preprocessing."""
    preprocess, spec = built.preprocess.to_dict(), built.tokenizer.spec
    config = dataclasses.asdict(dataclasses.replace(built.config, teacher={}, tokenizer={}))  # said below by content
    del config["checkpoint"]  # of a run's settings, never of a model: what was known by its identity stays so
    description = {
        "model": config,
        "preprocess": preprocess,
        "tokenizer": [saved(built.tokenizer.save), spec.context_length, spec.options],
    }
    digest = identity(built.model.state_dict(), description)
    built.model.to(device).eval()
    transform = built.preprocess.evaluation_transform()
    return Loaded(built.model, transform, built.tokenizer, {**info, "preprocess": preprocess}, digest)


def restore(folder: Path, weights: Weights = "trained") -> tuple[Built, dict[str, Any]]:
    """Rebuild what `save` wrote, and return it with its `info`."""
    file = folder / (EMA if weights == "ema" else WEIGHTS)
    if weights == "ema" and not file.is_file():
        raise ModelError(f"{folder}: holds no moving average of the weights; train with train.ema_decay to have one")
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] > FORMAT:
            raise ModelError(f"{folder}: is of format {description['format']}, this version reads {FORMAT}; upgrade")
        config = ModelConfig(**description["model"])
        _require_known_parts(folder, config)
        tokenizer = description["tokenizer"]
        if tokenizer["name"] is not None:
            tokenizer = {**tokenizer, "name": str(folder / tokenizer["name"])}
        preprocess: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in description["preprocess"].items()
        }
        fresh = build(_offline(config, tokenizer))
        fresh.model.load_state_dict(load_file(str(file)), strict=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be loaded: {(str(error) or repr(error)).splitlines()[0]}") from error
    stored = Preprocess(**preprocess)
    return Built(fresh.model, stored, Tokenizer(TokenizerSpec(**tokenizer)), config), description["info"]


def _require_known_parts(folder: Path, config: ModelConfig) -> None:
    """Refuse a description that names code outside our tables: whoever wrote the file would choose what runs.

    Raises:
        ModelError: it does, and the user has not allowed the package.
    """
    allowed = [name.strip() for name in os.environ.get(ALLOWED, "").split(",")]
    for key, table, spec in (("image", IMAGE_ENCODERS, config.image), ("text", TEXT_ENCODERS, config.text)):
        name = str(spec.get("name", "")) if spec else ""
        package = name.partition(":")[0].partition(".")[0]
        if spec and name not in table and package not in allowed:
            rule = f"which a checkpoint may only name with your leave; if it is your own, set {ALLOWED}={package}"
            raise ModelError(f"{folder / DESCRIPTION}: model.{key}.name: {name!r} is code from elsewhere, {rule}")


def _offline(config: ModelConfig, tokenizer: dict[str, Any]) -> ModelConfig:
    """Return the description with every tower random and the tokenizer local: the weights come from the checkpoint."""
    if not config.model_cfg:
        image = _without_pretrained(IMAGE_ENCODERS, config.image)
        text = _without_pretrained(TEXT_ENCODERS, config.text)
        return dataclasses.replace(config, text=text, image=image, tokenizer=tokenizer)
    cfg = json.loads(json.dumps(config.model_cfg))
    cfg["text_cfg"]["hf_model_pretrained"] = False
    cfg["vision_cfg"]["timm_model_pretrained"] = False
    if tokenizer["name"] is not None:
        cfg["text_cfg"]["hf_tokenizer_name"] = tokenizer["name"]
    return dataclasses.replace(config, model_cfg=cfg)


def _without_pretrained(table: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    part = find_part(table, spec["name"], "model")
    return {**spec, "pretrained": False} if "pretrained" in inspect.signature(part).parameters else spec

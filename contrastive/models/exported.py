"""Exports that compute by themselves (ONNX, archives of torch), opened for evaluation as they are."""

import hashlib
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from contrastive.errors import ModelError
from contrastive.files import sha256
from contrastive.modalities.image import Preprocess
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.models.checkpoint import Loaded
from contrastive.models.contrastive_model import ContrastiveModel

RECORD, INPUTS = "export.json", "inputs.json"
UNSEALED = (".md",)  # may be edited without the model becoming another one
# By format, what opens a folder: `load(folder) -> ContrastiveModel`. Formats of other libraries are read by `forms`.
LOADERS = {
    "onnx": "contrastive.models.onnx:load",
    "onnx_int8": "contrastive.models.onnx:load",
    "torch_export": "contrastive.models.programs:load",
    "torchao_int8": "contrastive.models.torchao:load",
}


def is_exported(form: str) -> bool:
    """Whether `form` is the folder of an export that computes by itself."""
    return _format(Path(form)) in LOADERS


def load(folder: Path, device: torch.device | str = "cpu") -> Loaded:
    """Return the model of an export with its transform and tokenizer; its identity is that of its files.

    Raises:
        ModelError: a file is damaged or missing, or the library that reads the format is not installed.
    """
    record = _read(folder / RECORD)
    digest = _checked(folder, record)
    inputs = read_inputs(folder)
    try:
        given: dict[str, Any] = inputs["preprocess"]
        preprocess = Preprocess(**{**given, "mean": tuple(given["mean"]), "std": tuple(given["std"])})
        spec = TokenizerSpec(**inputs["tokenizer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / INPUTS}: says nothing usable of the inputs: {error}; export again") from error
    if spec.name is not None:
        spec = TokenizerSpec(str(folder / spec.name), spec.context_length, spec.options)
    model = _loader(LOADERS[record["format"]])(folder)
    model.to(device).eval()
    info = {"form": str(folder), "format": record["format"], "preprocess": preprocess.to_dict()}
    return Loaded(model, preprocess.evaluation_transform(), Tokenizer(spec), info, digest)


def read_inputs(folder: Path) -> dict[str, Any]:
    """Return what inputs.json says: `preprocess`, `tokenizer`, `embed_dim`, `logit_scale`, `logit_bias` and so on.

    Raises:
        ModelError: there is none, or it is no JSON.
    """
    return _read(folder / INPUTS)


def _format(folder: Path) -> str | None:
    if not (folder / RECORD).is_file():
        return None
    found = _read(folder / RECORD).get("format")
    return found if isinstance(found, str) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: is no JSON object; export again")
    return content


def _checked(folder: Path, record: dict[str, Any]) -> str:
    """Return one digest of the files that the record lists, each of which is as it was written.

    Raises:
        ModelError: naming the first that is not.
    """
    files = record.get("files")
    found = files.items() if isinstance(files, dict) else ()
    listed = {k: str(one.get("sha256")) for k, one in found if isinstance(one, dict) and not k.endswith(UNSEALED)}
    if INPUTS not in listed:
        raise ModelError(f"{folder / RECORD}: does not list {INPUTS}; export again")
    for name, digest in sorted(listed.items()):
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path}: is missing; {RECORD} lists it: copy the folder again")
        if sha256(path) != digest:
            raise ModelError(f"{path}: is damaged or was changed: its SHA-256 is not that of {RECORD}; copy it again")
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _loader(path: str) -> Callable[[Path], ContrastiveModel]:
    module, _, name = path.partition(":")
    return cast(Callable[[Path], ContrastiveModel], getattr(import_module(module), name))

"""What a model is, as one digest: what has been computed with a model may be kept as long as it does not change."""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

THREADS = 4  # hashlib lets go of the interpreter; one core hashes a gigabyte in half a second


def identity(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of `weights`, on the CPU, and of a JSON-like description."""
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(_digest, weights.values())
        content = sorted(zip(weights, digests, strict=True))
    said = json.dumps([content, description], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()


def _digest(tensor: Tensor) -> str:
    """Return type, shape and SHA-256 of the bytes of a tensor; a view, where its memory is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(flat.numpy().data).hexdigest()}"


def saved(save: Callable[[Path], Any]) -> dict[str, str]:
    """Return the SHA-256 of each file that `save` writes into a folder: what a tokenizer is, wherever it lay."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

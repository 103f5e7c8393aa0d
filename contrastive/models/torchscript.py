"""Tensors of a TorchScript archive, such as OpenAI's CLIP files, read without running what it holds.

`torch.jit.load` would build the archive's modules from its code, and `torch.load(weights_only=True)` refuses the whole
archive. What it keeps of the modules is a plain `torch.save` archive beside that code: without the code torch's
weights-only reader takes it, with every class of the archive's own standing for a record of named values.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

OWN = "__torch__."  # what TorchScript puts before the names of its classes
KEPT = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment")
OPENAI = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI keeps among the weights
MASK = "attn_mask"  # a constant that open_clip makes itself


class _Record:
    """A module of the archive: its named values, and no behaviour."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, by what torch itself goes by."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def is_openai(tensors: dict[str, Tensor]) -> bool:
    """Whether tensors are those of one of OpenAI's files, all of which are models with QuickGELU."""
    return all(name in tensors for name in OPENAI)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript archive under their modules' names; masks are left out.

    Raises:
        pickle.UnpicklingError: it names more than tensors and classes of its own.
        RuntimeError, OSError, zipfile.BadZipFile: it is damaged.
    """
    with tempfile.TemporaryFile() as file:
        _copy_values(path, file)
        names = get_unsafe_globals_in_checkpoint(file)
        if foreign := [name for name in names if not name.startswith(OWN)]:
            raise pickle.UnpicklingError(f"{path}: names {foreign[0]}")
        file.seek(0)
        with safe_globals([(_Record, name) for name in names]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    return {name: value for name, value in _tensors(content, "") if name.rpartition(".")[2] != MASK}


def _copy_values(path: Path, file: IO[bytes]) -> None:
    """Write the archive without its code and constants, which make torch take it for TorchScript."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as values:
        for entry in archive.infolist():
            inside = entry.filename.partition("/")[2]
            if inside in KEPT or inside.startswith("data/"):
                values.writestr(entry.filename, archive.read(entry))
    file.seek(0)


def _tensors(record: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(record).items() if isinstance(record, _Record) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        else:
            yield from _tensors(value, f"{prefix}{name}.")

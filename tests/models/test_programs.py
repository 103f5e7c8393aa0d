"""Programs of torch.export are never opened."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from contrastive.errors import ModelError
from contrastive.models.programs import load


class Planted:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def planted(folder: Path) -> None:
    """Write a program in whose place for example inputs there is a payload."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    whole, payload = io.BytesIO(), io.BytesIO()
    torch.export.save(program, whole)
    torch.save(Planted(folder / "ran"), payload)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(folder / "image.pt2", "w") as out:
        for name in given.namelist():
            out.writestr(name, payload.getvalue() if "sample_inputs" in name else given.read(name))


def test_a_planted_program_is_refused_unopened(tmp_path: Path):
    planted(tmp_path)
    with pytest.raises(ModelError, match=r"is a program of torch\.export.*evaluate the checkpoint"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_torch_itself_would_run_what_is_planted(tmp_path: Path):
    """When this fails, torch loads programs safely, and so may we."""
    planted(tmp_path)
    with pytest.raises(AssertionError):
        torch.export.load(tmp_path / "image.pt2")
    assert (tmp_path / "ran").exists()

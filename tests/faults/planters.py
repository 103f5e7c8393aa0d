"""Payloads that leave a mark when they run, in the guise of every kind of file that a model's folder holds."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contrastive.errors import UserError


class Touch:
    """Makes the file `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable, tuple]:
        return exec, (code(self.mark).decode(),)


def code(mark: Path) -> bytes:
    return f"from pathlib import Path\nPath({str(mark)!r}).touch()\n".encode()


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"state_dict": Touch(mark)})


def saved_by_torch(mark: Path) -> bytes:
    content = io.BytesIO()
    torch.save({"epoch": 1, "state_dict": {"weight": torch.ones(2), "more": Touch(mark)}}, content)
    return content.getvalue()


def before_zip(mark: Path) -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": Touch(mark)}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def torch_script(mark: Path) -> bytes:
    """Return an archive of TorchScript whose pickled data is a payload."""
    whole, content = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Touch(mark)) if name.endswith("/data.pkl") else old.read(name))
    return content.getvalue()


def objects(mark: Path) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Touch(mark)], dtype=object), allow_pickle=True)
    return content.getvalue()


def archive_of_objects(mark: Path) -> bytes:
    content = io.BytesIO()
    np.savez(content, weight=np.array([Touch(mark)], dtype=object))
    return content.getvalue()


def tagged(mark: Path) -> bytes:
    return f"model: !!python/object/apply:subprocess.check_call [[touch, '{mark}']]\n".encode()


PICKLES = {
    "pickle": pickled,
    "torch": saved_by_torch,
    "torch_before_zip": before_zip,
    "torch_script": torch_script,
    "npy": objects,
    "npz": archive_of_objects,
}
BESIDE = {  # files that something or other would read, or import, where they lie beside what is loaded
    ".metadata": pickled,
    "__init__.py": code,
    "conftest.py": code,
    "custom_generate/generate.py": code,
    "modeling_x.py": code,
    "model.pt": saved_by_torch,
    "open_clip_pytorch_model.bin": saved_by_torch,
    "optimizer.pt": saved_by_torch,
    "pytorch_model.bin": saved_by_torch,
    "pytorch_model.pth": before_zip,
    "random_states_0.pkl": pickled,
    "rng_state.pth": saved_by_torch,
    "scheduler.bin": saved_by_torch,
    "sitecustomize.py": code,
    "spiece.model": pickled,
    "tokenization_x.py": code,
    "training_args.bin": saved_by_torch,
    "vocab.pkl": pickled,
}


def plant(path: Path, content: bytes) -> None:
    """Put a payload in the place of a file, or where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def plant_beside(folder: Path, mark: Path) -> None:
    """Put every payload of BESIDE into a folder, but where a file lies already."""
    for name, content in BESIDE.items():
        if not (folder / name).exists():
            plant(folder / name, content(mark))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that every payload makes when it runs; no test may leave it."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "a payload ran"


def refused(load: Callable[[], Any], *names: Any) -> bool:
    """Return whether `load` refused what it was given; a refusal is one line and names the file, or its folder."""
    said = None
    try:
        load()
    except UserError as error:
        said = str(error)
    if said is None:
        return False
    assert "\n" not in said
    assert any(str(name) in said for name in names), f"{said}: names none of {names}"
    for advice in ("weights_only", "trust_remote_code=True", "option `trust_remote_code"):
        assert advice not in said, "an error that says how to run the payload"
    return True


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def copied(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name, dirs_exist_ok=True))


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    change(content)
    path.write_text(json.dumps(content))


def with_code(folder: Path, mark: Path) -> None:
    """Have the tokenizer of a folder name a class of its own."""
    plant(folder / "tokenization_x.py", code(mark) + b"from transformers import PreTrainedTokenizerFast as X\n")
    named = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]}}
    edited(folder / "tokenizer_config.json", lambda content: content.update(named))

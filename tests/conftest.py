import os

# Before torch and transformers are imported: no hub, one thread a process, and nobody's launch settings.
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
    os.environ.pop(name, None)

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from tests import toys  # noqa: E402
from tests.eval.toys import write_classes, write_folder  # noqa: E402
from tests.faults.remote import CONTENT  # noqa: E402
from tests.faults.server import Site, site  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))  # a user's accelerate settings change runs
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "contrastive"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of three shards with 40 small image-text pairs."""
    return toys.write_shards(tmp_path / "shards", 40, shards=3)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """An evaluation YAML over a CLIP_benchmark folder of two classes."""
    write_classes(write_folder(tmp_path / "eval", [{"cls": str(i % 2)} for i in range(6)]), ["cat", "dog"])
    (tmp_path / "toy.yaml").write_text(f"name: toy\nroot: {tmp_path / 'eval'}\n")
    return tmp_path / "toy.yaml"


@pytest.fixture
def web() -> Iterator[Site]:
    """A server with one file, which misbehaves as it is told."""
    with site() as served:
        served.files["/a.tar"] = CONTENT
        yield served

"""One part of every kind from outside the package, with the file counts of CONTRIBUTING.md."""

import re
import sys
import tarfile
from pathlib import Path

import pytest
from pyarrow import parquet

from contrastive import cli
from contrastive.models.build import build
from contrastive.models.checkpoint import save
from contrastive.settings import ModelConfig
from tests import toys
from tests.eval.toys import png, write_classes, write_folder
from tests.toys import records

ROOT = Path(__file__).parents[1]
LOSS = '''
import torch


class Margin(torch.nn.Module):
    """Every wrong text must score `margin` below the right one."""

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, features, batch):
        score = features["image_features"] @ features["text_features"].T
        excess = (score - score.diagonal()[:, None] + self.margin).relu()
        return {"loss": excess.mean(), "violations": (excess > self.margin).float().mean()}
'''
ENCODER = '''
import torch


class Bag(torch.nn.Module):
    """The mean of token embeddings."""

    def __init__(self, vocab_size: int, pad_id: int, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.embedding = torch.nn.Embedding(vocab_size, width, padding_idx=pad_id)

    def forward(self, text):
        tokens = self.embedding(text)
        return tokens.mean(dim=1), tokens
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in ("my_loss", "my_encoder", "my_format", "my_source", "my_filter"):
        sys.modules.pop(name, None)


def claimed_files(part: str) -> int:
    """Return how many files CONTRIBUTING.md says that adding a part from outside takes."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return int(re.search(rf"\| {part} \|[^|]*\| (\d+) \|", text).group(1))


def pretrain(tmp_path: Path, shards: Path, *settings: str) -> list[dict]:
    (tmp_path / "empty.yaml").write_text("{}\n")
    assert cli.pretrain([str(tmp_path / "empty.yaml"), *toys.overrides(shards, tmp_path / "run"), *settings]) == 0
    return records(tmp_path / "run")


def test_a_loss_is_one_file(shards: Path, tmp_path: Path, outside: Path):
    (outside / "my_loss.py").write_text(LOSS)
    assert len(list(outside.glob("*.py"))) == claimed_files("a loss")
    rows = pretrain(
        tmp_path, shards, "losses={hinge: {name: 'my_loss:Margin', margin: 0.3}}", "optim.learning_rate=0.01"
    )
    assert {"hinge/loss", "hinge/violations"} <= set(rows[0])
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_an_encoder_is_one_file_and_its_checkpoint_loads(
    shards: Path, tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
):
    (outside / "my_encoder.py").write_text(ENCODER)
    assert len(list(outside.glob("*.py"))) == claimed_files("an encoder")
    parts = ["model.image={name: cnn}", "model.text={name: 'my_encoder:Bag', width: 12}", "model.image_size=16"]
    rows = pretrain(tmp_path, shards, "model.model_cfg=null", *parts, "model.tokenizer={context_length: 8}")
    assert len(rows) == 6
    from contrastive.models.checkpoint import ALLOWED, load

    monkeypatch.setenv(ALLOWED, "my_encoder")
    assert type(load(tmp_path / "run").model.text).__name__ == "Bag"


def test_an_evaluation_dataset_is_one_yaml(shards: Path, tmp_path: Path, outside: Path):
    write_classes(write_folder(tmp_path / "pets", [{"cls": str(i % 2)} for i in range(6)]), ["cat", "dog"])
    (outside / "pets.yaml").write_text(f"name: pets\nroot: {tmp_path / 'pets'}\n")
    assert len(list(outside.iterdir())) == claimed_files("an evaluation dataset")
    pretrain(tmp_path, shards, f"eval.datasets=[{outside / 'pets.yaml'}]")
    row = records(tmp_path / "run", "eval")[0]
    assert (row["dataset"], row["n"]) == ("pets", 6)
    assert "top1" in row["metrics"]


TASK = '''
from contrastive.eval.result import Result

class First:
    """The mean of the first feature, or more."""

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

    def __call__(self, embeddings) -> Result:
        return Result({"first_feature": max(self.least, float(embeddings.image_features[:, 0].mean()))}, {})
'''
LAYOUT = '''
from contrastive.eval.samples import Caption, Content, Sample, file_image

class Flat:
    """Images whose caption is their name."""

    def read(self, root, split, kinds) -> Content:
        paths = sorted((root / split).glob("*.png"))
        samples = [Sample(file_image(root, f"{split}/{p.name}"), captions=(Caption(p.stem),)) for p in paths]
        return Content(samples, ("retrieval",))
'''


def test_an_evaluation_task_is_one_file(shards: Path, tmp_path: Path, outside: Path, classes: Path):
    (outside / "my_task.py").write_text(TASK)
    assert len(list(outside.iterdir())) == claimed_files("an evaluation task")
    classes.write_text(classes.read_text() + "tasks: [{name: 'my_task:First', least: 2}]\n")
    pretrain(tmp_path, shards, f"eval.datasets=[{classes}]")
    (row,) = records(tmp_path / "run", "eval")
    assert row["metrics"] == {"first_feature": 2.0}


def test_a_layout_of_evaluation_data_is_one_file(shards: Path, tmp_path: Path, outside: Path):
    (outside / "my_layout.py").write_text(LAYOUT)
    assert len(list(outside.iterdir())) == claimed_files("a layout of evaluation data")
    (tmp_path / "pets" / "test").mkdir(parents=True)
    for index, name in enumerate(("cat", "dog", "cow")):
        (tmp_path / "pets" / "test" / f"{name}.png").write_bytes(png(index))
    (tmp_path / "pets.yaml").write_text(f"name: pets\nroot: {tmp_path / 'pets'}\nformat: 'my_layout:Flat'\n")
    pretrain(tmp_path, shards, f"eval.datasets=[{tmp_path / 'pets.yaml'}]")
    row = records(tmp_path / "run", "eval")[0]
    assert (row["task"], row["n"]) == ("retrieval", 3)


EXPORTER = '''
from pathlib import Path

import numpy as np

from contrastive.export.exporter import Tolerance, Written


class Arrays:
    """The projections of a model of embeddings, as arrays."""

    requires, towers, tolerance = {}, ("text",), Tolerance()
    reader = str(Path(__file__).with_name("arrays_reader"))

    def check(self, source):
        pass

    def write(self, source, folder, probe):
        embedding = source.weights["text.embedding.weight"]
        np.savez(folder / "arrays.npz", table=embedding, matrix=source.weights["text_projection.weight"])
        return Written(notes=["It is the text tower alone."])

    def loading(self, folder):
        return f"arrays = np.load('{folder}/arrays.npz')"
'''
READER = """
import numpy as np


class Reader:
    def __init__(self, folder):
        self.arrays = dict(np.load(folder + "/arrays.npz"))

    def embed_text(self, ids):
        return self.arrays["table"][ids].mean(1) @ self.arrays["matrix"].T
"""


def test_an_export_format_is_a_module_and_its_reader(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch):
    (outside / "my_encoder.py").write_text(ENCODER)
    (outside / "my_format.py").write_text(EXPORTER)
    (outside / "arrays_reader.py").write_text(READER)
    assert len(list(outside.glob("*.py"))) - 1 == claimed_files("an export format")
    monkeypatch.setenv("CONTRASTIVE_PARTS", "my_encoder")
    towers = {"image": {"name": "cnn", "widths": [8], "depths": [1]}, "text": {"name": "my_encoder:Bag"}}
    built = build(ModelConfig(**towers, embed_dim=4, image_size=16))
    save(tmp_path / "run" / "checkpoints" / "step-1", built, {"step": 1})
    words = ["export", str(tmp_path / "run"), "--to", "my_format:Arrays", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert "It is the text tower alone." in (tmp_path / "out" / "README.md").read_text()
    sys.modules.pop("my_format", None)
    with_other_bags = (outside / "arrays_reader.py").read_text().replace("mean(1)", "sum(1)")
    (outside / "arrays_reader.py").write_text(with_other_bags + "    # the direction is the same\n")
    assert cli.main([*words[:-1], str(tmp_path / "same")]) == 0
    (outside / "arrays_reader.py").write_text(with_other_bags.replace("sum(1)", "max(1)"))
    assert cli.main([*words[:-1], str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


FORM = '''
from contrastive.recipes.records import File, Record, Rejected

class Lines:
    """Lines of a path, a blank and a caption."""

    def __init__(self, source: str, prefix: str = "") -> None:
        self.source, self.prefix = source, prefix

    def records(self):
        for number, line in enumerate(open(self.source), 1):
            path, _, caption = line.strip().partition(" ")
            where = f"line {number}"
            if caption:
                yield Record(str(number), File(path), (self.prefix + caption,), where)
            else:
                yield Rejected(where, path, "caption: missing", f"{where}: has no caption")
'''
FILTER = '''
from contrastive.recipes.curation.filtering import Judged

class Word:
    """Samples whose caption ends in a word."""

    def __init__(self, word: str) -> None:
        self.word, self.scores = word, {}

    def judge(self, sample) -> Judged:
        return Judged("" if sample.captions[0].endswith(self.word) else "word: missing")
'''


def test_a_form_of_sources_is_one_file(tmp_path: Path, outside: Path):
    (outside / "my_source.py").write_text(FORM)
    assert len(list(outside.glob("*.py"))) == claimed_files("a form of sources to pack")
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "list").write_text(f"{tmp_path / 'a.png'} a cat\nnothing\n")
    words = ["pack", str(tmp_path / "list"), "--from", "my_source:Lines", "prefix=see ", "--out", str(tmp_path / "out")]
    assert cli.main(["data", *words, "--processes", "1"]) == 0
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        assert tar.extractfile("1.txt").read() == b"see a cat"
        assert tar.extractfile("1.png").read() == png(1)
    assert "line 2: has no caption" in (tmp_path / "out/rejected.jsonl").read_text()


def test_a_filter_is_one_file(shards: Path, tmp_path: Path, outside: Path):
    (outside / "my_filter.py").write_text(FILTER)
    assert len(list(outside.glob("*.py"))) == claimed_files("a filter of samples")
    (tmp_path / "rules.yaml").write_text("- {name: 'my_filter:Word', word: '7'}\n")
    words = ["filter", str(shards), "--rules", str(tmp_path / "rules.yaml"), "--out", str(tmp_path / "out")]
    assert cli.main(["data", *words, "--processes", "1"]) == 0
    table = parquet.read_table(tmp_path / "out/verdicts.parquet").to_pylist()
    assert [row["key"] for row in table if row["kept"]] == ["s00007", "s00017", "s00027", "s00037"]
    assert {row["reason"] for row in table} == {"", "word: missing"}

"""docs/your-data.md: its commands take a folder of images and a CSV to a trained, evaluated, exported model."""

import csv
import json
import re
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from contrastive import cli
from contrastive.runs import machine

PAGE = (Path(__file__).parents[1] / "docs" / "your-data.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DATASET = re.findall(r"```yaml\n(name: photos\n.*?)```", PAGE, re.DOTALL)
SHORT = [
    "train.total_samples=2560",
    "train.threads=1",
    "data.global_batch_size=64",
    "train.precision=fp32",
    "data.workers=0",
]
COLOURS = {"red": (220, 40, 30), "green": (30, 160, 60), "blue": (40, 70, 210), "black": (20, 20, 20)}
GROUNDS = {"white": (250, 250, 250), "grey": (150, 150, 150), "pink": (250, 190, 200)}
SHAPES = ("circle", "square", "bar")


def photo(colour: str, shape: str, ground: str, place: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", (96, 80), GROUNDS[ground])
    x, y = place
    box = (x, y, x + 30, y + (10 if shape == "bar" else 30))
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, COLOURS[colour])
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """216 photos and their table, in which one row has no photo."""
    (tmp_path / "photos").mkdir()
    draws = np.random.default_rng(0).integers(2, 40, (6, 36, 2)).tolist()
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for round_, places in enumerate(draws):
            for number, (things, place) in enumerate(zip(product(COLOURS, SHAPES, GROUNDS), places, strict=True)):
                name = f"{round_}{number:02d}.jpg"
                photo(*things, place).save(tmp_path / "photos" / name, quality=92)
                table.writerow([name, "a {} {} on {}".format(*things)])
        table.writerow(["gone.jpg", "what nobody has"])
    return tmp_path


def run(command: str) -> None:
    program, *words = shlex.split(command)
    assert program == "contrastive"
    assert cli.main(words + (SHORT if words[0] == "pretrain" else [])) == 0, command


def test_the_page_goes_from_a_folder_to_an_exported_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(machine, "cores", lambda: 1)  # threads of OpenMP would stay, and tests that fork could hang
    (folder / "photos.yaml").write_text(DATASET[0])
    for command in COMMANDS:
        run(command)
    (rejected,) = [json.loads(line) for line in (folder / "data/photos/rejected.jsonl").read_text().splitlines()]
    assert (rejected["reason"], rejected["key"]) == ("image: missing", "gone")
    packed = json.loads((folder / "data/photos/pack.json").read_text())["splits"]
    assert sum(split["samples"] for split in packed.values()) == 216
    trained = json.loads((folder / "runs/photos/finished.json").read_text())
    assert trained["samples_seen"] == 2560
    results = json.loads((folder / "results/photos/results.json").read_text())["results"]
    recall = {result["task"]: result for result in results}["retrieval"]["metrics"]["image_to_text_recall@5"]
    assert recall["value"] > recall["chance"]
    scope: dict[str, object] = {}
    exec(compile(PYTHON[0], "docs/your-data.md", "exec"), scope)
    image = Image.open(folder / "photos/000.jpg")
    inputs = scope["processor"](text=["a red circle on white"], images=image, return_tensors="pt", padding="max_length")
    assert scope["model"](**inputs).logits_per_image.shape == (1, 1)


def test_every_step_of_the_page_is_a_command():
    assert [command.split()[1] for command in COMMANDS] == [
        "data", "data", "data", "data", "data", "pretrain", "eval", "export", "export"
    ]  # fmt: skip
    assert len(DATASET) == 1
    assert (Path(__file__).parents[1] / "configs" / "own_data.yaml").exists()

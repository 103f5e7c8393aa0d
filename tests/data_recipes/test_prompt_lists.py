import hashlib
import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "contrastive" / "eval" / "prompt_lists"
BUILDER = """
all_imagenet_wordnet_ids = ["n1", "n2", "n3"]
imagenet_a_wnids = ["n3", "n1"]
imagenet_r_wnids = {"n2"}
imagenet_o_wnids = ["n1"]
"""
PROMPTS = """# Prompts

## CIFAR10

```bash
classes = [
    'airplane',
]

templates = [
    'a {}.',
]
```

## FacialEmotionRecognition2013

```bash
classes = [
    ['sad', 'low'],
    ['happy'],
]

templates = [
    'look, {}.',
]
```
"""


def recipe_module():
    spec = importlib.util.spec_from_file_location("prompt_lists_recipe", ROOT / "data_recipes" / "prompt_lists.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = recipe_module()


def checkouts(folder: Path) -> tuple[Path, Path]:
    """Small checkouts of both sources; English has two sets, the other languages ImageNet."""
    datasets = folder / "CB" / "clip_benchmark" / "datasets"
    datasets.mkdir(parents=True)
    (datasets / "builder.py").write_text(BUILDER)
    for code in ("ar", "cn", "en", "it", "jp"):
        names = {"imagenet1k": ["x"]} | ({"fer2013": ["happy", "sad"]} if code == "en" else {})
        templates = {name: ["{c}"] for name in names} | ({"dummy": ["{c}"]} if code == "en" else {})
        (datasets / f"{code}_classnames.json").write_text(json.dumps(names))
        (datasets / f"{code}_zeroshot_classification_templates.json").write_text(json.dumps(templates))
    (folder / "CLIP" / "data").mkdir(parents=True)
    (folder / "CLIP" / "data" / "prompts.md").write_text(PROMPTS)
    return folder / "CB", folder / "CLIP"


def run(clip_benchmark: Path, openai: Path, out: Path) -> int:
    return recipe.main(["--clip-benchmark", str(clip_benchmark), "--openai", str(openai), "--out", str(out)])


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_lists_are_merged_and_clip_benchmark_wins(tmp_path: Path):
    assert run(*checkouts(tmp_path), tmp_path / "out") == 0
    assert read(tmp_path / "out" / "en.json") == {
        "classnames": {"cifar10": ["airplane"], "fer2013": ["happy", "sad"], "fer2013_synonyms": ["happy", "sad|low"]},
        "templates": {"cifar10": ["a {c}."], "fer2013": ["{c}"], "fer2013_synonyms": ["{c}"]},
    }
    assert read(tmp_path / "out" / "ja.json")["classnames"] == {"imagenet1k": ["x"]}
    assert read(tmp_path / "out" / "subsets.json") == {"imagenet-a": [0, 2], "imagenet-o": [0], "imagenet-r": [1]}


def test_hashes_of_all_sources_are_written(tmp_path: Path):
    clip_benchmark, openai = checkouts(tmp_path)
    run(clip_benchmark, openai, tmp_path / "out")
    hashes = read(tmp_path / "out" / "sources.json")
    assert len(hashes) == 12
    assert hashes["openai/data/prompts.md"] == hashlib.sha256(PROMPTS.encode()).hexdigest()
    assert set(hashes) == set(read(SHIPPED / "sources.json"))


def test_a_missing_source_is_named(tmp_path: Path, capsys):
    clip_benchmark, openai = checkouts(tmp_path)
    (openai / "data" / "prompts.md").unlink()
    assert run(clip_benchmark, openai, tmp_path / "out") == 2
    assert "prompts.md: no such file; give the checkout of openai" in capsys.readouterr().err

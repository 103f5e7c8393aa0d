"""Prompt lists: the class names and templates that the package ships, taken from the projects that define them.

    git clone https://github.com/LAION-AI/CLIP_benchmark
    git clone https://github.com/openai/CLIP
    python data_recipes/prompt_lists.py --clip-benchmark CLIP_benchmark --openai CLIP

**Sources.** CLIP_benchmark's `clip_benchmark/datasets/*_classnames.json` and `*_zeroshot_classification_templates.json`
(MIT, (c) 2022 Mehdi Cherti), in five languages; the ImageNet subsets from the WordNet ids in its `builder.py`; and
OpenAI's `data/prompts.md` (MIT, (c) 2021 OpenAI) for what CLIP_benchmark has no list of. Only data is taken.

**Not taken.** ImageNet's English class names and templates, which open_clip brings at run time.

`sources.json` holds the SHA-256 of every file that was read: equal sources give equal lists, byte for byte.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.errors import DataError, UserError
from contrastive.recipes.writing import write_json

LANGUAGES = {"ar": "ar", "cn": "zh", "en": "en", "it": "it", "jp": "ja"}  # CLIP_benchmark's code: ours
ALL_IMAGENET = "all_imagenet_wordnet_ids"
SUBSETS = {"imagenet-a": "imagenet_a_wnids", "imagenet-o": "imagenet_o_wnids", "imagenet-r": "imagenet_r_wnids"}
OPENAI_NAMES = {  # heading of data/prompts.md: CLIP_benchmark's name where it has one
    "Birdsnap": "birdsnap",
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "CLEVRCounts": "clevr_count_all",
    "Caltech101": "caltech101",
    "Country211": "country211",
    "DescribableTextures": "dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc_aircraft",
    "FacialEmotionRecognition2013": "fer2013",
    "Flowers102": "flowers",
    "Food101": "food101",
    "GTSRB": "gtsrb",
    "HatefulMemes": "hateful_memes",
    "KITTI": "kitti_closest_vehicle_distance",
    "Kinetics700": "kinetics700",
    "MNIST": "mnist",
    "OxfordPets": "pets",
    "PascalVOC2007": "voc2007",
    "PatchCamelyon": "pcam",
    "RESISC45": "resisc45",
    "SST2": "renderedsst2",
    "STL10": "stl10",
    "SUN397": "sun397",
    "StanfordCars": "cars",
    "UCF101": "ucf101",
}
OUT = Path("contrastive/eval/prompt_lists")
NOT_DATA = ("dummy",)  # a placeholder of CLIP_benchmark's tests

Lists = dict[str, dict[str, list[str]]]


class Sources:
    """Files of checkouts, whose hashes are kept as they are read."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        self.hashes: dict[str, str] = {}

    def read(self, project: str, name: str) -> str:
        """Return the text of a file of a project.

        Raises:
            DataError: the checkout has no such file.
        """
        path = self.folders[project] / name
        try:
            content = path.read_bytes()
        except OSError:
            raise DataError(f"{path}: no such file; give the checkout of {project}, see --help") from None
        self.hashes[f"{project}/{name}"] = hashlib.sha256(content).hexdigest()
        return content.decode("utf-8")


def clip_benchmark(sources: Sources) -> dict[str, Lists]:
    """Return CLIP_benchmark's lists by language; English ImageNet is left to open_clip."""
    found: dict[str, Lists] = {}
    for theirs, ours in LANGUAGES.items():
        names = json.loads(sources.read("CLIP_benchmark", f"clip_benchmark/datasets/{theirs}_classnames.json"))
        file = f"clip_benchmark/datasets/{theirs}_zeroshot_classification_templates.json"
        templates = json.loads(sources.read("CLIP_benchmark", file))
        found[ours] = {"classnames": _wanted(names, ours), "templates": _wanted(templates, ours)}
    return found


def _wanted(lists: Mapping[str, list[str]], language: str) -> dict[str, list[str]]:
    unwanted = (*NOT_DATA, *(["imagenet1k"] if language == "en" else []))
    return {name: entries for name, entries in lists.items() if name not in unwanted}


def imagenet_subsets(sources: Sources) -> dict[str, list[int]]:
    """Return which of ImageNet's 1,000 classes each variant has, in the order of its labels."""
    code = ast.parse(sources.read("CLIP_benchmark", "clip_benchmark/datasets/builder.py"))
    wanted = (ALL_IMAGENET, *SUBSETS.values())
    values: dict[str, list[str]] = {}
    for node in ast.walk(code):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in wanted:
            values[target.id] = list(ast.literal_eval(node.value))
    missing = [name for name in wanted if name not in values]
    if missing:
        raise DataError(f"builder.py of CLIP_benchmark has no {', '.join(missing)}; check out an earlier version")
    place = {wordnet_id: index for index, wordnet_id in enumerate(values[ALL_IMAGENET])}
    return {name: sorted(place[wordnet_id] for wordnet_id in values[variable]) for name, variable in SUBSETS.items()}


def openai_prompts(sources: Sources) -> Lists:
    """Return the lists of data/prompts.md; several names of one class become synonyms, `happy|smiling`."""
    lists: Lists = {"classnames": {}, "templates": {}}
    text = sources.read("openai", "data/prompts.md")
    for heading, block in re.findall(r"^## (\w+)\n+```bash\n(.*?)```", text, re.DOTALL | re.MULTILINE):
        if heading not in OPENAI_NAMES:
            raise DataError(f"data/prompts.md: the section {heading} is new; name it in OPENAI_NAMES")
        for statement in ast.parse(block).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                entries: list[Any] = ast.literal_eval(statement.value)
                kind = {"classes": "classnames"}.get(statement.targets[0].id, statement.targets[0].id)
                lists[kind][OPENAI_NAMES[heading]] = [e if isinstance(e, str) else "|".join(e) for e in entries]
    lists["templates"] = {name: [t.replace("{}", "{c}") for t in ts] for name, ts in lists["templates"].items()}
    return lists


def synonyms_of_emotions(lists: Lists, openai: Lists) -> list[str]:
    """Return OpenAI's several words for each emotion, in the order of CLIP_benchmark's labels."""
    by_first = {name.split("|")[0]: name for name in openai["classnames"]["fer2013"]}
    return [by_first[name] for name in lists["classnames"]["fer2013"]]


def build(folders: Mapping[str, Path], out: Path) -> None:
    """Write one JSON a language, the ImageNet subsets and the hashes of what was read.

    Raises:
        DataError: a checkout lacks a file or has another form than expected.
    """
    sources = Sources(folders)
    languages, openai = clip_benchmark(sources), openai_prompts(sources)
    english = languages["en"]
    english["classnames"]["fer2013_synonyms"] = synonyms_of_emotions(english, openai)
    english["templates"]["fer2013_synonyms"] = english["templates"]["fer2013"]
    for kind, lists in openai.items():
        english[kind] = {**lists, **english[kind]}
    out.mkdir(parents=True, exist_ok=True)
    for language, lists in languages.items():
        write_json(out / f"{language}.json", {kind: dict(sorted(found.items())) for kind, found in lists.items()})
    subsets = {name: json.dumps(indices) for name, indices in imagenet_subsets(sources).items()}
    lines = ",\n".join(f' "{name}": {indices}' for name, indices in subsets.items())
    (out / "subsets.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    write_json(out / "sources.json", dict(sorted(sources.hashes.items())))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, or 2 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip-benchmark", type=Path, required=True, help="a checkout of LAION-AI/CLIP_benchmark")
    parser.add_argument("--openai", type=Path, required=True, help="a checkout of openai/CLIP")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder to write (default: {OUT})")
    options = parser.parse_args(arguments)
    try:
        build({"CLIP_benchmark": options.clip_benchmark, "openai": options.openai}, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

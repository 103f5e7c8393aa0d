"""The evaluation datasets and suites that are shipped: the field's usual ones, without their data."""

import re
import shlex
from pathlib import Path

import pytest

from contrastive.config import read_yaml
from contrastive.errors import DataError
from contrastive.eval.datasets import open_dataset
from contrastive.eval.prompts import prompts_of, shipped
from contrastive.eval.samples import Content
from contrastive.eval.spec import DatasetSpec

CONFIGS = Path(__file__).parents[1] / "configs"
BUILT_IN = {"digits", "faces", "characters"}
DATASETS = sorted(path for path in (CONFIGS / "eval").glob("*.yaml") if path.stem not in BUILT_IN)
SUITES = sorted((CONFIGS / "suites").glob("*.yaml"))
# Images and classes as CLIP_benchmark's and DataComp's own lists count them.
CLASSES = {
    "caltech101": (6085, 102), "cars": (8041, 196), "cifar10": (10000, 10), "cifar100": (10000, 100),
    "clevr_closest_object_distance": (15000, 6), "clevr_count_all": (15000, 8), "country211": (21100, 211),
    "dtd": (1880, 47), "eurosat": (5400, 10), "fgvc_aircraft": (3333, 100), "flowers": (6149, 102),
    "food101": (25250, 101), "gtsrb": (12630, 43), "imagenet-a": (7500, 200), "imagenet-o": (2000, 200),
    "imagenet-r": (30000, 200), "imagenet1k": (50000, 1000), "imagenet_sketch": (50889, 1000),
    "imagenetv2": (10000, 1000), "kitti_closest_vehicle_distance": (711, 4), "mnist": (10000, 10),
    "objectnet": (18574, 113), "pcam": (32768, 2), "pets": (3669, 37), "renderedsst2": (1821, 2),
    "resisc45": (6300, 45), "stl10": (8000, 10), "sun397": (108754, 397), "svhn": (26032, 10),
    "voc2007": (14976, 20), "wilds-camelyon17": (85054, 2), "wilds-fmow": (22108, 62), "wilds-iwildcam": (42791, 182),
}  # fmt: skip


def spec_of(path: Path) -> DatasetSpec:
    return DatasetSpec.from_dict(read_yaml(path), str(path))


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_a_shipped_dataset_says_where_it_lies_where_it_comes_from_and_how_to_get_it(path: Path) -> None:
    spec = spec_of(path)
    assert spec.name == path.stem
    assert re.fullmatch(r"data/eval/[\w./-]+", spec.root)
    assert spec.reference is not None
    assert re.fullmatch(r"https?://\S+", spec.reference)
    assert path.read_text().startswith("# ")
    assert spec.hint is not None
    words = shlex.split(spec.hint)
    made = [words[index + 1] for index, word in enumerate(words[:-1]) if word in ("--local-dir", "--output-dir")]
    assert all(spec.root == folder or spec.root.startswith(f"{folder}/") for folder in made)
    assert spec.train_split is None  # probes are asked for, and their data is many times larger


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_without_its_data_a_shipped_dataset_is_refused_with_the_command(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_of(path)
    with pytest.raises(DataError, match=f"dataset {spec.name}: .*{re.escape(str(spec.hint))}"):
        open_dataset(spec)


def test_folders_of_clip_benchmark_are_named_as_on_its_hub() -> None:
    for path in DATASETS:
        spec = spec_of(path)
        if spec.format == "clip_benchmark":
            folder = spec.root.removeprefix("data/eval/")
            owner = "djghosh" if folder.endswith("_test") else "clip-benchmark"
            assert f"hf download {owner}/{folder} --repo-type dataset" in str(spec.hint)
            assert folder.removeprefix("wds_").removeprefix("vtab-") in (
                spec.name, spec.name + "_test", spec.name.removesuffix(f"_{spec.language}"),
            )  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_comments_give_the_published_numbers(name: str) -> None:
    images, classes = CLASSES[name]
    comment = (CONFIGS / "eval" / f"{name}.yaml").read_text().splitlines()[0]
    assert f" {images:,} images of {classes:,} " in comment


def test_lists_that_a_shipped_dataset_names_exist() -> None:
    for path in DATASETS:
        spec = spec_of(path)
        if spec.classnames is None:
            continue
        found = prompts_of(spec, Content((), ("classification",)))
        assert found.classnames
        assert found.templates == shipped("templates", str(spec.classnames), spec.language)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_names_shipped_datasets_once(path: Path) -> None:
    content = read_yaml(path)
    assert set(content) == {"name", "datasets"}
    assert content["name"] == path.stem
    known = {f"configs/eval/{dataset.name}" for dataset in DATASETS}
    assert set(content["datasets"]) <= known
    assert len(set(content["datasets"])) == len(content["datasets"])


def test_suites_have_the_published_sizes() -> None:
    sizes = {path.stem: len(read_yaml(path)["datasets"]) for path in SUITES}
    assert sizes == {
        "compositional": 8,
        "datacomp": 35,
        "imagenet_shift": 6,
        "multilingual": 16,
        "retrieval": 3,
        "vtab": 19,
        "vtab_plus": 35,
    }

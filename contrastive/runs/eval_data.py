"""Which datasets an evaluation is about: YAMLs, folders, suites, or those of the run."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from contrastive.config import load, read_yaml
from contrastive.errors import ConfigError, ModelError, UserError
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.spec import DatasetSpec
from contrastive.models import checkpoint
from contrastive.registry import suggest
from contrastive.train import directory

SUITE_KEYS = ("name", "datasets", "reference")


def datasets_of(data: Sequence[str], suites: Sequence[str], root: str, model: str) -> list[EvalDataset]:
    """Return the datasets that YAMLs and suites name; those of the run `model` where none is named.

    Raises:
        UserError: none is named, or one cannot be opened.
    """
    paths = [*data, *(path for suite in suites for path in read_suite(suite))] or _of_run(model)
    return [open_eval_dataset(path, root) for path in dict.fromkeys(paths)]


def open_eval_dataset(path: str, root: str = ".") -> EvalDataset:
    """Return the evaluation dataset that a YAML describes, or that a folder in CLIP_benchmark's layout is.

    Relative roots of YAMLs are looked for in `root`.
    """
    if Path(path).is_dir():
        return open_dataset(DatasetSpec(name=Path(path).resolve().name, root=path))
    spec = DatasetSpec.from_dict(read_yaml(path), path)
    return open_dataset(replace(spec, root=str(Path(root) / spec.root)))


def read_suite(path: str) -> list[str]:
    """Return the YAMLs that a suite lists: {name, datasets: [paths]}; paths are relative to the working directory.

    Raises:
        ConfigError: it is not of that form, or lists nothing.
    """
    content = read_yaml(path)
    for key in content:
        if key not in SUITE_KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}{suggest(key, SUITE_KEYS)}")
    listed = content.get("datasets")
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
        raise ConfigError(f"{path}: datasets must be a list of evaluation YAMLs")
    return listed


def all_checkpoints(run: str) -> list[str]:
    """Return the checkpoints of a run, oldest first.

    Raises:
        ModelError: it has none.
    """
    newest = checkpoint.find(run)
    if newest == Path(run):
        raise ModelError(f"{run}: is one checkpoint; --all-checkpoints needs the directory of a run")
    return [str(path) for path in sorted(newest.parent.glob("step-*")) if (path / checkpoint.DESCRIPTION).is_file()]


def _of_run(model: str) -> Iterable[str]:
    is_ours = not {"@", ":"} & set(model) or Path(model).is_dir()
    folder = checkpoint.find(model) if is_ours else None
    config = folder.parent.parent / directory.CONFIG if folder is not None else None
    datasets = load([str(config)]).eval.datasets if config is not None and config.is_file() else []
    if not datasets:
        raise UserError(f"{model}: no dataset is named; add --data configs/eval/NAME.yaml")
    return datasets

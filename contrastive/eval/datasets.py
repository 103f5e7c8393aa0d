"""One evaluation dataset: its description (a YAML of configs/eval/) and its samples, captions, classes and prompts.

A dataset is map-style: image i is read by its offset in a tar, so that processes share the set by index, not by shard.
Every text to embed, prompt or candidate, stands once in `texts`; all else points to it by that text's id.
"""

import hashlib
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from contrastive.errors import ConfigError, DataError
from contrastive.eval.clip_benchmark import ImageMember, Sample, read_folder_type, read_samples
from contrastive.registry import convert, suggest

DEFAULT_TASKS = {"classification": "zeroshot", "retrieval": "retrieval"}
# What a task reads from the samples; a task from outside the package takes what the folder's type offers.
TASK_CONTENT = {"zeroshot": "classification", "retrieval": "retrieval"}


@dataclass(frozen=True)
class DatasetSpec:
    """The keys of one evaluation YAML; paths are relative to the working directory.

    `tasks` empty: the one that dataset_type.txt names. `templates` and `classnames`: a text file or the lines
    themselves; None: the folder's own. `candidates`: a text file that enlarges the pool of retrieval. `lookalikes`:
    JSON {text: [texts]} that count as the same answer in the tolerant recall. `hint`: the command that makes the data,
    for error messages.
    """

    name: str
    root: str
    tasks: tuple[str, ...] = ()
    split: str = "test"
    templates: str | tuple[str, ...] | None = None
    classnames: str | tuple[str, ...] | None = None
    candidates: str | None = None
    lookalikes: str | None = None
    recall_k: tuple[int, ...] = (1, 5, 10)
    hint: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, object], source: str) -> "DatasetSpec":
        """Return the description in `values`, the content of the YAML `source`; `task: x` is short for `tasks: [x]`.

        Raises:
            ConfigError: an unknown key, a missing name or root, or a value of the wrong type or range.
        """
        values = dict(values)
        if "task" in values and "tasks" not in values:
            values["tasks"] = values.pop("task")
        hints = typing.get_type_hints(cls)
        for key in values:
            if key not in hints:
                raise ConfigError(f"{source}: unknown key {key!r}{suggest(key, hints)}")
        for key in ("name", "root"):
            if not values.get(key):
                raise ConfigError(f"{source}: {key} is missing; write `{key}: …` (a dataset needs a name and a folder)")
        for key in ("tasks", "recall_k"):
            if isinstance(values.get(key), str | int):
                values[key] = [values[key]]
        spec = cls(**{key: convert(value, hints[key], f"{source}: {key}") for key, value in values.items()})
        if not spec.recall_k or min(spec.recall_k) < 1:
            raise ConfigError(
                f"{source}: recall_k: {list(spec.recall_k)} must be numbers of at least 1, like [1, 5, 10]"
            )
        return replace(spec, recall_k=tuple(sorted(set(spec.recall_k))))


@dataclass(frozen=True)
class EvalDataset:
    """The samples of one dataset and what is known about them, all by index: image i, text id t, class c."""

    spec: DatasetSpec
    images: tuple[ImageMember, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()  # class of image i; empty where no task needs classes
    classnames: tuple[str, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()  # text ids of class c, one a template
    captions: tuple[tuple[int, ...], ...] = ()  # text ids of image i, each once
    candidates: tuple[int, ...] = ()  # text ids of the retrieval pool
    lookalikes: Mapping[int, frozenset[int]] = field(default_factory=dict)  # symmetric, without the text itself

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Return image `index`, decoded.

        Raises:
            DataError: its bytes are not an image that Pillow reads.
        """
        return self.images[index].decode()

    def fingerprint(self) -> str:
        """Return a digest of keys, byte sizes, labels and texts: equal exactly where two processes see the same set."""
        content = [
            [(image.name, image.size) for image in self.images],
            [self.texts, self.labels, self.prompts, self.captions, self.candidates],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def open_dataset(spec: DatasetSpec) -> EvalDataset:
    """Index the dataset's folder and check all but the pixels; tasks, classes and captions come with it.

    Raises:
        DataError: a file is missing, damaged, or contradicts another (label out of range, …).
        ConfigError: the folder's type has no evaluator here.
    """
    root = Path(spec.root)
    if not (root / spec.split).is_dir():
        remedy = f"make it with: {spec.hint}" if spec.hint else "set root and split to an existing dataset folder"
        raise DataError(f"dataset {spec.name}: there is no folder {root / spec.split}; {remedy}")
    kind = read_folder_type(root)
    contents = {TASK_CONTENT.get(task, kind) for task in spec.tasks} or {kind}
    if not contents <= DEFAULT_TASKS.keys():
        known = ", ".join(DEFAULT_TASKS)
        raise ConfigError(f"dataset {spec.name}: {root / 'dataset_type.txt'} says {kind!r}; what can be read: {known}")
    tasks = spec.tasks or (DEFAULT_TASKS[kind],)
    samples = read_samples(root / spec.split, labels="classification" in contents, captions="retrieval" in contents)
    ids: dict[str, int] = {}
    parts: dict[str, object] = {}
    if "classification" in contents:
        parts |= _classes(spec, samples, ids)
    if "retrieval" in contents:
        parts |= _pairs(spec, samples, ids)
    images = tuple(sample.image for sample in samples)
    return EvalDataset(spec=spec, images=images, tasks=tasks, texts=tuple(ids), **parts)  # type: ignore[arg-type]


def _classes(spec: DatasetSpec, samples: Sequence[Sample], ids: dict[str, int]) -> dict[str, object]:
    """Return labels, class names and prompts; new texts are numbered in `ids`."""
    classnames = _lines(spec, "classnames", "classnames.txt", "one class a line, in the order of the labels")
    templates = _lines(spec, "templates", "zeroshot_classification_templates.txt", "one template a line, such as {c}")
    for template in templates:
        if "{c}" not in template:
            raise DataError(
                f"dataset {spec.name}: template {template!r} has no {{c}}; write {{c}} where the class name goes"
            )
    for sample in samples:
        if sample.label not in range(len(classnames)):
            raise DataError(
                f"{sample.image.name}: label {sample.label} is not in 0..{len(classnames) - 1}; "
                f"dataset {spec.name} names {len(classnames)} classes: mend the .cls or the class names"
            )
    prompts = [_number([template.replace("{c}", name) for template in templates], ids) for name in classnames]
    labels = tuple(sample.label for sample in samples)
    return {"classnames": tuple(classnames), "prompts": tuple(prompts), "labels": labels}


def _pairs(spec: DatasetSpec, samples: Sequence[Sample], ids: dict[str, int]) -> dict[str, object]:
    """Return captions, candidates and lookalikes; new texts are numbered in `ids`, equal captions share one id."""
    captions = [tuple(dict.fromkeys(_number(sample.captions, ids))) for sample in samples]
    used = dict.fromkeys(text for group in captions for text in group)
    if spec.candidates is None:
        candidates = tuple(used)
    else:
        pool = _read_lines(Path(spec.candidates), f"dataset {spec.name}: candidates", "one text a line", spec.hint)
        candidates = tuple(dict.fromkeys(_number(pool, ids)))
        _require_captions_in(candidates, spec, samples, captions)
    alike = {} if spec.lookalikes is None else _read_lookalikes(spec, Path(spec.lookalikes), ids, set(candidates))
    return {"captions": tuple(captions), "candidates": candidates, "lookalikes": alike}


def _require_captions_in(
    candidates: Iterable[int], spec: DatasetSpec, samples: Sequence[Sample], captions: Sequence[tuple[int, ...]]
) -> None:
    """Refuse a pool without the right answer: its recall would be too low and nobody would see why."""
    known = set(candidates)
    for sample, group in zip(samples, captions, strict=True):
        for caption, text in zip(dict.fromkeys(sample.captions), group, strict=True):
            if text not in known:
                raise DataError(
                    f"{spec.candidates}: caption {caption!r} of {sample.image.name} is not a candidate; add it"
                )


def _read_lookalikes(
    spec: DatasetSpec, path: Path, ids: Mapping[str, int], pool: set[int]
) -> dict[int, frozenset[int]]:
    """Return the symmetric relation among the pool's texts; texts outside the pool are skipped (files are shared)."""
    wrong = DataError(f"dataset {spec.name}: lookalikes {path} must be JSON like {{text: [texts]}}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"dataset {spec.name}: lookalikes: there is no file {path}{_make(spec.hint)}") from None
    except ValueError:
        raise wrong from None
    if not isinstance(content, dict) or any(not isinstance(texts, list) for texts in content.values()):
        raise wrong
    if content and not any(ids.get(text) in pool for text in content):
        raise DataError(
            f"dataset {spec.name}: lookalikes {path}: none of its texts is a candidate; is it another dataset's?"
        )
    alike: dict[int, set[int]] = {}
    for text, others in content.items():
        for other in others:
            first, second = ids.get(text), ids.get(other)
            if first in pool and second in pool and first != second:
                alike.setdefault(first, set()).add(second)
                alike.setdefault(second, set()).add(first)
    return {text: frozenset(others) for text, others in alike.items()}


def _number(texts: Iterable[str], ids: dict[str, int]) -> tuple[int, ...]:
    """Return the id of each text, giving new texts the next one."""
    return tuple(ids.setdefault(text, len(ids)) for text in texts)


def _lines(spec: DatasetSpec, key: str, filename: str, content: str) -> list[str]:
    """Return the lines that the YAML gives, or of the file that it names, or of the folder's own file."""
    given = getattr(spec, key)
    if isinstance(given, tuple):
        if not given:
            raise DataError(f"dataset {spec.name}: {key} is an empty list; give {content}")
        return list(given)
    path = Path(spec.root) / filename if given is None else Path(given)
    return _read_lines(path, f"dataset {spec.name}: {key}", content, spec.hint)


def _read_lines(path: Path, what: str, content: str, hint: str | None) -> list[str]:
    """Return the stripped lines of a text file; an empty line inside would shift every label after it."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except FileNotFoundError:
        raise DataError(f"{what}: there is no file {path}; write it ({content}){_make(hint, ' or ')}") from None
    except ValueError:
        raise DataError(f"{what}: {path} is not UTF-8 text; save it as UTF-8") from None
    if not lines:
        raise DataError(f"{what}: {path} is empty; it must hold {content}")
    if "" in lines:
        raise DataError(f"{what}: {path}: line {lines.index('') + 1} is empty; remove it")
    return lines


def _make(hint: str | None, start: str = "; ") -> str:
    """Return the words that say how to make a missing file, if the YAML knows."""
    return f"{start}make it with: {hint}" if hint else ""

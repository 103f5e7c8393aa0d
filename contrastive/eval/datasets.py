"""One evaluation dataset: its samples, captions, classes and prompts, checked against each other.

A dataset is map-style: image i is read on its own, so that processes share the set by index, not by shard. Every text
to embed, prompt or document, stands once in `texts`; all else points to it by that text's id.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from contrastive import registry
from contrastive.errors import ConfigError, DataError
from contrastive.eval.lines import how_to_make, read_lines
from contrastive.eval.prompts import prompts_of
from contrastive.eval.samples import Content, Format, ImageSource, Kind, Sample
from contrastive.eval.spec import DatasetSpec

DEFAULT_TASKS: dict[Kind, tuple[str, ...]] = {
    "classification": ("zeroshot", "calibration"),
    "multilabel": ("multilabel",),
    "retrieval": ("retrieval", "geometry"),
    "choice": ("choice",),
}
# What a task reads of the samples; a task that is not here takes what the layout holds.
TASK_KINDS: dict[str, Kind] = {
    "zeroshot": "classification",
    "calibration": "classification",
    "linear_probe": "classification",
    "knn": "classification",
    "few_shot": "classification",
    "multilabel": "multilabel",
    "retrieval": "retrieval",
    "choice": "choice",
}


@dataclass(frozen=True)
class EvalDataset:
    """The samples of one split and what is known about them, by index: image i, text id t, class c, document d.

    A document is what retrieval finds: a caption, or a candidate that is nobody's caption.
    """

    spec: DatasetSpec
    images: tuple[ImageSource, ...]
    texts: tuple[str, ...]
    tasks: tuple[dict[str, Any], ...] = ()  # {name, options}
    are_default: bool = False  # the tasks are those of the layout, not asked for
    labels: tuple[int, ...] = ()  # class of image i; empty where no task needs classes
    label_sets: tuple[tuple[int, ...], ...] = ()  # classes of image i (multilabel)
    classnames: tuple[str, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()  # text ids of class c, template by template
    templates: tuple[str, ...] = ()  # empty where the prompts are given class by class
    documents: tuple[int, ...] = ()  # text id of document d: the pool of retrieval
    captions: tuple[tuple[int, ...], ...] = ()  # documents of image i, each once
    lookalikes: Mapping[int, frozenset[int]] = field(default_factory=dict)  # of documents; symmetric, without itself
    choices: tuple["Alternatives", ...] = ()
    train: "EvalDataset | None" = None  # what probes learn from
    val: "EvalDataset | None" = None

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
            [(image.name, image.stamp) for image in self.images],
            [self.texts, self.labels, self.label_sets, self.prompts, self.captions, self.documents],
            [(choice.images, choice.texts) for choice in self.choices],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def places_of(self, names: Iterable[str]) -> list[int]:
        """Return the indices of images by their names."""
        wanted = set(names)
        return [index for index, image in enumerate(self.images) if image.name in wanted]

    def without(self, broken: Sequence[int]) -> "EvalDataset":
        """Return the set without these images; a caption that loses its last image stays as a wrong answer.

        Raises:
            DataError: no image, or no whole choice, is left.
        """
        gone = set(broken)
        kept = [index for index in range(len(self)) if index not in gone]
        place = {old: new for new, old in enumerate(kept)}
        choices = [choice for choice in self.choices if gone.isdisjoint(choice.images)]
        if not kept or (self.choices and not choices):
            raise DataError(f"dataset {self.spec.name}: no readable image is left")

        def of_kept(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[index] for index in kept) if values else ()

        moved = [replace(choice, images=tuple(place[image] for image in choice.images)) for choice in choices]
        return replace(
            self,
            images=of_kept(self.images),
            labels=of_kept(self.labels),
            label_sets=of_kept(self.label_sets),
            captions=of_kept(self.captions),
            choices=tuple(moved),
        )


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Images and text ids to be told apart: text j belongs to image j, further texts to none."""

    images: tuple[int, ...]
    texts: tuple[int, ...]
    category: str = ""


def open_dataset(spec: DatasetSpec) -> EvalDataset:
    """Index the dataset and check all but the pixels; tasks, classes and captions come with it.

    Raises:
        DataError: a file is missing, damaged, or contradicts another (label out of range, …).
        ConfigError: the layout has no annotations for a task.
    """
    layout: Format = registry.build(registry.EVAL_FORMATS, spec.format_spec, f"dataset {spec.name}: format")
    root = Path(spec.root)
    if not root.exists():
        remedy = how_to_make(spec.hint) or "; set root to an existing dataset folder"
        raise DataError(f"dataset {spec.name}: there is no folder {root}{remedy}")
    given = [{"name": task} if isinstance(task, str) else dict(task) for task in spec.tasks]
    wanted = tuple(dict.fromkeys(TASK_KINDS[task["name"]] for task in given if task.get("name") in TASK_KINDS))
    content = _read(spec, layout, root, spec.split, wanted)
    defaults = [{"name": name} for kind in content.kinds for name in DEFAULT_TASKS[kind]]
    train, val = (_split(spec, layout, split, content) for split in (spec.train_split, spec.val_split))
    whole = _assembled(spec, content, tuple(given or defaults))
    return replace(whole, are_default=not given, train=train, val=val)


def _split(spec: DatasetSpec, layout: Format, split: str | None, tested: Content) -> EvalDataset | None:
    """Return a split that probes learn from, with the classes of the one they are tested on."""
    if split is None:
        return None
    content = _read(spec, layout, Path(spec.root), split, ("classification",))
    if content.classnames != tested.classnames and spec.classnames is None:
        other = next(iter(set(content.classnames) ^ set(tested.classnames)), "their order")
        raise DataError(
            f"dataset {spec.name}: split {split!r} has other classes than {spec.split!r} (such as {other!r}), so that "
            "labels would mean different things; give both the same ones, or set classnames"
        )
    return _assembled(spec, content, ())


def _read(spec: DatasetSpec, layout: Format, root: Path, split: str, wanted: tuple[Kind, ...]) -> Content:
    try:
        content = layout.read(root, split, wanted)
    except (DataError, ConfigError) as error:
        raise type(error)(f"dataset {spec.name}: {error}{how_to_make(spec.hint)}") from None
    if not content.samples:
        raise DataError(f"dataset {spec.name}: split {split!r} of {root} holds no image")
    names: set[str] = set()
    for sample in content.samples:
        if sample.image.name in names:
            raise DataError(f"dataset {spec.name}: {sample.image.name} stands twice; give every image its own id")
        names.add(sample.image.name)
    return content


def _assembled(spec: DatasetSpec, content: Content, tasks: tuple[dict[str, Any], ...]) -> EvalDataset:
    ids: dict[str, int] = {}
    parts: dict[str, Any] = {}
    samples = content.samples
    if "classification" in content.kinds or "multilabel" in content.kinds:
        parts |= _classes(spec, content, ids)
    if "retrieval" in content.kinds:
        parts |= _pairs(spec, samples, ids)
    if "choice" in content.kinds:
        parts["choices"] = tuple(
            Alternatives(choice.images, _number(choice.texts, ids), choice.category) for choice in content.choices
        )
    images = tuple(sample.image for sample in samples)
    return EvalDataset(spec=spec, images=images, tasks=tasks, texts=tuple(ids), **parts)


def _classes(spec: DatasetSpec, content: Content, ids: dict[str, int]) -> dict[str, Any]:
    """Return labels, class names and prompts; new texts are numbered in `ids`."""
    prompts = prompts_of(spec, content)
    count = len(prompts.classnames)
    for sample in content.samples:
        for label in (*sample.labels, *((sample.label,) if "classification" in content.kinds else ())):
            if label not in range(count):
                raise DataError(
                    f"dataset {spec.name}: {sample.image.name}: label {label} is not in 0..{count - 1}, the {count} "
                    "class names: mend the label or the class names"
                )
    numbered = tuple(_number(texts, ids) for texts in prompts.texts)
    parts: dict[str, Any] = {"classnames": prompts.classnames, "prompts": numbered, "templates": prompts.templates}
    if "classification" in content.kinds:
        parts["labels"] = tuple(sample.label for sample in content.samples)
    if "multilabel" in content.kinds:
        parts["label_sets"] = tuple(sample.labels for sample in content.samples)
    return parts


def _pairs(spec: DatasetSpec, samples: Sequence[Sample], ids: dict[str, int]) -> dict[str, Any]:
    """Return documents, captions and lookalikes; new texts are numbered in `ids`."""
    for sample in samples:
        if not sample.captions:
            raise DataError(f"dataset {spec.name}: {sample.image.name} has no caption; give it one or leave it out")
    documents, captions = _documents(spec, samples) if spec.candidates is None else _candidates(spec, samples)
    numbered = _number(documents, ids)
    alike = _lookalikes(spec, documents)
    return {"documents": numbered, "captions": captions, "lookalikes": alike}


def _documents(spec: DatasetSpec, samples: Sequence[Sample]) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Return the text of every caption, by id where it has one, and the captions of each image."""
    texts: list[str] = []
    known: dict[str, int] = {}
    captions = []
    for sample in samples:
        own: dict[int, None] = {}
        for caption in sample.captions:
            place = len(texts) if caption.id is None else known.setdefault(caption.id, len(texts))
            if place == len(texts):
                texts.append(caption.text)
            if texts[place] != caption.text:
                raise DataError(
                    f"dataset {spec.name}: caption id {caption.id!r} is {texts[place]!r} and, of {sample.image.name}, "
                    f"{caption.text!r}; one id is one text"
                )
            own[place] = None
        captions.append(tuple(own))
    return texts, tuple(captions)


def _candidates(spec: DatasetSpec, samples: Sequence[Sample]) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Return the texts of the pool, each once, and those that are captions of each image."""
    path = Path(str(spec.candidates))
    pool = dict.fromkeys(read_lines(path, f"dataset {spec.name}: candidates", "one text a line", spec.hint))
    place = {text: index for index, text in enumerate(pool)}
    for sample in samples:
        for caption in sample.captions:
            if caption.text not in place:  # its recall would be too low and nobody would see why
                raise DataError(f"{path}: caption {caption.text!r} of {sample.image.name} is not a candidate; add it")
    return list(pool), tuple(tuple(dict.fromkeys(place[c.text] for c in sample.captions)) for sample in samples)


def _lookalikes(spec: DatasetSpec, documents: Sequence[str]) -> dict[int, frozenset[int]]:
    """Return which documents count as each other's in the tolerant recall: equal texts, and what the file says."""
    places: dict[str, list[int]] = {}
    for index, text in enumerate(documents):
        places.setdefault(text, []).append(index)
    related = {text: {text} for text in places}
    if spec.lookalikes is not None:
        for text, other in _read_lookalikes(spec, Path(spec.lookalikes), places.keys()):
            related[text].add(other)
            related[other].add(text)
    alike = {
        index: frozenset(place for text in related[documents[index]] for place in places[text]) - {index}
        for index in range(len(documents))
    }
    return {index: others for index, others in alike.items() if others}


def _read_lookalikes(spec: DatasetSpec, path: Path, pool: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of the file among the pool's texts; texts outside the pool are skipped (files are shared)."""
    pool = set(pool)
    wrong = DataError(f"dataset {spec.name}: lookalikes {path} must be JSON like {{text: [texts]}}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"dataset {spec.name}: lookalikes: there is no file {path}{how_to_make(spec.hint)}") from None
    except ValueError:
        raise wrong from None
    if not isinstance(content, dict) or any(not isinstance(texts, list) for texts in content.values()):
        raise wrong
    if content and pool.isdisjoint(content):
        raise DataError(
            f"dataset {spec.name}: lookalikes {path}: none of its texts is a candidate; is it another dataset's?"
        )
    return [(text, other) for text, others in content.items() for other in others if {text, other} <= pool]


def _number(texts: Iterable[str], ids: dict[str, int]) -> tuple[int, ...]:
    """Return the id of each text, giving new texts the next one."""
    return tuple(ids.setdefault(text, len(ids)) for text in texts)

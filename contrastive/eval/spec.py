"""The description of one evaluation dataset: a YAML of configs/eval/."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from contrastive.errors import ConfigError
from contrastive.registry import EVAL_FORMATS, bind, convert, suggest

SHORT = ("tasks", "recall_k")  # one value stands for a list of one


@dataclass(frozen=True)
class DatasetSpec:
    """The keys of one evaluation YAML; paths are relative to the working directory.

    `format`: a layout by name, or `{name: table, image: filepath, …}` with its options. `tasks`: names, or
    `{name: linear_probe, …}` with options; empty: those that fit the layout's annotations. `train_split` is what probes
    learn from, `val_split` what they choose their regularisation on; None: part of the training split.

    `classnames`: the lines themselves, a text file, or a list that comes with the package (imagenet1k, …).
    `templates`: the same, or a JSON file {class: [prompts]}. None: the layout's own, else those of the list that
    `classnames` names, else "a photo of a {c}.". `language` picks the package's lists. `candidates`: a text file that
    enlarges the pool of retrieval; there, equal captions are one document. `lookalikes`: JSON {text: [texts]} that
    count as the same answer in the tolerant recall.

    `max_unreadable`: the share of images, 0 to 1, that may be damaged; they are left out, counted, named. `hint`: the
    command that makes the data, for error messages. `reference`: where the dataset comes from, for reports.
    """

    name: str
    root: str
    format: str | dict[str, Any] = "clip_benchmark"
    tasks: tuple[str | dict[str, Any], ...] = ()
    split: str = "test"
    train_split: str | None = None
    val_split: str | None = None
    classnames: str | tuple[str, ...] | None = None
    templates: str | tuple[str, ...] | None = None
    language: str = "en"
    candidates: str | None = None
    lookalikes: str | None = None
    recall_k: tuple[int, ...] = (1, 5, 10)
    max_unreadable: float = 0.0
    hint: str | None = None
    reference: str | None = None

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
        for key in SHORT:
            if isinstance(values.get(key), str | int | Mapping):
                values[key] = [values[key]]
        spec = cls(**{key: convert(value, hints[key], f"{source}: {key}") for key, value in values.items()})
        if not spec.recall_k or min(spec.recall_k) < 1:
            raise ConfigError(
                f"{source}: recall_k: {list(spec.recall_k)} must be numbers of at least 1, like [1, 5, 10]"
            )
        if not 0 <= spec.max_unreadable <= 1:
            raise ConfigError(f"{source}: max_unreadable: {spec.max_unreadable} must be a share between 0 and 1")
        bind(EVAL_FORMATS, spec.format_spec, f"{source}: format")
        return replace(spec, recall_k=tuple(sorted(set(spec.recall_k))))

    @property
    def format_spec(self) -> dict[str, Any]:
        """Return `format` with its options."""
        return {"name": self.format} if isinstance(self.format, str) else dict(self.format)

"""docs/evaluation.md defines every number that a task returns, and none that no task does."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from contrastive import cli, registry
from contrastive.eval.datasets import Alternatives
from contrastive.eval.embed import Embeddings
from contrastive.eval.result import Result
from contrastive.eval.spec import DatasetSpec
from contrastive.report.metrics import better
from tests.eval.toys import classified, paired, unit

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "evaluation.md").read_text(encoding="utf-8")
NONE = "–"
PLACEHOLDERS = {"@K": r"@\d+", "@N": r"@\d+", "CATEGORY": r".+"}
OPTIONS: dict[str, dict[str, Any]] = {
    "few_shot": {"shots": [1, 2]},
    "knn": {"k": 3},
}  # of tasks whose defaults ask for more than toys have
TASKS = sorted(registry.EVALUATORS)


class Definition(NamedTuple):
    """A row of the page's tables; `name` is one of its names."""

    name: str
    meaning: str
    range: str
    better: str
    chance: str

    def covers(self, metric: str) -> bool:
        parts = re.split(f"({'|'.join(PLACEHOLDERS)})", self.name)
        return bool(re.fullmatch("".join(PLACEHOLDERS.get(part, re.escape(part)) for part in parts), metric))

    def ends(self) -> tuple[float, float]:
        """Its range; an end that is a size (M, E) is open."""
        low, high = (
            end if re.fullmatch(r"-?(\d+|∞)", end) else f"{sign}∞"
            for sign, end in zip("-+", self.range.split(" … "), strict=True)
        )
        return float(low.replace("∞", "inf")), float(high.replace("∞", "inf"))


@cache
def definitions() -> dict[str, list[Definition]]:
    found: dict[str, list[Definition]] = {}
    for heading, section in re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE):
        rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
        found[heading] = [Definition(name, *rest) for names, *rest in rows for name in re.findall(r"`([^`]+)`", names)]
    return found


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return found


def with_classes(images: int = 60, classes: int = 6) -> Embeddings:
    labels = [index % classes for index in range(images)]
    found = classified(unit(images, 8, 0), unit(classes, 8, 1), labels)
    train = classified(unit(images, 8, 2), unit(classes, 8, 1), labels)
    return replace(found, logit_scale=10.0, train=train)


def with_captions() -> Embeddings:
    captions = [[2 * index, 2 * index + 1] for index in range(20)]
    return replace(paired(unit(20, 8, 0), unit(40, 8, 1), captions, {0: {2}, 2: {0}}), logit_scale=10.0)


def with_sets() -> Embeddings:
    found = with_classes()
    sets = tuple((label, (label + 1) % 6) for label in found.dataset.labels)
    return replace(found, dataset=replace(found.dataset, labels=(), label_sets=sets))


def with_choices() -> Embeddings:
    found = with_captions()
    choices = tuple(Alternatives((i, i + 1), (i, i + 1), f"kind {i % 4}") for i in range(0, 20, 2))
    return replace(found, dataset=replace(found.dataset, choices=choices))


def embeddings_of(task: str) -> Iterator[Embeddings]:
    """Yield toys on which the task returns all that it can."""
    if task in ("retrieval", "geometry"):
        yield with_captions()
    elif task == "choice":
        yield with_choices()
    elif task == "multilabel":
        yield with_sets()
    else:
        yield with_classes()
    if task == "calibration":
        yield replace(with_classes(), logit_bias=-5.0)


@cache
def results(task: str) -> list[Result]:
    built = registry.build(registry.EVALUATORS, {"name": task, **OPTIONS.get(task, {})}, "tasks")
    return [built(embeddings) for embeddings in embeddings_of(task)]


def returned(task: str) -> Iterator[tuple[Result, str, Definition]]:
    """Yield every metric that the task returns, with its definition."""
    for result in results(task):
        for metric in result.metrics:
            (definition,) = [one for one in definitions()[task] if one.covers(metric)]
            yield result, metric, definition


def test_every_task_has_its_section() -> None:
    assert sorted(definitions()) == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_defined_and_every_definition_is_of_a_metric(task: str) -> None:
    metrics = {metric for result in results(task) for metric in result.metrics}
    known = definitions()[task]
    assert {metric for metric in metrics if not any(one.covers(metric) for one in known)} == set()
    assert {one.name for one in known if not any(one.covers(metric) for metric in metrics)} == set()


@pytest.mark.parametrize("task", TASKS)
def test_a_chance_level_is_given_exactly_where_there_is_one(task: str) -> None:
    for result, metric, definition in returned(task):
        assert (metric in result.chance) == (definition.chance != NONE), metric


@pytest.mark.parametrize("task", TASKS)
def test_values_and_chance_levels_lie_in_the_range(task: str) -> None:
    for result, metric, definition in returned(task):
        low, high = definition.ends()
        assert low <= result.metrics[metric] <= high, metric
        assert low <= result.chance.get(metric, low) <= high, metric


@pytest.mark.parametrize("task", TASKS)
def test_which_way_is_better_is_what_reports_say(task: str) -> None:
    for _, metric, definition in returned(task):
        if definition.better != NONE:
            assert definition.better == {1: "higher", -1: "lower"}.get(better(metric)), metric


def test_the_metrics_without_interval_are_listed() -> None:
    (listed,) = re.findall(r"^No interval, hence no comparison: (.*?)\.$", PAGE, re.DOTALL | re.MULTILINE)
    without = {
        definition.name
        for task in TASKS
        for result, metric, definition in returned(task)
        if metric not in result.estimates
    }
    assert set(re.findall(r"`([^`]+)`", listed)) == without


@pytest.mark.parametrize(
    ("task", "metric", "chance"),
    [
        ("zeroshot", "top5", 5 / 6),
        ("calibration", "brier", 5 / 6),
        ("retrieval", "image_to_text_mean_rank", 41 / 3),
        ("retrieval", "text_to_image_mean_rank", 21 / 2),
        ("choice", "text_score", 1 / 4),
        ("choice", "group_score", 1 / 6),
    ],
)
def test_chance_levels_are_what_the_page_says_of_them(task: str, metric: str, chance: float) -> None:
    assert results(task)[0].chance[metric] == pytest.approx(chance, abs=1e-12)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_of_the_page_describes_a_dataset(text: str) -> None:
    spec = DatasetSpec.from_dict(yaml.safe_load(text), "docs/evaluation.md")
    for task in spec.tasks:
        options: dict[str, Any] = {"name": task} if isinstance(task, str) else task
        registry.build(registry.EVALUATORS, options, "tasks")


def test_the_task_of_the_page_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    (tmp_path / "my_scores.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = registry.build(registry.EVALUATORS, {"name": "my_scores:Close", "above": 0.0}, "tasks")
    found = with_captions()
    result = task(found)
    near = (found.image_features * found.text_features[::2]).sum(1) > 0
    assert result.metrics["close"] == pytest.approx(float(near.double().mean()))
    assert float(result.estimates["close"](torch.ones(1, 20, dtype=torch.float64))) == result.metrics["close"]


def test_every_option_of_the_page_is_one_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = PAGE.partition("## What is written")[0]
    with pytest.raises(SystemExit):
        cli.evaluate(["--help"])
    option = r"(?<!-)--[a-z][a-z-]*"
    known = set(re.findall(option, capsys.readouterr().out))
    assert set(re.findall(option, shown)) - {"--config"} <= known  # the launcher's


def test_links_of_the_page_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https:)([^)#]+)", PAGE)
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []

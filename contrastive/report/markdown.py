"""The results as Markdown, to be pasted into a model card."""

from collections.abc import Mapping
from typing import Any

from contrastive.report.cards import interval, sample_count, signed
from contrastive.report.charts import is_number, number
from contrastive.report.metrics import is_share, spaced
from contrastive.report.records import Evaluation

HEADINGS = ("dataset", "task", "metric", "value", "95 % interval", "chance", "N")
BREAKS = str.maketrans({"|": "\\|", "\n": " ", "\r": " ", "<": "&lt;", "`": "'", "*": "\\*", "_": "\\_", "[": "\\["})


def model_card(evaluation: Evaluation) -> str:
    """A table of all metrics and how they were measured; shares in per cent."""
    compared = any(result.get("comparison") for result in evaluation.results)
    against = evaluation.baseline or "the baseline"
    headings = [*HEADINGS, *([f"minus {against}", "p"] if compared else [])]
    lines = [f"# Evaluation of {_cell(evaluation.name)}", "", _row(headings), _row(["---"] * len(headings))]
    lines += [_row(row) for result in evaluation.results for row in _rows(result, compared)]
    return "\n".join([*lines, "", "## How it was measured", "", *_measured(evaluation)]) + "\n"


def _rows(result: Mapping[str, Any], compared: bool) -> list[list[str]]:
    names = [str(result.get("dataset", "?")), str(result.get("task", "?"))]
    if result.get("error"):
        return [[*names, "failed", str(result["error"]), "", "", "", *["", ""] * compared]]
    rows = []
    for name, value in result["metrics"].items():
        share = is_share(name, value)
        chance = (result.get("chance") or {}).get(name)
        row = [*names, spaced(name), number(value, share) if is_number(value) else "–", interval(result, name, share)]
        row += [number(chance, share) if is_number(chance) else "", sample_count(result, name)]
        rows.append(row + (_difference(result, name, share) if compared else []))
    return rows


def _difference(result: Mapping[str, Any], name: str, share: bool) -> list[str]:
    found = (result.get("comparison") or {}).get(name)
    if not isinstance(found, Mapping) or not is_number(found.get("delta")):
        return ["", ""]
    return [signed(found["delta"], share), f"{found['p']:.2g}" if is_number(found.get("p")) else ""]


def _measured(evaluation: Evaluation) -> list[str]:
    """The facts that a number may depend on, as a list."""
    environment, model = evaluation.environment, evaluation.model
    packages = environment.get("packages")
    versions = packages if isinstance(packages, Mapping) else {}
    facts = {
        "model": model.get("form") or model.get("name"),
        "weights": model.get("weights"),
        "step": model.get("step"),
        "sha256 of weights, transform and tokenizer": model.get("identity"),
        "precision of the forward pass (all scores are float32)": environment.get("precision"),
        "device": environment.get("accelerator") or environment.get("processor") or environment.get("device"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "code": environment.get("git_revision") or environment.get("code"),
        "date": evaluation.created,
    }
    listed = [f"- {name}: {_cell(value)}" for name, value in facts.items() if value not in (None, "", [], {})]
    rules = (
        "Ties are broken by expectation. Intervals: percentile bootstrap of the images, captions staying with their "
        "image. Chance: a random order of the same answers."
    )
    return [*listed, f"- {rules}"]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: object) -> str:
    return str(text).translate(BREAKS)

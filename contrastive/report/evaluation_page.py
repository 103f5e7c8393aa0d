"""Composes report.html and report.md of an evaluation from its results.json alone."""

from pathlib import Path

from contrastive.errors import RunError
from contrastive.report.cards import comparison_section, meanings_section, results_section
from contrastive.report.charts import is_number, number
from contrastive.report.evaluation import curves_section, evaluation_sections, notes, problems_section
from contrastive.report.frame import disclosed, page, write_page
from contrastive.report.markdown import model_card
from contrastive.report.markup import Markup, join, tag
from contrastive.report.records import Evaluation, read_evaluation

FACTS = {  # of the model, where results.json has them
    "form": "model",
    "pretrained": "pretrained",
    "step": "step",
    "samples_seen": "samples seen",
    "weights": "weights",
    "parameters": "parameters",
    "logit_scale": "logit scale",
    "identity": "identity",
}
HOW = {"precision": "precision", "device": "device", "world_size": "processes", "git_revision": "git revision"}
LONGEST_FACT = 24  # characters; a hash needs no more to be told apart


def write_evaluation_report(folder: Path) -> Path:
    """Write `report.html`, and `report.md` for a model card, beside a folder's results.json; return the former's path.

    Raises:
        RunError: the folder does not exist or cannot be written.
    """
    if not folder.is_dir():
        raise RunError(f"report: {str(folder)!r} is not a directory: give a folder that eval_zeroshot.py --output made")
    evaluation = read_evaluation(folder)
    write_page(folder / "report.md", model_card(evaluation))
    return write_page(folder / "report.html", render(evaluation))


def render(evaluation: Evaluation) -> str:
    """The page as text."""
    results = evaluation.results
    problems = [*evaluation.problems, *notes(results)]
    sections = evaluation_sections(results, problems)
    return page(
        f"{evaluation.name}: evaluation",
        _header(evaluation),
        problems_section(problems),
        results_section(results),
        meanings_section(results),
        comparison_section(results, evaluation.baseline),
        curves_section("Over the checkpoints", evaluation.course),
        _facts(evaluation),
        *sections,
        disclosed("Model", evaluation.model),
        disclosed("Environment", evaluation.environment),
    )


def _header(evaluation: Evaluation) -> Markup:
    made = f" · {evaluation.created}" if evaluation.created else None
    return tag("header", tag("h1", evaluation.name), tag("p", join("Evaluation report", made)))


def _facts(evaluation: Evaluation) -> Markup | None:
    found = {title: evaluation.model.get(key) for key, title in FACTS.items()}
    found |= {title: evaluation.environment.get(key) for key, title in HOW.items()}
    facts = {title: value for title, value in found.items() if value not in (None, "", [], {})}
    if not facts:
        return None
    cells = (tag("div", tag("dt", title), tag("dd", _fact(value))) for title, value in facts.items())
    return tag("section", tag("h2", "How it was measured"), tag("dl", *cells, class_="facts"))


def _fact(value: object) -> str:
    if is_number(value):
        return f"{value:,}" if isinstance(value, int) else number(value)
    text = str(value)
    return text if len(text) <= LONGEST_FACT or " " in text or "/" in text else text[: LONGEST_FACT - 12] + "…"

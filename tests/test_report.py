"""The report page: what it shows, what it says when pieces are missing, and that data never becomes markup."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import RunError
from contrastive.eval.result import EvalResult
from contrastive.report import write_report
from contrastive.report.charts import Series, line_chart, number, thin, tick_labels, ticks
from contrastive.report.markup import image, tag

ATTACK = '"><img src=x onerror=alert(1)>'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


class Page(HTMLParser):
    """Elements with their attributes, and all text, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, name: str) -> int:
        return sum(found == name for found, _ in self.elements)


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def train_row(step: int, **changes: object) -> dict[str, Any]:
    row = {"kind": "train", "step": step, "samples_seen": step * 64, "loss": 4.0 / step, "logit_scale": 14.0,
           "learning_rate": 1e-3, "grad_norm": 1.0, "samples_per_second": 900.0, "data_wait_share": 0.1,
           "seconds": step * 0.1}  # fmt: skip
    return row | changes


def eval_row(step: int, **changes: object) -> dict[str, Any]:
    row = {"kind": "eval", "step": step, "dataset": "digits", "task": "zeroshot", "metrics": {"top1": 0.5},
           "chance": {"top1": 0.1}}  # fmt: skip
    return row | changes


def result(**details: object) -> dict[str, Any]:
    return {"dataset": "digits", "task": "zeroshot", "n": 1797, "metrics": {"top1": 0.75}, "chance": {"top1": 0.1},
            "details": details}  # fmt: skip


def write_lines(directory: Path, rows: list[dict[str, Any]], tail: str = "") -> None:
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run directory."""
    write_lines(tmp_path, [train_row(step) for step in range(1, 50)] + [eval_row(20), eval_row(40)])
    (tmp_path / "config.yaml").write_text("data:\n  batch_size: 64\n")
    (tmp_path / "environment.json").write_text(json.dumps({"world_size": 2, "parameters": 1234567}))
    query = {"image": PIXEL, "answers": [{"text": "digit seven", "score": 0.31, "correct": True}]}
    confusion = {"classes": ["zero", "one"], "counts": [[9, 1], [2, 8]]}
    (tmp_path / "evaluation.json").write_text(json.dumps([result(gallery=[query], confusion=confusion)]))
    return tmp_path


def test_a_complete_run_shows_everything_and_lacks_nothing(run: Path) -> None:
    page = page_of(run)
    for expected in ("75.0\u00a0%", "chance 10.0\u00a0%", "digit seven", "batch_size: 64", "1,234,567", "3,136"):
        assert expected in page.text
    assert page.count("svg") == 7  # six training curves and one evaluation chart
    assert "Notes" not in page.text


def test_the_page_needs_no_script_and_no_network(run: Path) -> None:
    page = page_of(run)
    assert page.count("script") == 0
    assert page.count("link") == 0
    sources = [attributes.get("src") or attributes.get("href") for _, attributes in page.elements]
    assert all(source.startswith("data:image/") for source in sources if source)


def test_data_stays_text_wherever_it_comes_from(tmp_path: Path) -> None:
    query = {"image": PIXEL, "text": ATTACK, "answers": [{"text": ATTACK, "image": ATTACK, "score": 0.1}]}
    hostile = result(gallery=[query], confusion={"classes": [ATTACK, "b"], "counts": [[1, 2], [3, 4]]})
    (tmp_path / "evaluation.json").write_text(json.dumps([hostile | {"dataset": ATTACK, "metrics": {ATTACK: 0.5}}]))
    (tmp_path / "config.yaml").write_text(f"data: {ATTACK}</pre></details>")
    (tmp_path / "environment.json").write_text(json.dumps({"git_revision": ATTACK, ATTACK: 1}))
    write_lines(tmp_path, [train_row(1), eval_row(1, dataset=ATTACK, metrics={ATTACK: 0.5})])
    page = page_of(tmp_path)
    assert page.text.count(ATTACK) >= 8
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert [attributes["src"][:10] for name, attributes in page.elements if name == "img"] == ["data:image"]


def test_an_empty_run_directory_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    for name in ("metrics.jsonl", "evaluation.json", "config.yaml", "environment.json"):
        assert f"{name} is missing" in page.text


def test_a_torn_last_line_is_left_out_and_named(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1), train_row(2)], tail='{"kind": "train", "st')
    assert "1 damaged line left out" in page_of(tmp_path).text


def test_values_that_are_null_or_not_finite_do_not_break_the_page(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1, loss=float("nan")), train_row(2, grad_norm=None), train_row(3)])
    assert "nan" not in write_report(tmp_path).read_text()


def test_a_metric_that_one_evaluation_lacks_is_a_gap(tmp_path: Path) -> None:
    write_lines(tmp_path, [eval_row(1), eval_row(2, metrics={"top5": 0.9}), eval_row(3, metrics=None)])
    assert "top5" in page_of(tmp_path).text


def test_steps_written_again_after_a_resume_are_counted_once(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1), train_row(2, loss=9.0), train_row(2, loss=1.0), train_row(3)])
    charts = write_report(tmp_path).read_text()
    assert "loss 9 at 2" not in charts
    assert "loss 1 at 2" in charts


def test_without_a_final_evaluation_the_last_one_of_training_is_shown(tmp_path: Path) -> None:
    write_lines(tmp_path, [eval_row(1, metrics={"top1": 0.25}), eval_row(2, metrics={"top1": 0.375})])
    assert "37.5\u00a0%" in page_of(tmp_path).text


def test_many_classes_become_a_list_of_the_commonest_confusions(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(40)]
    pairs = [{"label": "class 3", "predicted": "class 5", "n": 30}]
    confusion = {"classes": names, "counts": [[0] * 40 for _ in names], "pairs": pairs}
    (tmp_path / "evaluation.json").write_text(json.dumps([result(confusion=confusion)]))
    page = page_of(tmp_path)
    assert page.count("tr") == 2
    assert "class 5" in page.text


def test_a_lookalike_is_marked_apart_from_a_right_answer(tmp_path: Path) -> None:
    answers = [{"text": "greek alpha", "correct": False, "lookalike": True}, {"text": "latin a", "correct": True}]
    (tmp_path / "evaluation.json").write_text(json.dumps([result(gallery=[{"text": "A", "answers": answers}])]))
    kinds = [attributes.get("class") for name, attributes in page_of(tmp_path).elements if name == "li"]
    assert kinds[-2:] == ["alike", "right"]


def test_warnings_of_an_evaluation_are_shown(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps([result() | {"warnings": ["12 texts were cut off"]}]))
    assert "12 texts were cut off" in page_of(tmp_path).text


def test_results_of_the_evaluators_are_shown_as_they_are_written(tmp_path: Path) -> None:
    found = EvalResult("faces", "retrieval", 3, {"image_to_text_recall@1": 0.5}, {"image_to_text_recall@1": 0.25}, {})
    (tmp_path / "evaluation.json").write_text(json.dumps([found.as_dict()]))
    page = page_of(tmp_path)
    assert "image to text recall@1" in page.text
    assert "chance 25.0\u00a0%" in page.text


def test_a_path_that_is_no_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere.*pretrain\.py"):
        write_report(tmp_path / "nowhere")


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(run: Path) -> None:
    before = set(run.iterdir())
    write_report(run)
    write_report(run)
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_thinning_keeps_the_ends_and_the_mean() -> None:
    points = [(float(x), float(x)) for x in range(10_000)]
    thinned = thin(points)
    assert len(thinned) <= 300
    assert thinned[-1] == points[-1]
    assert all(x == y for x, y in thinned)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.0, 3.0), (-2.5, 7e6), (1e-5, 3e-5)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) + 1e-12 for tick in found)


def test_tick_labels_tell_neighbours_apart() -> None:
    assert tick_labels([14.20, 14.25, 14.30]) == ["14.20", "14.25", "14.30"]
    assert tick_labels([0.0, 0.2], percent=True) == ["0\u00a0%", "20\u00a0%"]
    assert tick_labels([0.0, 50_000.0]) == ["0", "50k"]


def test_recall_at_several_depths_shares_a_chart_and_the_two_directions_do_not(tmp_path: Path) -> None:
    names = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    write_lines(tmp_path, [eval_row(step, metrics=dict.fromkeys(names, 0.5)) for step in (1, 2)])
    assert page_of(tmp_path).count("svg") == 2


def test_numbers_are_short() -> None:
    assert [number(0.0004, percent=True), number(1_234_567), number(0.002), number(450)] == [
        "0.04\u00a0%", "1.23M", "0.002", "450",
    ]  # fmt: skip


def test_a_curve_of_one_value_is_drawn() -> None:
    assert "<circle" in line_chart("loss", [Series("loss", [(5, 2.0)])])


def test_a_curve_without_values_says_so() -> None:
    assert "no values were logged" in line_chart("loss", [Series("loss", [(5, float("nan"))])])


def test_tags_escape_text_and_attributes() -> None:
    assert tag("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'


def test_a_picture_that_is_not_base64_is_a_placeholder() -> None:
    assert "<img" not in image("javascript:alert(1)", "x")
    assert "<img" in image(PIXEL, "x")

"""The report page: what it shows, what it says when pieces are missing, and that data never becomes markup."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import RunError
from contrastive.eval.result import EvalResult
from contrastive.report import write_report
from contrastive.report.page import render
from contrastive.report.records import Run
from tests.report.toys import ATTACK, PIXEL, Page, eval_row, result, train_row, write_lines


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def rendered(**contents: Any) -> Page:
    return Page(render(Run("a-run", **contents)))


def facts(**contents: Any) -> dict[str, str]:
    page = rendered(**contents)
    return dict(zip(page.texts_of("dt"), page.texts_of("dd"), strict=True))


def chart_titles(page: Page) -> list[str | None]:
    return [attributes["aria-label"] for attributes in page.all("div", "drawing")]


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
    assert not [style for style in page.texts_of("style") if "url(" in style or "@import" in style]


def test_a_browser_is_told_to_load_nothing() -> None:
    policies = [meta["content"] or "" for meta in rendered().all("meta") if "http-equiv" in meta]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]


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


def test_the_name_of_the_run_its_warnings_and_problems_stay_text() -> None:
    rows = [result() | {"warnings": [ATTACK], "dataset": "d"}]
    page = Page(render(Run(ATTACK, results=rows, problems=[ATTACK], environment={"started": ATTACK})))
    assert page.count("img") == 0
    assert page.texts_of("h1") == [ATTACK]
    assert page.texts_of("title")[0] == f"{ATTACK}: training report"
    assert page.texts_of("header")[0].endswith(f"started {ATTACK}")
    assert page.texts_of("li") == [ATTACK, f"d · zeroshot: {ATTACK}"]


def test_an_empty_run_directory_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    for name in ("metrics.jsonl", "evaluation.json", "config.yaml", "environment.json"):
        assert f"{name} is missing" in page.text


def test_an_empty_run_has_no_empty_sections() -> None:
    assert rendered().count("section") == 0


def test_damaged_lines_are_told_to_the_reader(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1), train_row(2)], tail='{"kind": "train", "st')
    assert "1 damaged line left out" in page_of(tmp_path).text


def test_values_that_are_null_or_not_finite_do_not_break_the_page(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1, loss=float("nan")), train_row(2, grad_norm=None), train_row(3)])
    assert "nan" not in write_report(tmp_path).read_text()


def test_a_metric_that_one_evaluation_lacks_is_a_gap(tmp_path: Path) -> None:
    write_lines(tmp_path, [eval_row(1), eval_row(2, metrics={"top5": 0.9}), eval_row(3, metrics=None)])
    assert "top5" in page_of(tmp_path).text


def test_a_step_written_again_after_a_resume_has_one_dot(tmp_path: Path) -> None:
    write_lines(tmp_path, [train_row(1), train_row(2, loss=9.0), train_row(2, loss=1.0), train_row(3)])
    first = re.search(r'id="line0">\s*<path d="([^"]+)"', write_report(tmp_path).read_text()).group(1)
    heights = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", first)]
    assert len(heights) == 3
    assert heights[1] == max(heights)  # 1.0, the lowest value, and not 9.0


def test_without_a_final_evaluation_the_last_one_of_training_is_shown(tmp_path: Path) -> None:
    write_lines(tmp_path, [eval_row(1, metrics={"top1": 0.25}), eval_row(2, metrics={"top1": 0.375})])
    assert "37.5\u00a0%" in page_of(tmp_path).text


def test_the_last_evaluation_of_training_is_the_last_of_each_dataset_and_task() -> None:
    rows = [eval_row(1), eval_row(1, dataset="faces", metrics={"top1": 0.2}), eval_row(2, metrics={"top1": 0.3})]
    page = rendered(evals=rows)
    assert page.texts_of("h3") == ["digits · zeroshot", "faces · zeroshot"]
    assert page.texts_of("strong") == ["30.0\u00a0%", "20.0\u00a0%"]


def test_a_final_evaluation_is_shown_instead_of_the_last_one_of_training() -> None:
    assert rendered(evals=[eval_row(1)], results=[result()]).texts_of("strong") == ["75.0\u00a0%"]


def test_a_card_shows_the_value_beside_chance_in_words_and_as_a_bar() -> None:
    page = rendered(results=[result()])
    assert page.texts_of("div", "card") == ["top175.0\u00a0%chance 10.0\u00a0%"]
    assert page.all("div", "bar") == [{"class": "bar", "style": "--value:0.7500;--chance:0.1000"}]
    assert page.texts_of("h3") == ["digits · zeroshot 1,797 samples"]


@pytest.mark.parametrize("chance", [None, {}, {"top1": None}, {"top1": float("nan")}])
def test_a_metric_without_chance_says_so(chance: dict[str, float] | None) -> None:
    page = rendered(results=[result() | {"chance": chance}])
    assert page.texts_of("small")[-1] == "no chance level recorded"
    assert page.all("div", "bar")[0]["style"] == "--value:0.7500"


def test_ranks_and_losses_are_no_percentages() -> None:
    metrics = {"median_rank": 1.0, "loss": 0.5, "logit_scale": 14.2}
    page = rendered(results=[result() | {"metrics": metrics, "chance": {"median_rank": 500.5}}])
    assert page.texts_of("strong") == ["1", "0.5", "14.2"]
    assert "chance 500" in page.texts_of("small")
    assert page.all("div", "bar") == []


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), float("inf")])
def test_a_metric_that_is_no_finite_number_has_no_card(value: object) -> None:
    page = rendered(results=[result() | {"metrics": {"top1": value, "top5": 1}}])
    assert page.texts_of("div", "card") == ["top5100.0\u00a0%no chance level recorded"]


def test_facts_of_the_run_are_computed_from_its_last_row() -> None:
    found = facts(train=[train_row(10), train_row(20, samples_seen=1_500_000, seconds=7_325.4)])
    assert found == {
        "samples seen": "1,500,000", "steps": "20", "training time": "2:02:05", "samples/s, all in": "205",
    }  # fmt: skip


def test_facts_of_the_machine_come_from_the_environment() -> None:
    environment = {"precision": "bf16", "accelerator": "a card", "processor": "a chip", "cores": 8, "world_size": 16,
                   "parameters": 12_345_678, "git_revision": "0123456789abcdef", "git_modified": False}  # fmt: skip
    assert facts(environment=environment) == {
        "parameters": "12,345,678", "processes": "16", "precision": "bf16", "machine": "a card",
        "git revision": "0123456789",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "fact"),
    [
        ({"precision": "no"}, {"precision": "fp32"}),
        ({"processor": "a chip", "cores": 8, "accelerator": None}, {"machine": "a chip, 8 cores"}),
        ({"processor": "a chip"}, {"machine": "a chip"}),
        ({"cores": 8}, {}),
        ({"git_revision": "0123456789abcdef", "git_modified": True}, {"git revision": "0123456789 with changes"}),
        ({"git_modified": True}, {}),
    ],
)
def test_a_fact_is_worded_for_a_reader_and_left_out_where_it_is_unknown(
    environment: dict[str, object], fact: dict[str, str]
) -> None:
    assert facts(environment=environment) == fact


@pytest.mark.parametrize("changes", [{"seconds": 0}, {"seconds": None}, {"samples_seen": None, "seconds": 0}])
def test_a_run_without_a_clock_has_no_rate(changes: dict[str, object]) -> None:
    assert "samples/s, all in" not in facts(train=[train_row(1, **changes)])


def test_every_training_curve_is_drawn_from_its_own_column() -> None:
    row = {"loss": 1.5, "logit_scale": 2.5, "learning_rate": 3.5, "grad_norm": 4.5, "samples_per_second": 5.5,
           "data_wait_share": 0.65}  # fmt: skip
    page = rendered(train=[train_row(1, **row)])
    assert page.texts_of("b") == ["1.5", "2.5", "3.5", "4.5", "5.5", "65.0\u00a0%"]


def test_what_losses_and_towers_log_has_charts_of_its_own() -> None:
    row = {"pairs/accuracy": 0.25, "pairs/positive_similarity": 0.75, "pairs/negative_similarity": 0.125,
           "grad_norm/image": 7.5, "grad_norm/text": 8.5}  # fmt: skip
    page, plain = rendered(train=[train_row(1, **row)]), rendered(train=[train_row(1)])
    titles = ["pairs: right text in the batch", "pairs: mean cosine", "gradient norm by tower"]
    for title in titles:
        assert title in page.text
        assert title not in plain.text
    for value in ("25.0\u00a0%", "0.75", "0.125", "7.5", "8.5"):
        assert value in page.text


def test_a_column_that_was_never_logged_says_so() -> None:
    rows = [{"kind": "train", "step": 1, "loss": 1.0}]
    assert rendered(train=rows).text.count("no values were logged") == 5


def test_recall_at_several_depths_shares_a_chart_and_the_two_directions_do_not(tmp_path: Path) -> None:
    names = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    write_lines(tmp_path, [eval_row(step, metrics=dict.fromkeys(names, 0.5)) for step in (1, 2)])
    assert page_of(tmp_path).count("svg") == 2


def test_a_rank_and_a_loss_have_charts_of_their_own() -> None:
    metrics = {"top1": 0.5, "top5": 0.75, "median_rank": 3.0, "loss": 0.5}
    page = rendered(evals=[eval_row(step, metrics=metrics) for step in (1, 2)])
    title = "digits · zeroshot"
    assert chart_titles(page) == [title, f"{title}: median rank", f"{title}: loss"]


def test_datasets_and_tasks_have_charts_of_their_own_with_their_chance() -> None:
    rows = [eval_row(1), eval_row(1, dataset="faces", chance={"top1": 0.25}), eval_row(1, task="probe", chance=None)]
    page = rendered(evals=rows)
    assert chart_titles(page) == ["digits · zeroshot", "faces · zeroshot", "digits · probe"]
    assert page.texts_of("small", "chance") == [" chance 10.0\u00a0%", " chance 25.0\u00a0%"]


def test_many_classes_reach_the_page_as_a_picture_and_a_list(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(40)]
    pairs = [{"label": "class 3", "predicted": "class 5", "n": 30}]
    confusion = {"classes": names, "counts": [[0] * 40 for _ in names], "pairs": pairs}
    (tmp_path / "evaluation.json").write_text(json.dumps([result(confusion=confusion)]))
    page = page_of(tmp_path)
    assert [picture["alt"] for picture in page.all("img")] == ["confusion matrix of 40 classes"]
    assert page.count("tr") == 2
    assert "class 5" in page.text


def test_a_lookalike_reaches_the_page_marked(tmp_path: Path) -> None:
    answers = [{"text": "greek alpha", "correct": False, "lookalike": True}, {"text": "latin a", "correct": True}]
    (tmp_path / "evaluation.json").write_text(json.dumps([result(gallery=[{"text": "A", "answers": answers}])]))
    kinds = [attributes.get("class") for name, attributes in page_of(tmp_path).elements if name == "li"]
    assert kinds[-2:] == ["alike", "right"]


def test_an_evaluation_without_pictures_has_no_section_of_its_own() -> None:
    assert rendered(results=[result(), result() | {"details": None}]).texts_of("h2") == ["Results"]


def test_warnings_of_an_evaluation_are_shown(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps([result() | {"warnings": ["12 texts were cut off"]}]))
    assert "12 texts were cut off" in page_of(tmp_path).text


def test_a_warning_that_comes_twice_is_shown_once() -> None:
    twice = result() | {"warnings": ["12 texts were cut off"]}
    assert rendered(results=[twice, twice]).texts_of("li") == ["digits · zeroshot: 12 texts were cut off"]


def test_results_of_the_evaluators_are_shown_as_they_are_written(tmp_path: Path) -> None:
    found = EvalResult("faces", "retrieval", 3, {"image_to_text_recall@1": 0.5}, {"image_to_text_recall@1": 0.25}, {})
    (tmp_path / "evaluation.json").write_text(json.dumps([found.as_dict()]))
    page = page_of(tmp_path)
    assert "image to text recall@1" in page.text
    assert "chance 25.0\u00a0%" in page.text


def test_configuration_and_environment_are_shown_word_for_word() -> None:
    config, environment = "name: café\n  # <kept>\n", {"torch": "2.11", "mode": "café"}
    page = rendered(config=config, environment=environment)
    shown_config, shown_environment = page.texts_of("pre")
    assert shown_config == config
    assert json.loads(shown_environment) == environment
    assert "café" in shown_environment


def test_a_path_that_is_no_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere.*pretrain\.py"):
        write_report(tmp_path / "nowhere")


def test_a_report_that_cannot_be_written_is_one_clear_error(run: Path) -> None:
    (run / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html' cannot be written \(.*\): free or unlock the directory$"):
        write_report(run)


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(run: Path) -> None:
    before = set(run.iterdir())
    write_report(run)
    write_report(run)
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first

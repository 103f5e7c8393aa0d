"""The table for a model card: every number with what it means nothing without, and no broken cell."""

from contrastive.report.markdown import model_card
from contrastive.report.records import Evaluation
from tests.report.toys import ATTACK, result


def rows(**contents: object) -> list[str]:
    text = model_card(Evaluation("ViT-B-32", **contents))  # type: ignore[arg-type]
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_row_has_value_interval_chance_and_size() -> None:
    row = result() | {"intervals": {"top1": [0.7, 0.8]}}
    assert rows(results=[row]) == [
        "| dataset | task | metric | value | 95 % interval | chance | N |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| digits | zeroshot | top1 | 75.0\u00a0% | 70.0 to 80.0\u00a0% | 10.0\u00a0% | 1,797 |",
    ]


def test_captions_are_counted_where_captions_are_asked_for() -> None:
    row = result(counts={"text_to_image_queries": 5000}) | {"metrics": {"text_to_image_recall@1": 0.5}, "chance": {}}
    assert rows(results=[row])[-1].endswith("| 5,000 |")


def test_a_comparison_adds_the_difference_and_its_p() -> None:
    row = result() | {"comparison": {"top1": {"delta": 0.02, "p": 0.0312}}}
    found = rows(results=[row, result()], baseline="old|model")
    assert found[0].endswith("| N | minus old\\|model | p |")
    assert found[2].endswith("| 1,797 | +2.0\u00a0points | 0.031 |")
    assert found[3].endswith("| 1,797 |  |  |")


def test_a_result_that_failed_says_why() -> None:
    row = result() | {"metrics": {}, "error": "there is\nno data"}
    assert rows(results=[row])[-1] == "| digits | zeroshot | failed | there is no data |  |  |  |"


def test_a_value_that_is_none_is_a_dash() -> None:
    row = result() | {"metrics": {"top1": None}}
    assert "| top1 | – |" in rows(results=[row])[-1]


def test_names_cannot_break_the_table_or_become_html() -> None:
    row = result() | {"dataset": f"a|b\n{ATTACK}*_[x]"}
    (found,) = rows(results=[row])[2:]
    assert found.startswith('| a\\|b ">&lt;img src=x onerror=alert(1)>\\*\\_\\[x] | zeroshot |')


def test_how_it_was_measured_is_said() -> None:
    environment = {"precision": "bf16", "packages": {"torch": "2.11", "timm": None}, "git_revision": "abc"}
    model = {"form": "ViT-B-32@laion2b", "weights": "ema", "step": 30, "identity": "0f"}
    text = model_card(Evaluation("x", model=model, environment=environment, created="today"))
    for fact in ("model: ViT-B-32@laion2b", "weights: ema", "step: 30", "0f", "float32): bf16",
                 "versions: torch 2.11\n", "code: abc", "date: today", "Ties"):  # fmt: skip
        assert fact in text

"""Small run directories and a page as a browser would see it, for the tests of the report."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ATTACK = '"><img src=x onerror=alert(1)>'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


class Page(HTMLParser):
    """Elements with their attributes and their own text, and all text, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []  # of element i, with what its children say
        self.text = ""
        self._open: list[int] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in ("meta", "img"):
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data
        for index in self._open:
            self.texts[index] += data

    def count(self, name: str) -> int:
        return len(self.all(name))

    def all(self, name: str, class_: str | None = None) -> list[dict[str, str | None]]:
        """The attributes of every element of that name, and of that class where one is given."""
        return [attributes for attributes, _ in self._found(name, class_)]

    def texts_of(self, name: str, class_: str | None = None) -> list[str]:
        return [text for _, text in self._found(name, class_)]

    def _found(self, name: str, class_: str | None) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, text)
            for (found, attributes), text in zip(self.elements, self.texts, strict=True)
            if found == name and (class_ is None or class_ in (attributes.get("class") or "").split())
        ]


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


def answer(text: str, score: float, correct: bool = False, **more: object) -> dict[str, Any]:
    return {"text": text, "score": score, "correct": correct} | more


def rich_details(texts: list[str], picture: str = PIXEL) -> dict[str, Any]:
    """Every entry that an evaluator may put into its details, with these texts as names and captions."""
    answers = [answer(text, 0.4 - 0.05 * place, place == 1) for place, text in enumerate(texts)]
    pictured = [found | {"image": picture, "key": found["text"]} for found in answers]
    by_image = {"direction": "image_to_text", "image": picture, "key": texts[0], "truth": texts[1], "rank": 2}
    by_text = {"direction": "text_to_image", "text": texts[1], "rank": 2}
    edges = [bin_ / 15 for bin_ in range(16)]
    places = [[math.cos(i), math.sin(i)] for i in range(40)]
    return {
        "counts": {"images": 100, "classes": len(texts)},
        "gallery": [
            query | {"pick": pick, "answers": found}
            for query, found in ((by_image, answers), (by_text, pictured))
            for pick in ("first", "best", "worst")
        ],
        "near_misses": [by_image | {"answers": answers, "margin": 0.05}],
        "confusion": {
            "classes": texts,
            "counts": [[90 if i == j else 4 for j in range(len(texts))] for i in range(len(texts))],
            "pairs": [{"label": texts[0], "predicted": texts[1], "n": 4}],
        },
        "per_class": [
            {"name": text, "n": 100, "recall": 0.5 + 0.1 * (place % 5), "precision": 0.6,
             "top_confusion": {"name": texts[place - 1], "n": 7}}
            for place, text in enumerate(texts)
        ],
        "reliability": {"edges": edges, "count": list(range(15)), "accuracy": [0.8 * edge for edge in edges[1:]],
                        "confidence": edges[1:]},
        "templates": [{"template": f"a photo of a {{c}}, {text}", "top1": 0.5 + 0.02 * place}
                      for place, text in enumerate(texts)],
        "similarity": {"edges": [-0.2, 0.0, 0.2, 0.4], "positive": [0, 20, 80], "negative": [700, 290, 10]},
        "projection": {"image": places, "text": [[x + 3, y] for x, y in places], "explained": [0.4, 0.1],
                       "pairs": [[i, i] for i in range(40)]},
        "ranks": {way: {"k": [1, 5, 10, 100], "share": [0.4, 0.7, 0.8, 1.0]}
                  for way in ("image_to_text", "text_to_image")},
        "probe": {"loss": 1.0, "curve": [{"strength": 0.1**i, "val_top1": 0.5 + 0.1 * i} for i in range(4)]},
        "few_shot": [{"shots": shots, "top1": [0.1 * shots, 0.2 * shots]} for shots in (1, 2, 4)],
        "hubs": [{"document": 3, "text": texts[0], "n": 17}, {"image_id": 5, "n": 9}],
    }  # fmt: skip


def written_result(details: dict[str, Any], **changes: object) -> dict[str, Any]:
    """One entry of a results.json."""
    metrics = {
        "top1": {"value": 0.75, "ci95": [0.7, 0.8], "chance": 0.1},
        "ece": {"value": 0.04, "ci95": None, "chance": None},
        "median_rank": {"value": 3.0, "ci95": [2.0, 5.0], "chance": 50.5},
    }
    row = {"dataset": "digits", "task": "zeroshot", "n": 1797, "metrics": metrics, "comparison": {}, "timing": {},
           "warnings": [], "unreadable": [], "error": None, "details": details}  # fmt: skip
    return row | changes


def write_evaluation(folder: Path, *results: dict[str, Any], **changes: object) -> Path:
    """Write a results.json and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": "contrastive-eval/1", "created": "2026-11-21T10:00:00+0000",
               "environment": {"precision": "fp32", "packages": {"torch": "2.11"}},
               "model": {"name": "ViT-B-32", "step": 30, "identity": "ab" * 32}, "baseline": None,
               "results": list(results), "checkpoints": []}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content | changes))
    return folder

"""Small run directories and a page as a browser would see it, for the tests of the report."""

import json
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

"""What retrieval shows of its queries, by name: the gallery, near misses, and tables of what every query got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contrastive.eval.datasets import EvalDataset
from contrastive.eval.gallery import top_answers
from contrastive.eval.ranking import Ranking

NEAR_MISSES = 6  # of each direction


@dataclass(frozen=True, eq=False)
class Direction:
    """One way of asking: queries [Q, E], documents [M, E], and each query's right documents, strict and tolerant.

    `ids`: the image or document that each query is. `cluster` [Q]: the image that it belongs to.
    """

    name: str
    queries: Tensor
    documents: Tensor
    positives: list[list[int]]
    tolerant: list[list[int]] | None
    ids: Sequence[int]
    cluster: Tensor

    @property
    def asks_for_texts(self) -> bool:
        """Whether queries are images."""
        return self.name == "image_to_text"


def gallery(way: Direction, found: Ranking, dataset: EvalDataset) -> list[dict[str, Any]]:
    """Return the first, the best and the worst queries with their answers, named."""
    entries = top_answers(way.queries, way.documents, way.positives, found.ranks, way.name)
    return [named(entry, way, dataset) for entry in entries]


def near_misses(way: Direction, found: Ranking, dataset: EvalDataset) -> list[dict[str, Any]]:
    """Return the queries that a wrong document won by the least; `margin` is right less wrong.

    A wrong text that reads the same as a right one is no miss: it is left out.
    """
    margin = found.ranks.score - found.wrong_score  # NaN where nothing is wrong
    order = margin.argsort(descending=True, stable=True)
    alike = way.tolerant or way.positives
    entries: list[dict[str, Any]] = []
    for query in order[margin[order] <= 0].tolist():
        wrong = int(found.wrong[query])
        if wrong not in alike[query]:
            entry = _duel(way, found, query, wrong, float(margin[query]))
            entries.append(named(entry, way, dataset))
        if len(entries) == NEAR_MISSES:
            break
    return entries


def _duel(way: Direction, found: Ranking, query: int, wrong: int, margin: float) -> dict[str, Any]:
    group = way.positives[query]
    right = group[int((way.documents[group] @ way.queries[query]).argmax())]
    answers = [
        {"id": wrong, "score": float(found.wrong_score[query]), "correct": False},
        {"id": right, "score": float(found.ranks.score[query]), "correct": True},
    ]
    rank = float(found.ranks.expected[query])
    return {
        "direction": way.name,
        "pick": "near_miss",
        "query": query,
        "rank": rank,
        "margin": margin,
        "answers": answers,
    }


def named(entry: Mapping[str, Any], way: Direction, dataset: EvalDataset) -> dict[str, Any]:
    """Return the entry with texts, image ids and keys; `lookalike` marks a wrong answer that only looks right."""
    query = entry["query"]
    right, alike = set(way.positives[query]), set((way.tolerant or way.positives)[query])
    answers = []
    for answer in entry["answers"]:
        known = {"text": text_of(dataset, answer["id"])} if way.asks_for_texts else _image(dataset, answer["id"])
        answers.append({**answer, **known, "lookalike": answer["id"] in alike - right})
    if way.asks_for_texts:
        image = _image(dataset, way.ids[query])
        return {**entry, "image_id": image["image_id"], "key": image["key"], "truth": image["text"], "answers": answers}
    return {**entry, "text": text_of(dataset, way.ids[query]), "answers": answers}


def text_of(dataset: EvalDataset, document: int) -> str:
    """Return the text of a document."""
    return dataset.texts[dataset.documents[document]]


def _image(dataset: EvalDataset, image: int) -> dict[str, Any]:
    captions = " / ".join(text_of(dataset, document) for document in dataset.captions[image])
    return {"image_id": image, "key": dataset.images[image].name, "text": captions}


def rows(way: Direction, found: Ranking, dataset: EvalDataset, recall_k: Sequence[int]) -> dict[str, Sequence[Any]]:
    """Return a row a query; `answers` are the nearest documents or images, falling, of equal documents the first."""
    table: dict[str, Sequence[Any]]
    if way.asks_for_texts:
        table = {"image_id": way.ids, "image": [dataset.images[image].name for image in way.ids]}
    else:
        table = {"document": way.ids, "text": [text_of(dataset, document) for document in way.ids]}
    table |= {
        "rank": found.ranks.expected.tolist(),
        "score": found.ranks.score.tolist(),
        "map_at_r": found.map_at_r.tolist(),
        **{f"hit@{k}": found.ranks.hits(k).tolist() for k in recall_k},
        "answers": found.documents.tolist(),
        "answer_scores": found.scores.tolist(),
    }
    return table

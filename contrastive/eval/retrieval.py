"""Retrieval both ways, with any number of captions an image and of images a caption, by id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.gallery import top_answers
from contrastive.eval.ranking import MAX_SCORES, Ranks, chance_recall, rank
from contrastive.eval.result import Result


@dataclass(frozen=True)
class _Direction:
    """One way of asking: queries [Q, E], documents [M, E], and each query's right documents, strict and tolerant."""

    name: str
    queries: Tensor
    documents: Tensor
    positives: list[list[int]]
    tolerant: list[list[int]] | None


class Retrieval:
    """Recall@k image to text (mean over images) and text to image (mean over distinct captions), any of the positives.

    A candidate that is nobody's caption is an answer, not a query. With lookalikes, keys ending in `_lookalikes` count
    a text that looks like a right one as right too, in both directions. Ties by expectation; k beyond the pool gives 1.
    """

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self.max_scores = max_scores

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts and gallery."""
        dataset = embeddings.dataset
        if not dataset.captions:
            raise ConfigError(f"dataset {dataset.spec.name}: task retrieval needs captions, and its samples have none")
        metrics: dict[str, float] = {}
        chance: dict[str, float] = {}
        counts: dict[str, float] = {
            "images": len(dataset),
            "texts": len(dataset.candidates),
            "captions_per_image": sum(map(len, dataset.captions)) / len(dataset),
        }
        shown: list[dict[str, Any]] = []
        queried = _query_texts(dataset)
        for way in _directions(embeddings, queried):
            ranks = self._rank(way, way.positives)
            _recalls(way, way.positives, ranks, dataset.spec.recall_k, "", metrics, chance)
            if way.tolerant is not None:
                _recalls(
                    way,
                    way.tolerant,
                    self._rank(way, way.tolerant),
                    dataset.spec.recall_k,
                    "_lookalikes",
                    metrics,
                    chance,
                )
            counts[f"{way.name}_queries"] = len(way.queries)
            counts[f"{way.name}_tie_rate"] = ranks.tie_rate
            for entry in top_answers(way.queries, way.documents, way.positives, ranks, way.name):
                by_image = way.name == "image_to_text"
                shown.append(_image_query(entry, dataset) if by_image else _text_query(entry, dataset, queried))
        return Result(metrics, chance, {"counts": counts, "gallery": shown})

    def _rank(self, way: _Direction, positives: Sequence[Sequence[int]]) -> Ranks:
        return rank(way.queries, way.documents, positives, self.max_scores)


def _query_texts(dataset: EvalDataset) -> list[int]:
    """Return the ids of the candidates that are somebody's caption."""
    used = {text for group in dataset.captions for text in group}
    return [text for text in dataset.candidates if text in used]


def _directions(embeddings: Embeddings, queried: list[int]) -> list[_Direction]:
    dataset = embeddings.dataset
    texts = [list(group) for group in dataset.captions]
    alike = [sorted(_with_lookalikes(group, dataset.lookalikes)) for group in texts] if dataset.lookalikes else None
    position = {text: place for place, text in enumerate(dataset.candidates)}
    to_texts = [
        None if groups is None else [[position[text] for text in group] for group in groups]
        for groups in (texts, alike)
    ]
    to_images = [None if groups is None else _images_of(queried, groups) for groups in (texts, alike)]
    pool = embeddings.text_features[list(dataset.candidates)]
    images, queries = embeddings.image_features, embeddings.text_features[queried]
    return [
        _Direction("image_to_text", images, pool, *to_texts),  # type: ignore[arg-type]
        _Direction("text_to_image", queries, images, *to_images),  # type: ignore[arg-type]
    ]


def _with_lookalikes(texts: Sequence[int], lookalikes: Mapping[int, frozenset[int]]) -> set[int]:
    return set(texts).union(*(lookalikes.get(text, frozenset()) for text in texts))


def _images_of(queried: Sequence[int], texts_of_images: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return for each queried text the images that have it."""
    images: dict[int, list[int]] = {text: [] for text in queried}
    for image, group in enumerate(texts_of_images):
        for text in group:
            if text in images:
                images[text].append(image)
    return list(images.values())


def _recalls(
    way: _Direction,
    positives: Sequence[Sequence[int]],
    ranks: Ranks,
    recall_k: Sequence[int],
    ending: str,
    metrics: dict[str, float],
    chance: dict[str, float],
) -> None:
    """Write recall@k and its chance level of one direction into the two tables."""
    for k in recall_k:
        key = f"{way.name}_recall@{k}{ending}"
        metrics[key] = float(ranks.hits(k).mean())
        chance[key] = chance_recall(positives, len(way.documents), k)


def _image_query(entry: dict[str, Any], dataset: EvalDataset) -> dict[str, Any]:
    """Return the gallery entry of an image; `lookalike` marks a wrong text that only looks like the right one."""
    captions = dataset.captions[entry["query"]]
    alike = _with_lookalikes(captions, dataset.lookalikes)
    answers = []
    for answer in entry["answers"]:
        text = dataset.candidates[answer["id"]]
        lookalike = not answer["correct"] and text in alike
        answers.append({**answer, "text": dataset.texts[text], "lookalike": lookalike})
    truth = " / ".join(dataset.texts[text] for text in captions)
    key = dataset.images[entry["query"]].name
    return {**entry, "image_id": entry["query"], "key": key, "truth": truth, "answers": answers}


def _text_query(entry: dict[str, Any], dataset: EvalDataset, queried: Sequence[int]) -> dict[str, Any]:
    """Return the gallery entry of a text, whose answers are images with their own captions."""
    query = queried[entry["query"]]
    alike = _with_lookalikes([query], dataset.lookalikes)
    answers = []
    for answer in entry["answers"]:
        image = answer["id"]
        captions = dataset.captions[image]
        named = {"image_id": image, "key": dataset.images[image].name}
        named["text"] = " / ".join(dataset.texts[text] for text in captions)
        answers.append({**answer, **named, "lookalike": not answer["correct"] and not alike.isdisjoint(captions)})
    return {**entry, "text": dataset.texts[query], "answers": answers}

"""Retrieval both ways, with any number of captions an image and of images a caption, by id."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.answers import Direction, gallery, near_misses, rows
from contrastive.eval.cosines import cosines, histogram
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.rank_metrics import Figures, add_ranks, add_recall, rank_curve
from contrastive.eval.ranking import MAX_SCORES, Ranking, Ranks, rank, search
from contrastive.eval.result import Result

USUAL_K = (1, 5, 10)  # whose six recalls `mean_recall` is the mean of


class Retrieval:
    """Recall@k and ranks, image to text (over images) and text to image (over captions), any of the positives.

    A document that is nobody's caption is an answer, not a query. With lookalikes, keys ending in `_lookalikes` count
    a text that looks like a right one as right too, in both directions. Ties by expectation; k beyond the pool gives 1.
    `mean_recall` is the mean of recall@1, 5 and 10 both ways, where these are asked for.
    """

    def __init__(self, max_scores: int = MAX_SCORES) -> None:
        self.max_scores = max_scores

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts, gallery, near misses, rank curves and cosines.

        Raises:
            ConfigError: the dataset has no captions.
        """
        dataset = embeddings.dataset
        if not dataset.captions:
            raise ConfigError(f"dataset {dataset.spec.name}: task retrieval needs captions, and its samples have none")
        figures, recall_k = Figures(), dataset.spec.recall_k
        ways = directions(embeddings)
        found = {way: search(way.queries, way.documents, way.positives, self.max_scores) for way in ways}
        for way, answers in found.items():
            size = len(way.documents)
            add_recall(figures, way.name, answers.ranks, way.positives, size, way.cluster, recall_k)
            if way.tolerant is not None:
                ranks = self._tolerant(way, answers.ranks)
                add_recall(figures, way.name, ranks, way.tolerant, size, way.cluster, recall_k, "_lookalikes")
        if set(USUAL_K) <= set(recall_k):
            figures.add_average("mean_recall", [f"{way.name}_recall@{k}" for way in found for k in USUAL_K])
        for way, answers in found.items():
            add_ranks(figures, way.name, answers, way.positives, len(way.documents), way.cluster)
        return Result(
            figures.metrics,
            figures.chance,
            {"counts": _counts(dataset, found), **_shown(embeddings, found)},
            figures.estimates,
            len(dataset),
            {way.name: rows(way, answers, dataset, recall_k) for way, answers in found.items()},
        )

    def _tolerant(self, way: Direction, ranks: Ranks) -> Ranks:
        """Return the ranks by the tolerant positives; only queries that have more of them are ranked again."""
        assert way.tolerant is not None
        changed = [query for query, group in enumerate(way.tolerant) if len(group) > len(way.positives[query])]
        if not changed:
            return ranks
        positives = [way.tolerant[query] for query in changed]
        again = rank(way.queries[changed], way.documents, positives, self.max_scores)
        return ranks.replaced(torch.tensor(changed), again)


def directions(embeddings: Embeddings) -> list[Direction]:
    """Return both ways of asking. Queries of text to image are the documents that are a caption of some image."""
    dataset = embeddings.dataset
    captions = [list(group) for group in dataset.captions]
    alike = [sorted(_with_lookalikes(group, dataset.lookalikes)) for group in captions] if dataset.lookalikes else None
    queried = sorted({document for group in captions for document in group})
    to_images = _images_of(queried, captions)
    pool = _rows(embeddings.text_features, dataset.documents)
    images = embeddings.image_features
    return [
        Direction("image_to_text", images, pool, captions, alike, range(len(captions)), torch.arange(len(captions))),
        Direction(
            "text_to_image",
            _rows(pool, queried),
            images,
            to_images,
            None if alike is None else _images_of(queried, alike),
            queried,
            torch.tensor([group[0] for group in to_images]),
        ),
    ]


def _rows(features: Tensor, ids: Sequence[int]) -> Tensor:
    """Return the features of ids; without a copy, 50 MB at COCO's size, where that is all of them in order."""
    return features if len(ids) == len(features) and list(ids) == list(range(len(ids))) else features[list(ids)]


def _with_lookalikes(documents: Sequence[int], lookalikes: Mapping[int, frozenset[int]]) -> set[int]:
    return set(documents).union(*(lookalikes.get(document, frozenset()) for document in documents))


def _images_of(queried: Sequence[int], documents_of_images: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return for each queried document the images that have it, rising."""
    images: dict[int, list[int]] = {document: [] for document in queried}
    for image, group in enumerate(documents_of_images):
        for document in group:
            if document in images:
                images[document].append(image)
    return list(images.values())


def _counts(dataset: EvalDataset, found: Mapping[Direction, Ranking]) -> dict[str, float]:
    counts: dict[str, float] = {
        "images": len(dataset),
        "texts": len(dataset.documents),
        "captions_per_image": sum(map(len, dataset.captions)) / len(dataset),
    }
    for way, answers in found.items():
        counts[f"{way.name}_queries"] = len(way.queries)
        counts[f"{way.name}_tie_rate"] = answers.ranks.tie_rate
    return counts


def _shown(embeddings: Embeddings, found: Mapping[Direction, Ranking]) -> dict[str, Any]:
    dataset = embeddings.dataset
    pairs: Tensor = torch.tensor([(i, d) for i, group in enumerate(dataset.captions) for d in group])
    forth = next(iter(found))
    return {
        "ranks": {way.name: rank_curve(answers.ranks, len(way.documents)) for way, answers in found.items()},
        "similarity": histogram(cosines(forth.queries, forth.documents, pairs)),
        "near_misses": [entry for way, answers in found.items() for entry in near_misses(way, answers, dataset)],
        "gallery": [entry for way, answers in found.items() for entry in gallery(way, answers, dataset)],
    }

"""The queries that a person looks at: the first, the best and the worst, with their top answers and their pictures."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from contrastive.eval.datasets import EvalDataset
from contrastive.eval.ranking import Ranks

QUERIES = 4  # of each kind and direction
ANSWERS = 5
THUMBNAIL_PIXELS = 160


def top_answers(
    queries: Tensor, documents: Tensor, positives: Sequence[Sequence[int]], ranks: Ranks, direction: str
) -> list[dict[str, Any]]:
    """Return the first, best and worst queries: {direction, pick, query, rank, answers: [{id, score, correct}]}.

    Best: ranked first, with the highest score; worst: its right answer is ranked last.
    """
    expected = ranks.expected.numpy()
    order = np.lexsort((-ranks.score.numpy(), expected))  # by rank, then by falling score
    picks = {"first": range(min(QUERIES, len(queries))), "best": order[:QUERIES], "worst": order[::-1][:QUERIES]}
    entries = []
    for pick, chosen in picks.items():
        indices = [int(index) for index in chosen]
        top = (queries[indices] @ documents.T).topk(min(ANSWERS, len(documents)))
        for index, scores, ids in zip(indices, top.values.tolist(), top.indices.tolist(), strict=True):
            right = set(positives[index])
            found = [{"id": id_, "score": s, "correct": id_ in right} for s, id_ in zip(scores, ids, strict=True)]
            rank = float(expected[index])
            entries.append({"direction": direction, "pick": pick, "query": index, "rank": rank, "answers": found})
    return entries


def with_pictures(gallery: Sequence[dict[str, Any]], dataset: EvalDataset) -> list[dict[str, Any]]:
    """Return the gallery with an `image`, base64 WebP of at most 160 pixels, beside every `image_id`."""
    entries = []
    for entry in gallery:
        answers = [_with_picture(answer, dataset) for answer in entry["answers"]]
        entries.append({**_with_picture(entry, dataset), "answers": answers})
    return entries


def _with_picture(entry: dict[str, Any], dataset: EvalDataset) -> dict[str, Any]:
    if "image_id" not in entry:
        return entry
    image = dataset.image(entry["image_id"]).convert("RGB")
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=85)
    return {**entry, "image": base64.b64encode(content.getvalue()).decode()}

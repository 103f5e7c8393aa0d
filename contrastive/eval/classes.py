"""What the tasks with classes share: a vector for each class, and the scores of all images, a chunk at a time.

N images, C classes, E embed_dim.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.errors import ConfigError
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.pool import Pool

FINE_BINS, SHOWN_BINS = 800, 50  # of cosines from -1 to 1; and of those, put together, what a report shows


def class_weights(text_features: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return [C, E]: each class's mean of its prompts' normalised features, normalised again (Radford et al. 2021)."""
    means = torch.stack([text_features[list(group)].mean(0) for group in prompts])
    return nn.functional.normalize(means, dim=1)


def template_weights(text_features: Tensor, dataset: EvalDataset) -> Iterator[Tensor]:
    """Yield the class weights [C, E] of each template alone; the synonyms of a class are averaged within it."""
    count = len(dataset.templates)
    for template in range(count):
        yield class_weights(text_features, [_of_template(group, template, count) for group in dataset.prompts])


def _of_template(prompts: Sequence[int], template: int, templates: int) -> Sequence[int]:
    """Return a class's prompts of one template; prompts stand template by template, each with all synonyms."""
    assert len(prompts) % templates == 0, "every synonym stands in every template"
    synonyms = len(prompts) // templates
    return prompts[template * synonyms : (template + 1) * synonyms]


def score_chunks(image_features: Tensor, weights: Tensor, max_scores: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield a slice of the images and their cosines [n, C], float32, at most `max_scores` at a time."""
    pool = Pool.of(weights)
    rows = max(1, max_scores // len(weights))
    for start in range(0, len(image_features), rows):
        scores = image_features[start : start + rows] @ pool.rows.T
        yield slice(start, start + len(scores)), scores if pool.rows is weights else scores[:, pool.place]


def expected_hit(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the chance that the first class is the right one, float64 [n]; scores [n, C], labels [n].

    Where classes are level it is their share; they are counted in the rows alone where the right one is among them.
    """
    best = scores.amax(1)
    hit = torch.zeros(len(scores), dtype=torch.float64)
    won = (scores.gather(1, labels[:, None])[:, 0] == best).nonzero().flatten()
    hit[won] = 1 / (scores[won] == best[won, None]).sum(1, dtype=torch.float64)
    return hit


class Similarities:
    """Histograms of the cosines of images with their own classes (positive) and with the others (negative)."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self.positive = torch.zeros(FINE_BINS, dtype=torch.float64)
        self.all = torch.zeros(FINE_BINS, dtype=torch.float64)

    def add(self, scores: Tensor, positive: Tensor) -> None:
        """Count the cosines in `scores`, of which those in `positive` are right."""
        self.all += _histogram(scores)
        self.positive += _histogram(positive)

    def as_details(self) -> dict[str, list[Any]]:
        """Return {edges, positive, negative}: the range that has cosines, in at most SHOWN_BINS bins."""
        filled = self.all.nonzero().flatten()
        first, end = int(filled[0]), int(filled[-1]) + 1
        together = -(-(end - first) // SHOWN_BINS)
        first -= first % together
        end += -(end - first) % together
        width = 2 / FINE_BINS

        def shown(counts: Tensor) -> list[int]:
            padded = nn.functional.pad(counts, (0, together))[first:end]
            return [int(n) for n in padded.view(-1, together).sum(1)]

        return {
            "edges": [place * width - 1 for place in range(first, end + 1, together)],
            "positive": shown(self.positive),
            "negative": shown(self.all - self.positive),
        }


def _histogram(scores: Tensor) -> Tensor:
    """Return the counts of FINE_BINS equal bins from -1 to 1; rounding may carry a cosine past the ends."""
    return torch.histc(scores.clamp(-1, 1), FINE_BINS, -1, 1).double()


def need_labels(dataset: EvalDataset, task: str) -> Tensor:
    """Return the class of each image, int64 [N].

    Raises:
        ConfigError: the dataset has no classes.
    """
    if not dataset.labels:
        raise ConfigError(f"dataset {dataset.spec.name}: task {task} needs classes, and its samples have no labels")
    return torch.tensor(dataset.labels)


def described(dataset: EvalDataset, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a gallery entry, whose query is an image and whose answers are classes, with their names."""
    answers = [{**answer, "text": dataset.classnames[answer["id"]]} for answer in entry["answers"]]
    key = dataset.images[entry["query"]].name
    return {**entry, "image_id": entry["query"], "key": key, "answers": answers}

"""How images and texts lie in the space they share: gap, alignment, uniformity, rank, hubs, and the loss of the whole.

N images, M distinct texts, P pairs, E embed_dim. Features are of length 1, so that ||a - b||^2 = 2 - 2 cos(a, b).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contrastive.errors import ConfigError
from contrastive.eval.bootstrap import Mean
from contrastive.eval.classes import class_weights
from contrastive.eval.cosines import cosines, histogram, quantiles
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.neighbours import NEIGHBOURS, Neighbours, look, skewness
from contrastive.eval.rank_metrics import Figures
from contrastive.eval.ranking import MAX_SCORES
from contrastive.eval.result import Result
from contrastive.eval.spread import effective_rank, projection, separability, total, uniformity

SAMPLE = 10_000  # rows whose distances to each other are taken: 50 million, a second
HUBS = 6  # of each modality
FEW_ROWS, FEW_DIMENSIONS = 10, 2.0


class Pairs(NamedTuple):
    """Two sets of features and which belong together; `names` are the texts, or classes."""

    images: Tensor  # [N, E]
    texts: Tensor  # [M, E], each of some pair
    pairs: Tensor  # int64 [P, 2]: image, text; by image
    names: Sequence[str]


class Geometry:
    """Figures of the embedding space, from the pairs of images and captions, or of images and their classes.

    Every distinct text stands once, and only if it belongs to an image; a class is the mean of its prompts.
    """

    def __init__(self, sample: int = SAMPLE, seed: int = 0, max_scores: int = MAX_SCORES) -> None:
        """`sample`: rows of each modality that uniformity is taken of, chosen by `seed` where there are more."""
        if sample < 2:
            raise ValueError(f"sample: {sample} must be at least 2: uniformity is of pairs of rows")
        self.sample, self.seed, self.max_scores = sample, seed, max_scores

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts, cosines, hubs and a projection of both modalities.

        A figure that is not defined for so few images or texts is left out.

        Raises:
            ConfigError: the dataset has neither captions nor classes.
        """
        space = pairs_of(embeddings)
        wrong = cosines(space.images, space.texts, space.pairs)
        figures = Figures()
        self._add_distances(figures, space, wrong.positive.double())
        self._add_spread(figures, space)
        ways = [
            look(*features, embeddings.logit_scale, self.max_scores)
            for features in ((space.images, space.texts), (space.texts, space.images))
        ]
        _add_hubs(figures, ways)
        if embeddings.logit_scale is not None:
            _add_losses(figures, space, ways, wrong.positive.double() * embeddings.logit_scale)
        by_side = {"positive": wrong.positive, "negative": wrong.negative}
        details = {
            "counts": {"images": len(space.images), "texts": len(space.texts), "pairs": len(space.pairs)},
            "cosines": {name: quantiles(values) for name, values in by_side.items() if len(values)},
            "similarity": histogram(wrong),
            "hubs": _hubs(embeddings.dataset, space, ways),
            "projection": projection(space.images, space.texts, space.pairs, self.seed),
        }
        count, warnings = len(space.images), _warnings(embeddings.dataset.spec.name, space, figures.metrics)
        return Result(figures.metrics, figures.chance, details, figures.estimates, count, warnings=warnings)

    def _add_distances(self, figures: Figures, space: Pairs, positive: Tensor) -> None:
        """Add what sums and pairs give. `rmg` is of Schrodi et al. 2024, https://arxiv.org/abs/2404.07983."""
        sizes = len(space.images), len(space.texts)
        images, texts = total(space.images), total(space.texts)
        figures.metrics["modality_gap"] = float((images / sizes[0] - texts / sizes[1]).norm())
        figures.metrics["separability"] = separability(space.images, space.texts)
        figures.chance["separability"] = 0.5
        for name, values in (("alignment", 2 - 2 * positive), ("cos_positive", positive)):
            figures.metrics[name] = float(values.mean())
            figures.estimates[name] = Mean(values, space.pairs[:, 0])
        if sizes[0] * sizes[1] > len(positive):
            rest = float(images @ texts - positive.sum())
            figures.metrics["cos_negative"] = rest / (sizes[0] * sizes[1] - len(positive))
        if min(sizes) > 1:
            across = 1 - float(positive.mean())
            within = (_mean_distance(images, sizes[0]) + _mean_distance(texts, sizes[1])) / 2
            figures.metrics["rmg"] = across / (within + across)

    def _add_spread(self, figures: Figures, space: Pairs) -> None:
        for name, features in (("image", space.images), ("text", space.texts)):
            if len(features) > 1:
                found = uniformity(features, self.sample, self.seed, self.max_scores)
                figures.metrics[f"uniformity_{name}"] = found
                figures.metrics[f"effective_rank_{name}"] = effective_rank(features)


def _warnings(dataset: str, space: Pairs, metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence for each modality of which little is left; few rows cannot use many dimensions."""
    ranks = {
        name: metrics[f"effective_rank_{name}"]
        for name, rows in (("image", space.images), ("text", space.texts))
        if len(rows) > FEW_ROWS
    }
    return tuple(
        f"dataset {dataset}: {name} features use {rank:.1f} dimensions; the model has nearly collapsed"
        for name, rank in ranks.items()
        if rank < FEW_DIMENSIONS
    )


def pairs_of(embeddings: Embeddings) -> Pairs:
    """Return images and captions that belong together, or else images and their classes.

    Raises:
        ConfigError: the dataset has neither.
    """
    dataset = embeddings.dataset
    groups: Sequence[Sequence[int]]
    if dataset.captions:
        groups = [[dataset.documents[document] for document in group] for group in dataset.captions]
        features, names = embeddings.text_features, dataset.texts
    else:
        groups = [(label,) for label in dataset.labels] or dataset.label_sets
        features, names = embeddings.text_features, dataset.classnames
        if dataset.prompts:
            features = class_weights(features, dataset.prompts)
    pairs = torch.tensor([(image, text) for image, group in enumerate(groups) for text in dict.fromkeys(group)])
    if not len(pairs):
        rule = "its samples have neither captions nor classes"
        raise ConfigError(f"dataset {dataset.spec.name}: task geometry needs pairs of images and texts, and {rule}")
    texts, place = pairs[:, 1].unique(return_inverse=True)
    return Pairs(
        embeddings.image_features,
        features[texts],
        torch.stack([pairs[:, 0], place], 1),
        [names[text] for text in texts.tolist()],
    )


def _mean_distance(summed: Tensor, count: int) -> float:
    """Return the mean of 1 - cosine over all pairs of different rows of length 1, from their sum alone."""
    return 1 - (float(summed.square().sum()) - count) / (count * (count - 1))


def _add_hubs(figures: Figures, ways: Sequence[Neighbours]) -> None:
    """Add how unevenly texts, and images, are found among the nearest ten (Radovanovic et al. 2010)."""
    for name, way in zip(("text", "image"), ways, strict=True):
        if len(way.found) > NEIGHBOURS:
            figures.metrics[f"hubness_{name}"] = skewness(way.found)
            figures.metrics[f"never_retrieved_{name}"] = float((way.found == 0).double().mean())


def _add_losses(figures: Figures, space: Pairs, ways: Sequence[Neighbours], logits: Tensor) -> None:
    """Add -log of the share of the right ones in the softmax over all, at the trained temperature.

    With one text an image it is InfoNCE over the whole pool; with several, MIL-NCE (Miech et al. 2020). A model that
    tells nothing apart gets log(M / right ones).
    """
    names = "infonce_image_to_text", "infonce_text_to_image"
    for side, (name, way) in enumerate(zip(names, ways, strict=True)):
        query, documents = space.pairs[:, side], len(way.found)
        right = way.log_sum_of(query, logits)
        asked = right.isfinite()  # an image of no class has no right answer
        loss = (way.log_sum - right)[asked].clamp_min(0)
        counts = torch.bincount(query, minlength=len(right))[asked]
        first = torch.zeros(len(right), dtype=torch.int64).scatter_reduce(
            0, query, space.pairs[:, 0], "amin", include_self=False
        )
        figures.add_mean(name, loss, first[asked], float((documents / counts.double()).log().mean()))


def _hubs(dataset: EvalDataset, space: Pairs, ways: Sequence[Neighbours]) -> list[Mapping[str, Any]]:
    """Return the texts and images that are found most often, with how often."""
    texts, images = (way.found for way in ways)
    hubs: list[Mapping[str, Any]] = [{"text": space.names[place], "n": int(texts[place])} for place in _most(texts)]
    return hubs + [
        {"image_id": place, "key": dataset.images[place].name, "n": int(images[place])} for place in _most(images)
    ]


def _most(counts: Tensor) -> list[int]:
    most: list[int] = counts.argsort(descending=True, stable=True)[:HUBS].tolist()
    return most

"""Compositional choice: a few images and texts that differ in a detail, to be told apart (Winoground, SugarCrepe).

n choices of one shape, I images and T >= I texts each; text j belongs to image j, further texts to none.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from contrastive.errors import ConfigError, DataError
from contrastive.eval.bootstrap import Mean
from contrastive.eval.datasets import Alternatives, EvalDataset
from contrastive.eval.embed import Embeddings
from contrastive.eval.gallery import QUERIES
from contrastive.eval.result import Result

MAX_CATEGORIES = 30  # the most frequent ones get a metric of their own
MAX_IMAGES = 12  # of a choice: ties among its pairs cost 2^I
MAX_VALUES = 1 << 22  # features held at once, float64: 32 MiB an operand
SCORES = ("text_score", "image_score", "group_score")

_Margin = tuple[float, str, int]  # of a query: by how much it is right, which way it asks, and its place


class Choosing:
    """The share of choices in which every image finds its text, every text its image, and both (Thrush et al. 2022).

    text_score: for each image, its text is above the other texts. image_score: for each text of an image, its image is
    above the other images. group_score: both; the two need at least two images a choice, and are the mean over such
    choices. `text_score/CATEGORY`: of the choices of one category. https://arxiv.org/abs/2204.03162

    Level pairs are ordered at random within a choice, and the score is the chance to be right: a constant model scores
    1/4, 1/4 and 1/6 on Winoground, which is chance.
    """

    def __call__(self, embeddings: Embeddings) -> Result:
        """Return the metrics, and in details counts and the gallery.

        Raises:
            ConfigError: the dataset has no choices, or one of too many images.
        """
        dataset = embeddings.dataset
        _check(dataset)
        scores = _scores(embeddings)
        judged = torch.tensor([judge(table) for table in scores], dtype=torch.float64)  # [choices, 3]
        expected = torch.tensor([chance(*table.shape) for table in scores], dtype=torch.float64)
        margins = [_margins(table) for table in scores]
        groups = dict(_groups(dataset.choices))
        first = torch.tensor([choice.images[0] for choice in dataset.choices])
        column = {name: SCORES.index(name.partition("/")[0]) for name in groups}
        metrics = {name: float(judged[rows, column[name]].mean()) for name, rows in groups.items()}
        return Result(
            metrics=metrics,
            chance={name: float(expected[rows, column[name]].mean()) for name, rows in groups.items()},
            details={"counts": _counts(dataset, margins), **_shown(dataset, scores, margins)},
            estimates={name: Mean(judged[rows, column[name]], first[rows]) for name, rows in groups.items()},
            clusters=len(dataset),
            rows={"choices": _rows(dataset, scores, margins, judged)},
        )


def judge(scores: Tensor) -> tuple[float, float, float]:
    """Return the text, image and group score of one choice, [I, T]: 0 or 1 unless right and wrong pairs are level.

    Ties are ordered at random, all pairs of the choice in one order: the group score is the chance that each right pair
    is above all others of its image and of its text.
    """
    images = len(scores)
    right = scores.diagonal()
    by_image, by_text = right[:, None], right[None]
    square = scores[:, :images]
    texts_below, images_below = bool((scores <= by_image).all()), bool((square <= by_text).all())
    text = float((1 / (scores == by_image).sum(1).double()).prod()) if texts_below else 0.0
    image = float((1 / (square == by_text).sum(0).double()).prod()) if images_below else 0.0
    return text, image, _first_of_all(scores) if texts_below and images_below else 0.0


def chance(images: int, texts: int) -> tuple[float, float, float]:
    """Return the scores of a random order of the pairs, which are those of a constant model."""
    text, image = texts**-images, images**-images
    group = 1.0
    for placed in range(1, images + 1):  # the sum of `_first_of_all`, whose sets of equal size are here alike
        others = images * texts - (images - placed) * (texts - placed) - placed
        group *= placed / (placed + others)
    return text, image, group


def _first_of_all(scores: Tensor) -> float:
    """Return the chance of the group score, where no right pair is below a wrong one, over all orders of level pairs.

    A wrong pair level with the right pair of its image or its text must come out below it. Over uniform heights of the
    pairs the chance that the right pairs of a set are all above what they must be above, F(set), is the sum over the
    highest of them of F(set without it), divided by the pairs that are in the set or below it.
    """
    images, texts = scores.shape
    below: list[set[int]] = [set() for _ in range(images)]
    values = scores.tolist()
    for i in range(images):
        for j in range(texts):
            if i != j:
                for right in {i, j} & set(range(images)):
                    if values[i][j] == values[right][right]:
                        below[right].add(i * texts + j)
    if not any(below):
        return 1.0
    found = [1.0] + [0.0] * (2**images - 1)
    for chosen in range(1, 2**images):
        members = [i for i in range(images) if chosen >> i & 1]
        pairs = len(members) + len(set().union(*(below[i] for i in members)))
        found[chosen] = sum(found[chosen ^ 1 << i] for i in members) / pairs
    return found[-1]


def _check(dataset: EvalDataset) -> None:
    name = dataset.spec.name
    if not dataset.choices:
        raise ConfigError(
            f"dataset {name}: task choice needs choices, and there are none; is it another dataset's task?"
        )
    for place, choice in enumerate(dataset.choices):
        images, texts = len(choice.images), len(choice.texts)
        if not 1 <= images <= MAX_IMAGES or texts < max(2, images):
            raise DataError(
                f"dataset {name}: choice {place} has {images} images and {texts} texts; it must have 1 to {MAX_IMAGES} "
                "images and a text for each, and at least two texts"
            )


def _scores(embeddings: Embeddings) -> list[Tensor]:
    """Return the cosines [I, T] of each choice.

    Each pair is multiplied and summed alike: a matrix product may round equal pairs differently and break their tie.
    """
    choices = embeddings.dataset.choices
    width = embeddings.image_features.shape[1]
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, choice in enumerate(choices):
        by_shape.setdefault((len(choice.images), len(choice.texts)), []).append(place)
    found: dict[int, Tensor] = {}
    for (images, texts), places in by_shape.items():
        rows = max(1, MAX_VALUES // (images * texts * width))
        for start in range(0, len(places), rows):
            chunk = places[start : start + rows]
            left = embeddings.image_features[torch.tensor([choices[place].images for place in chunk])].double()
            right = embeddings.text_features[torch.tensor([choices[place].texts for place in chunk])].double()
            found |= zip(chunk, (left[:, :, None] * right[:, None]).sum(-1), strict=True)
    return [found[place] for place in range(len(choices))]


def _groups(choices: Sequence[Alternatives]) -> Iterator[tuple[str, list[int]]]:
    """Yield each metric and the choices it is the mean of."""
    yield "text_score", list(range(len(choices)))
    if several := [place for place, choice in enumerate(choices) if len(choice.images) > 1]:
        yield "image_score", several
        yield "group_score", several
    sizes = Counter(choice.category for choice in choices if choice.category)
    if len(sizes) > 1:
        for category in sorted(name for name, _ in sizes.most_common(MAX_CATEGORIES)):
            yield (
                f"text_score/{category}",
                [place for place, choice in enumerate(choices) if choice.category == category],
            )


def _margins(scores: Tensor) -> list[_Margin]:
    """Return, for each query of a choice, by how much the right answer leads the best wrong one."""
    images = len(scores)
    wrong = scores.clone().fill_diagonal_(-torch.inf)
    ways = [("image_to_text", scores.diagonal() - wrong.amax(1))]
    if images > 1:
        ways.append(("text_to_image", scores.diagonal() - wrong[:, :images].amax(0)))
    return [(value, way, place) for way, values in ways for place, value in enumerate(values.tolist())]


def _counts(dataset: EvalDataset, margins: Sequence[Sequence[_Margin]]) -> dict[str, Any]:
    level = sum(any(margin == 0 for margin, _, _ in group) for group in margins)
    return {
        "images": len(dataset),
        "choices": len(dataset.choices),
        "categories": len({choice.category for choice in dataset.choices} - {""}),
        "tie_rate": level / len(margins),
    }


def _shown(dataset: EvalDataset, scores: Sequence[Tensor], margins: Sequence[Sequence[_Margin]]) -> dict[str, Any]:
    """Return the gallery and the near misses, of each choice the query whose right answer leads least."""
    least = [min(group) for group in margins]
    order = sorted(range(len(least)), key=lambda place: least[place][0])
    wrong = [place for place in order if least[place][0] <= 0]
    right = [place for place in order if least[place][0] > 0]

    def entries(pick: str, places: Sequence[int]) -> list[dict[str, Any]]:
        return [_entry(dataset, scores[place], pick, place, *least[place]) for place in places[:QUERIES]]

    return {
        "gallery": entries("first", range(len(scores))) + entries("best", right[::-1]) + entries("worst", wrong),
        "near_misses": entries("narrow_miss", wrong[::-1]) + entries("narrow_hit", right),
    }


def _entry(
    dataset: EvalDataset, scores: Tensor, pick: str, place: int, margin: float, direction: str, query: int
) -> dict[str, Any]:
    choice = dataset.choices[place]
    images = [{"image_id": image, "key": dataset.images[image].name} for image in choice.images]
    texts = [{"text": dataset.texts[text]} for text in choice.texts]
    by_image = direction == "image_to_text"
    asked, offered = (images[query], texts) if by_image else (texts[query], images)
    given = scores[query] if by_image else scores[: len(images), query]
    order = given.argsort(descending=True, stable=True).tolist()
    answers = [{"id": i, "score": float(given[i]), "correct": i == query, **offered[i]} for i in order]
    rank = 1 + int((given > given[query]).sum()) + ((given == given[query]).sum().item() - 1) / 2
    found = {"direction": direction, "pick": pick, "query": place, "rank": rank, "margin": margin, **asked}
    return {**found, "truth": texts[query]["text"], "category": choice.category, "answers": answers}


def _rows(
    dataset: EvalDataset, scores: Sequence[Tensor], margins: Sequence[Sequence[_Margin]], judged: Tensor
) -> Mapping[str, Sequence[Any]]:
    """Return a row a choice; `scores` are the cosines, image by image."""
    choices = dataset.choices
    several = [len(choice.images) > 1 for choice in choices]
    return {
        "id": list(range(len(choices))),
        "category": [choice.category for choice in choices],
        "images": [[dataset.images[image].name for image in choice.images] for choice in choices],
        "texts": [[dataset.texts[text] for text in choice.texts] for choice in choices],
        "scores": [table.tolist() for table in scores],
        "margin": [min(group)[0] for group in margins],
        "text_score": judged[:, 0].tolist(),
        "image_score": [score if asked else None for score, asked in zip(judged[:, 1].tolist(), several, strict=True)],
        "group_score": [score if asked else None for score, asked in zip(judged[:, 2].tolist(), several, strict=True)],
    }

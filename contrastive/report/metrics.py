"""What a reader should know of a metric by its name: its unit, which way is better, and what it says."""

import re
from collections.abc import Iterable

from contrastive.report.charts import is_number

# Words of names whose values are no shares, also where they lie between 0 and 1.
NO_SHARES = re.compile(
    r"(rank|loss|nll|brier|mrr|gap|rmg|alignment|uniformity|cos|cosine|similarity|temperature|scale|bias|hubness|"
    r"skewness|distance|entropy|decay|lambda|infonce)"
)
LOWER_IS_BETTER = re.compile(r"(rank|loss|nll|brier|ece|mce|error|infonce)")
NEITHER = re.compile(
    r"(effective|gap|rmg|alignment|uniformity|cos|cosine|similarity|temperature|scale|bias|hubness|skewness|"
    r"confidence|tie|decay|lambda|never|std|separability)"
)
MOST_HEADLINES = 8
HEADLINES = (  # shown first where a result has many metrics
    r"(probe_|knn_)?top[15]", r"mean_per_class_recall", r"few_shot_top1@\d+", r"mean_average_precision",
    r".*_recall@(1|5|10)", r"mean_recall", r".*_score", r"ece", r"modality_gap", r"effective_rank.*", r"alignment",
    r"uniformity.*",
)  # fmt: skip
MEANINGS = {  # by a pattern of names, the first that fits; docs/evaluation.md has the formulas and their sources
    r".*_lookalikes": "the same, where a text that looks like a right one counts as right",
    r"few_shot_top1@\d+": "top-1 of a linear classifier that has seen as many images of each class, mean over draws",
    r"few_shot_top1@\d+_std": "its standard deviation over the draws",
    r"probe_.*": "the same for a linear classifier on the frozen image features, trained on the training split",
    r"knn_.*": "the same for a vote of the nearest training images",
    r"(.*_)?top1": "share of the images whose own class ranks first; a tie counts as a random order would win it",
    r"(.*_)?top5": "share of the images whose own class is among the first five",
    r"(.*_)?mean_per_class_recall": "top-1 within each class, then the mean over classes: large classes do not outvote",
    r"mean_average_precision": "for each class the images in order of score, precision averaged over its own; then the "
    "mean over classes",
    r"micro_average_precision": "the same over all pairs of an image and a class at once",
    r"image_to_text_recall@\d+": "share of the images with at least one of their captions among the first k texts",
    r"text_to_image_recall@\d+": "share of the captions whose image is among the first k images",
    r"mean_recall": "mean of recall@1, @5 and @10 in both directions",
    r".*(mean|median)_rank": "place of the first right answer, 1 is the best",
    r".*mrr": "mean of 1 / rank of the first right answer",
    r".*map_at_r": "precision at each right answer among as many places as there are right ones, averaged",
    r".*r_precision": "share of right answers among as many places as there are right ones",
    r"text_score.*": "share of the images that prefer their own text",
    r"image_score.*": "share of the texts that prefer their own image",
    r"group_score.*": "share of the groups where all images and all texts are matched rightly",
    r".*ece.*": "distance of confidence from accuracy, mean over groups of similar confidence; 0 is honest",
    r".*mce": "the largest such distance",
    r".*brier": "squared distance of the predicted probabilities from the truth; lower is better",
    r".*nll": "mean of -log(probability of what is right); lower is better",
    r"confidence": "mean probability of the predicted class; above the accuracy the model is too sure",
    r"temperature": "what the logits have to be divided by to be honest; above 1 the model was too sure",
    r"modality_gap": "distance between the mean image and the mean text embedding",
    r"rmg": "distance within pairs, relative to distances within each modality",
    r"separability": "how well a plane tells images from texts; 50 % is a space they share",
    r"alignment": "mean squared distance of an image and its text, 0 to 4; lower is closer",
    r"cos_(positive|negative)": "mean cosine of right, and of wrong, pairs",
    r"uniformity.*": "how evenly the embeddings cover the sphere; lower is more even",
    r"effective_rank.*": "how many dimensions the embeddings really use",
    r"never_retrieved.*": "share of the answers that are among the first ten of no query",
    r"infonce.*": "loss of telling the right answer from all others at the trained temperature; lower is better",
    r".*hubness.*": "skewness of how often an answer is retrieved; high: a few answers turn up everywhere",
}


def is_share(name: str, value: object) -> bool:
    """Return whether the value of this metric is best read in per cent."""
    return is_number(value) and 0 <= value <= 1 and not _says(NO_SHARES, name)


def better(name: str) -> int:
    """Return 1 where higher is better, -1 where lower is, 0 where neither."""
    if _says(NEITHER, name):
        return 0
    return -1 if _says(LOWER_IS_BETTER, name) else 1


def headlines(names: Iterable[str]) -> list[str]:
    """Return the metrics that stand on cards, in their own order: all where they are few, else the best known."""
    names = list(names)
    if len(names) <= MOST_HEADLINES:
        return names
    known = [name for pattern in HEADLINES for name in names if re.fullmatch(pattern, name)]
    chosen = (known or names)[:MOST_HEADLINES]
    return [name for name in names if name in chosen]


def meanings(names: Iterable[str]) -> list[tuple[list[str], str]]:
    """Return the metrics that have a meaning here, in groups of one meaning."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        found = [text for pattern, text in MEANINGS.items() if re.fullmatch(pattern, name)]
        if found:
            groups.setdefault(found[0], []).append(name)
    return [(found, text) for text, found in groups.items()]


def spaced(name: str) -> str:
    """Return the name as words."""
    return name.replace("_", " ")


def _says(pattern: re.Pattern[str], name: str) -> bool:
    """Return whether one of the words of a name is in the pattern."""
    return any(map(pattern.fullmatch, re.split(r"[^a-z]+", name.lower())))

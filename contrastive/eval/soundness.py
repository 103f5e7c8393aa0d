"""What must hold before a figure is made of features: that images could be read, and that rows differ and are finite.

n rows, E embed_dim.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contrastive.errors import DataError, MeaninglessError
from contrastive.eval.datasets import EvalDataset

COLLAPSED = 1e-6  # 1 - mean cosine: below it rows differ by float32 noise alone
NEARLY_COLLAPSED = 1e-2
NAMED = 5  # images in a message


def logits(model: object) -> tuple[float | None, float | None]:
    """Return what cosines are multiplied by, and what is added to them; None where the model has no such parameter.

    Raises:
        MeaninglessError: they are not finite.
    """
    found: list[float | None] = []
    for name, apply in (("logit_scale", torch.exp), ("logit_bias", torch.clone)):
        value = getattr(model, name, None)
        number = None if value is None else float(apply(torch.as_tensor(value).detach().double().cpu()))
        if number is not None and not math.isfinite(number):
            rule = "the model has diverged or is damaged: take an earlier checkpoint"
            raise MeaninglessError(f"{name} of the model is not finite, or its exponential is not; {rule}").everywhere()
        found.append(number)
    scale, bias = found
    return scale, bias


def readable(dataset: EvalDataset, broken: dict[int, str], seen: int) -> tuple[EvalDataset, tuple[str, ...]]:
    """Return the set without its broken images, and a warning that names them.

    Raises:
        DataError: they are more than `max_unreadable` allows.
    """
    if not broken:
        return dataset, ()
    spec, count = dataset.spec, len(dataset)
    names = ", ".join(dataset.images[index].name for index in list(broken)[:NAMED])
    names += ", …" if len(broken) > NAMED else ""
    share = len(broken) / count
    if share > spec.max_unreadable + 1e-9:
        least = "at least " if seen < count else ""
        how_many = f"{least}{len(broken)} of {count} images ({share:.2%}) cannot be read: {names}"
        reason = next(iter(broken.values()))
        rule = f"or set max_unreadable, now {spec.max_unreadable:g}, to leave out so large a share of images"
        raise DataError(f"dataset {spec.name}: {how_many}; {reason}, {rule}").everywhere()
    try:
        kept = dataset.without(list(broken))
    except DataError as error:
        raise error.everywhere() from None
    note = (
        f"dataset {spec.name}: {len(broken)} of {count} images ({share:.2%}) cannot be read and are left out: {names}"
    )
    return kept, (note,)


def checked(features: Tensor, what: str, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Return the rows at length 1, and a warning if they hardly differ.

    Raises:
        MeaninglessError: rows that are not finite, zero, or all the same. Ranks of such rows mean nothing.
    """
    for problem, good in (("not finite", features.isfinite().all(1)), ("zero", features.any(1))):
        bad = (~good).nonzero().flatten().tolist()
        if bad:
            raise MeaninglessError(
                f"{what} of {len(bad)} of {len(features)} rows are {problem}, the first of {names[bad[0]]!r}; "
                "the model has diverged or is damaged: take an earlier checkpoint, or lower the learning rate"
            ).everywhere()
    features = nn.functional.normalize(features, dim=1)
    spread = float(1 - features.double().mean(0).square().sum())
    if len(features) > 1 and spread < COLLAPSED:
        raise MeaninglessError(
            f"{what}: all {len(features)} rows are the same (1 - mean cosine = {spread:.1e}); "
            "the model has collapsed: train it, or take an earlier checkpoint"
        ).everywhere()
    near = f"{what} hardly differ: mean cosine {1 - spread:.4f}"
    return features, (near,) if len(features) > 1 and spread < NEARLY_COLLAPSED else ()

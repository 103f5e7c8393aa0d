"""The data of an open_clip command: shards and their weights, the batch, and what is done to images in training."""

from collections.abc import Iterator, Mapping
from typing import Any

from contrastive.errors import ConfigError
from contrastive.runs.open_clip_command import Command
from contrastive.runs.open_clip_lines import Line, Remarks
from contrastive.runs.open_clip_reasons import REASONS

CROP = (0.9, 1.0)  # open_clip's AugmentationCfg.scale
JITTER = ("brightness", "contrast", "saturation", "hue")
AUGMENTATIONS = (
    *("scale", "ratio", "color_jitter", "re_prob", "re_count", "use_timm"),
    *("color_jitter_prob", "gray_scale_prob"),
)


def lines(command: Command, notes: Remarks) -> Iterator[Line]:
    """Yield the settings of `data`, and note what cannot be said there."""
    flags = command.flags
    yield from _sources(command, notes)
    yield Line("data.image_key", "jpg;png;jpeg;webp", "the members that open_clip reads")
    yield Line("data.caption_key", "txt", "the member that open_clip reads")
    factors = [command.said("batch_size"), f"{command.processes} processes", command.said("accum_freq")]
    yield Line("data.global_batch_size", command.batch, " x ".join(factors))
    yield Line("data.workers", flags.workers, command.said("workers"))
    if flags.dataset_resampled:
        yield Line("data.replacement", True, command.said("dataset_resampled"))
    yield from _augmentation(command, notes)


def _sources(command: Command, notes: Remarks) -> Iterator[Line]:
    flags = command.flags
    data, factors = flags.train_data or "", flags.train_data_upsampling_factors
    is_csv = flags.dataset_type == "csv" or (flags.dataset_type == "auto" and data.endswith((".csv", ".tsv")))
    if flags.dataset_type == "synthetic" or is_csv:
        why = REASONS["csv_img_key"] if is_csv else "no data are made up; data_recipes/glyphs.py draws some to try with"
        notes.refuse("train_data" if is_csv else "dataset_type", why)
        notes.tell("set data.train to shards: it is not in this file")
        return
    if "pipe:" in data:
        notes.tell("pipe: runs a shell command, which only data.allow_pipes=true on the command line allows; s3:// and "
                   "https:// are read as they are")  # fmt: skip
    if not factors:
        yield Line("data.train", data, command.said("train_data"))
        return
    parts, weights = data.split("::"), factors.split("::")
    try:
        named = [(part, float(weight)) for part, weight in zip(parts, weights, strict=True)]
    except ValueError as error:
        rule = f"must be as many numbers, joined by ::, as --train-data has parts ({len(parts)})"
        raise ConfigError(f"--train-data-upsampling-factors: {factors!r} {rule}") from error
    for number, (part, weight) in enumerate(named, 1):
        origin = f"--train-data and --train-data-upsampling-factors, part {number}"
        yield Line(f"data.sources.source_{number}.shards", part, origin)
        yield Line(f"data.sources.source_{number}.weight", weight, origin)


def _augmentation(command: Command, notes: Remarks) -> Iterator[Line]:
    aug: dict[str, Any] = command.flags.aug_cfg
    _check_augmentation(aug)
    scale = aug.get("scale", CROP)
    yield Line(
        "data.random_crop", list(scale), "--aug-cfg scale" + ("" if "scale" in aug else " (open_clip's default)")
    )
    if aug.get("use_timm"):
        notes.refuse("aug_cfg", "timm's training transform is not used; of it only the crop is kept")
        return
    for key in ("ratio", "re_prob", "re_count"):
        if key in aug:
            notes.tell(f"--aug-cfg {key}: open_clip uses it with use_timm alone")
    photo: dict[str, Any] = {"name": "photo", "flip": 0.0}
    if aug.get("color_jitter_prob"):
        photo |= {"jitter": aug["color_jitter_prob"], **dict(zip(JITTER, aug.get("color_jitter", ()), strict=False))}
    if aug.get("gray_scale_prob"):
        photo["grey"] = aug["gray_scale_prob"]
    if len(photo) > 2:
        yield Line("data.augment", photo, "--aug-cfg color_jitter, color_jitter_prob, gray_scale_prob")


def _check_augmentation(aug: Mapping[str, Any]) -> None:
    for key in aug:
        if key not in AUGMENTATIONS:
            raise ConfigError(f"--aug-cfg {key}: open_clip has no such option; it has {', '.join(AUGMENTATIONS)}")
    for key, count in (("scale", 2), ("color_jitter", 4)):
        if key in aug and not (isinstance(aug[key], (list, tuple)) and len(aug[key]) == count):
            rule = f"must be {count} numbers in brackets and quotes, as open_clip reads it"
            raise ConfigError(f"--aug-cfg {key}: {aug[key]!r} {rule}")

"""Image processors and tokenizers of transformers as ours, where they give the same pixels and ids."""

from typing import Any

import torch

from contrastive.errors import ModelError
from contrastive.modalities.image import Preprocess
from contrastive.modalities.text import Tokenizer, TokenizerSpec

PROCESSORS = ("CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
STEPS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": False}
CHECKED = (
    "a photo of a cat",
    "Two dogs, one of them barks: don't!",
    "12345 (67) [8.9] {x}",
    "na\u00efve caf\u00e9",
    "",
)
LENGTHENED = "a red bicycle against a white wall in front of a house near the sea " * 40  # cut by every tokenizer


def to_preprocess(processor: Any) -> Preprocess:
    """Return the preprocessing that does what an image processor of transformers does.

    `shortest` cuts out the middle as open_clip does: at one pixel's difference where the longer side leaves 3, 7, 11 …

    Raises:
        ModelError: naming the setting that ours has no equal of.
    """
    name, values = type(processor).__name__, processor.to_dict()
    if name.removesuffix("Fast").removesuffix("Pil") not in PROCESSORS:
        raise ModelError(f"image_processor_type: {name}: only {', '.join(PROCESSORS)} can be taken over")
    for key, wanted in STEPS.items():
        if bool(values.get(key, wanted)) != wanted:
            raise ModelError(f"image processor: {key}: {values[key]}: our preprocessing always has it {wanted}")
    if abs(values["rescale_factor"] * 255 - 1) > 1e-6:
        raise ModelError(f"image processor: rescale_factor: {values['rescale_factor']}: ours is 1/255")
    if values["resample"] not in RESAMPLE:
        raise ModelError(f"image processor: resample: {values['resample']}: ours is 2 (bilinear) or 3 (bicubic)")
    side, mode = _side(values)
    mean, std = (tuple(float(one) for one in values[key]) for key in ("image_mean", "image_std"))
    return Preprocess(side, mean, std, RESAMPLE[values["resample"]], mode)  # type: ignore[arg-type]


def _side(values: dict[str, Any]) -> tuple[int, str]:
    """Return the side of the square that the model gets, and our resize_mode."""
    size, crop = _sides(values["size"]), _sides(values["crop_size"]) if values.get("do_center_crop") else None
    if set(size) == {"shortest_edge"} and crop is not None:
        if set(crop.values()) == {size["shortest_edge"]}:
            return size["shortest_edge"], "shortest"
    elif set(size) == {"height", "width"} and size["height"] == size["width"] and crop in (None, size):
        return size["height"], "squash"
    said = f"size {size}, {f'crop_size {crop}' if crop else 'no crop'}"
    raise ModelError(
        f"image processor: {said}: ours resizes the shortest edge and crops a square of that side, or squashes the "
        "image into a square"
    )


def _sides(value: Any) -> dict[str, int]:
    given = {key: int(side) for key, side in dict(value).items() if side}
    return {"height": given["height"], "width": given["height"]} if set(given) == {"height"} else given


def to_tokenizer(theirs: Any, place: str, context_length: int) -> TokenizerSpec:
    """Return the spec of ours for a tokenizer of transformers: CLIP's byte pairs where it gives their ids.

    Raises:
        ModelError: ours gives other ids for a plain caption.
    """
    texts = [*CHECKED, LENGTHENED]
    try:
        ids = theirs(texts, padding="max_length", truncation=True, max_length=context_length, return_tensors="pt")
        wanted = ids["input_ids"]
        spec = TokenizerSpec(None, context_length)
        if len(theirs) == Tokenizer(spec).vocab_size and _read_alike(Tokenizer(spec)(texts), wanted):
            return spec
        spec = TokenizerSpec(place, context_length)
        found = Tokenizer(spec)(texts)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"tokenizer: cannot be used: {str(error).splitlines()[0]}") from error
    for text, one, other in zip(texts, found, wanted, strict=True):
        if not torch.equal(one, other):
            raise ModelError(
                f"tokenizer: gives other ids for {text[:40]!r} through open_clip than through transformers"
            )
    return spec


def _read_alike(ours: Any, theirs: Any) -> bool:
    """Whether rows agree up to the end, which is our largest id: nothing behind it is read."""
    ends = ours.argmax(dim=-1)
    return all(torch.equal(a[: end + 1], b[: end + 1]) for a, b, end in zip(ours, theirs, ends, strict=True))

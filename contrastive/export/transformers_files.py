"""The files of a processor of transformers: what `AutoImageProcessor` and `AutoProcessor` read offline."""

from pathlib import Path
from typing import Any

import transformers

from contrastive.export.tokenizer_files import as_transformers
from contrastive.modalities.image import Preprocess
from contrastive.modalities.text import Tokenizer

PROCESSORS = {  # by the model_type of the configuration
    "clip": "CLIPProcessor",
    "siglip": "SiglipProcessor",
    "vision-text-dual-encoder": "VisionTextDualEncoderProcessor",
}
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling
EXACT = (
    'Load the image processor with backend="pil", as in AutoImageProcessor.from_pretrained(FOLDER, backend="pil"): '
    "its pixels are ours. The default backend resizes with torchvision: its pixels differ a little."
)
CROP = (
    "It cuts out the middle like ours, but one pixel further to the left or top where the longer side leaves 3, 7, 11, "
    "15, … pixels: transformers rounds down there, torchvision and open_clip do not."
)
UPRIGHT = "Turn images as their EXIF says, as in training: image = PIL.ImageOps.exif_transpose(image)."
ALPHA = "Images with transparency: ours drops it, transformers lays them on white; image.convert('RGB') is ours."


def preprocess_refusal(preprocess: Preprocess) -> str | None:
    """Return None where transformers can prepare images as ours, else the key of our description, its value and why."""
    if preprocess.resize_mode == "longest":
        return "model.preprocess.resize_mode: 'longest': transformers has no processor that resizes and pads like it"
    return None


def preprocess_notes(preprocess: Preprocess) -> list[str]:
    """Return what a user must know to get our pixels."""
    found = [EXACT, *([CROP] if preprocess.resize_mode == "shortest" else []), ALPHA]
    return [*found, *([UPRIGHT] if preprocess.orientation == "upright" else [])]


def write_processor(preprocess: Preprocess, tokenizer: Tokenizer, folder: Path, config: Any) -> None:
    """Write the processor of a model of this configuration, with its tokenizer's files, into `folder`."""
    processor = getattr(transformers, PROCESSORS[config.model_type])
    inside = {"image_processor": image_processor(preprocess), "tokenizer": tokenizer_for(config, tokenizer)}
    processor(**inside).save_pretrained(folder)


def tokenizer_for(config: Any, tokenizer: Tokenizer) -> Any:
    """Return the tokenizer of transformers, which hands over what the text tower of this configuration takes."""
    theirs = as_transformers(tokenizer)
    if config.model_type == "siglip":  # reads its padding: a mask would hide it
        names = ["input_ids"]
    elif config.model_type == "clip" or config.text_config.model_type == "clip_text_model":
        names = ["input_ids", "attention_mask"]
    else:
        return theirs
    theirs.model_input_names = names
    theirs.init_kwargs["model_input_names"] = names  # what is saved
    return theirs


def image_processor(preprocess: Preprocess) -> Any:
    """Return the image processor for a preprocessing that is not refused, every value written down."""
    side = {"height": preprocess.size, "width": preprocess.size}
    is_cropped = preprocess.resize_mode == "shortest"
    return transformers.CLIPImageProcessor(
        do_convert_rgb=True,
        do_resize=True,
        size={"shortest_edge": preprocess.size} if is_cropped else side,
        resample=RESAMPLE[preprocess.interpolation],
        do_center_crop=is_cropped,
        crop_size=side,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(preprocess.mean),
        image_std=list(preprocess.std),
    )

"""Pixels and token ids of an export by inputs.json, with Pillow, numpy and tokenizers alone; see export/inputs.py."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def pixels(given: dict[str, Any], images: list[Any]) -> Any:
    """Return float32 [N, 3, size, size] of Pillow images; `given` is what inputs.json says of the preprocessing."""
    found = np.stack([np.asarray(_fitted(given, image), np.float32) for image in images])
    values = (found / 255 - np.float32(given["mean"])) / np.float32(given["std"])
    return values.transpose(0, 3, 1, 2)


def ids(folder: Path, inputs: dict[str, Any], texts: list[str]) -> Any:
    """Return int64 [M, context_length]."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(inputs["context_length"])
    tokenizer.enable_padding(pad_id=inputs["pad_id"], length=inputs["context_length"])
    return np.array([tokenizer.encode(text).ids for text in texts], np.int64)


def _fitted(given: dict[str, Any], image: Any) -> Any:
    size, mode, resample = given["size"], given["resize_mode"], Image.Resampling[given["interpolation"].upper()]
    image = (ImageOps.exif_transpose(image) if given["orientation"] == "upright" else image).convert("RGB")
    if mode == "squash":
        return image.resize((size, size), resample)
    if mode == "longest":
        scale = max(image.size) / size
        image = image.resize([round(side / scale) for side in image.size], resample)
        canvas = Image.new("RGB", (size, size), (given["fill_color"],) * 3)
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        return canvas
    short = min(image.size)
    image = image.resize([int(size * side / short) for side in image.size], resample)
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))

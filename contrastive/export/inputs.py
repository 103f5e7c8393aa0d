"""What turns images and captions into inputs, for formats that have no processor of their own.

`inputs.json` says it, and `tokenizer.json` is the tokenizer: with Pillow, numpy and `tokenizers` that is all one needs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from contrastive.export.source import Source
from contrastive.export.tokenizer_files import tokenizer_refusal, write_tokenizer
from contrastive.modalities.image import Preprocess
from contrastive.models.exported import INPUTS

# The same pixels as the evaluation transform's, to the last bit: torchvision's and open_clip's rounding.
FITTED = {
    "shortest": """short = min(image.size)
image = image.resize([int(size * side / short) for side in image.size], resample)
left, top = (round((side - size) / 2) for side in image.size)
image = image.crop((left, top, left + size, top + size))""",
    "longest": """scale = max(image.size) / size
image = image.resize([round(side / scale) for side in image.size], resample)
canvas = Image.new("RGB", (size, size), (given["fill_color"],) * 3)
canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
image = canvas""",
    "squash": "image = image.resize((size, size), resample)",
}
MENDING = (
    "Our tokenizer mends captions before it reads them; `tokenizer.json` does not: where they may need it (`&amp;`, "
    "wrongly decoded text), pass them through `ftfy.fix_text` and `html.unescape`."
)
UPRIGHT = "image = ImageOps.exif_transpose(image)\n"


def write_inputs(source: Source, folder: Path) -> None:
    """Write inputs.json and the tokenizer's files. Scale and bias of the logits are the model's: log space, plain."""
    tokenizer = source.built.tokenizer
    write_tokenizer(tokenizer, folder)
    content = {
        "preprocess": source.built.preprocess.to_dict(),
        "tokenizer": {**tokenizer.spec.to_dict(), "name": None if tokenizer.spec.name is None else "."},
        "pad_id": tokenizer.pad_id,
        "context_length": tokenizer.spec.context_length,
        "embed_dim": source.built.model.embed_dim,
        **logits(source),
    }
    (folder / INPUTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def logits(source: Source) -> dict[str, float | None]:
    """Return `logit_scale`, in log space, and `logit_bias`, None without one."""
    parameters = source.built.model.logit_parameters()
    found = {name: float(value.item()) for name, value in parameters.items()}
    return {"logit_scale": found["logit_scale"], "logit_bias": found.get("logit_bias")}


def notes(source: Source) -> Sequence[str]:
    """Return what the model card says of the inputs and of the logits."""
    bias = "" if source.built.model.logit_bias is None else " + logit_bias"
    said = [f"The logits are `exp(logit_scale) * image_features @ text_features.T{bias}`, the numbers in `{INPUTS}`."]
    refusal = tokenizer_refusal(source.built.tokenizer)
    if refusal is not None:
        said.append(f"`tokenizer.json` alone does not give the model's token ids: {refusal}.")
    return [*said, MENDING]


def loading(folder: str, preprocess: Preprocess | None) -> str:
    """Return Python that makes `pixels`, float32 [1, 3, size, size], and `ids`, int64 [1, context_length].

    It begins with `image`, and needs json, numpy, Pillow and tokenizers. `preprocess` None: the ordinary one.
    """
    mode = "shortest" if preprocess is None else preprocess.resize_mode
    upright = UPRIGHT if preprocess is not None and preprocess.orientation == "upright" else ""
    return f"""import json
import numpy as np
from PIL import Image{", ImageOps" if upright else ""}
from tokenizers import Tokenizer
inputs = json.load(open("{folder}/{INPUTS}", encoding="utf-8"))
given = inputs["preprocess"]
size, resample = given["size"], Image.Resampling[given["interpolation"].upper()]
{upright}image = image.convert("RGB")
{FITTED[mode]}
pixels = (np.asarray(image, np.float32) / 255 - np.float32(given["mean"])) / np.float32(given["std"])
pixels = pixels.transpose(2, 0, 1)[None]
tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
tokenizer.enable_truncation(inputs["context_length"])
tokenizer.enable_padding(pad_id=inputs["pad_id"], length=inputs["context_length"])
ids = np.array([tokenizer.encode("a photo of a cat").ids], np.int64)"""

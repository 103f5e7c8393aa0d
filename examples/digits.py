"""What the examples share: handwritten digits to learn and to test on, and the zero-shot answer that they have to beat.

scikit-learn's 1,797 digits ("Optical Recognition of Handwritten Digits", CC BY 4.0), drawn as data_recipes/glyphs.py
draws them. They stand in the order in which people wrote them: the first 1,000 are learned from, the other 797 tested
on, so that few hands are in both.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

SIZE, LEARNED = 32, 1000
EM, BASELINE = 0.75, 0.72  # of the image's side
NAMES = [f"digit {name}" for name in ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")]
TEMPLATES = ["{}", "bold {}", "italic {}", "{} in serif", "{} in sans-serif"]
BATCH = 256
Digits = tuple[list[Image.Image], list[int]]


def learned(count: int = LEARNED) -> Digits:
    """Return images and labels to learn from."""
    return _digits(slice(0, min(count, LEARNED)))


def held_out(count: int | None = None) -> Digits:
    """Return images and labels that nothing was learned from."""
    return _digits(slice(LEARNED, None if count is None else LEARNED + count))


def _digits(part: slice) -> Digits:
    digits = load_digits()
    return [_drawn(ink) for ink in digits.images[part]], digits.target[part].tolist()


def _drawn(ink: np.ndarray) -> Image.Image:
    """Return ink [8, 8] of 0 to 16 dark on light, as tall as print and on its baseline."""
    pixel = SIZE * EM * 0.1
    framed = np.pad(255 - np.rint(ink * 255 / 16), 1, constant_values=255)
    side = round(pixel * len(framed))
    grey = Image.fromarray(framed.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    page = Image.new("L", (SIZE, SIZE), 255)
    page.paste(grey, (round((SIZE - side) / 2), round(BASELINE * SIZE - 8.6 * pixel)))
    return page.convert("RGB")


def be_quiet() -> None:
    """Hide transformers' progress bars, and its list of the text tower's weights where the image tower is loaded."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def problem(folder: Path, form: str, kinds: Sequence[str] = ()) -> str | None:
    """Return why a folder cannot be used, in one line, or None. `kinds`: those of transformers that may be in it."""
    again = f"write one with: contrastive export RUN --to {form} {folder}"
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        return f"{folder}: is no export for {form} (config.json and model.safetensors); {again}"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = "timm" if "architecture" in config else "transformers"
    if found != form:
        return f"{folder}: is an export for {found}, not for {form}; {again}"
    if kinds and config.get("model_type") not in kinds:
        return f"{folder}: holds a {config.get('model_type')} model; this example needs {' or '.join(kinds)}"
    return None


def pixels(folder: Path, images: Sequence[Image.Image]) -> torch.Tensor:
    """Return float32 [N, 3, H, W], to the last bit what the model was trained on: the default backend differs."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found: torch.Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
    return found


@torch.inference_mode()
def zero_shot(folder: Path, images: Sequence[Image.Image]) -> list[int]:
    """Return the digit whose name an export for transformers finds nearest to each image."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prompts = [template.format(name) for name in NAMES for template in TEMPLATES]
    tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
    tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    texts = F.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
    classes = F.normalize(texts.unflatten(0, (len(NAMES), len(TEMPLATES))).mean(dim=1), dim=-1)  # [10, D]
    batches = pixels(folder, images).split(BATCH)
    features = torch.cat([model.get_image_features(pixel_values=batch).pooler_output for batch in batches])
    return (features @ classes.T).argmax(dim=-1).tolist()


def report(method: str, predicted: Sequence[int], zero_shot: Sequence[int], labels: Sequence[int]) -> int:
    """Print both accuracies and their difference in points; return 0 where the method beats zero-shot, else 1."""
    fitted, before = (float(np.mean(np.equal(one, labels))) for one in (predicted, zero_shot))
    points = 100 * (fitted - before)
    print(f"zero-shot, {len(labels)} held-out digits: {100 * before:.1f} %")
    print(f"{method}: {100 * fitted:.1f} %, {points:+.1f} points")
    print(f"zeroshot_accuracy={before:.4f} accuracy={fitted:.4f} difference_points={points:.2f}")
    return 0 if fitted > before else 1

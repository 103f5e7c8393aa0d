"""LoRA with PEFT: small matrices beside query, key and value of the exported image tower, and a new head.

    contrastive export runs/glyphs_vit --to transformers export/transformers
    python examples/lora_peft.py export/transformers --out adapter

The tower's own weights stay as they are; the adapter is saved, loaded onto a fresh copy of the tower, and has to give
the same logits. Exit status 1: it does not, or is no better than zero-shot on held-out digits.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import digits
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

TARGETS = ["q_proj", "k_proj", "v_proj"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status."""
    options = parse(arguments)
    if problem := digits.problem(options.folder, "transformers", ("clip", "siglip")):
        print(problem, file=sys.stderr)
        return 2
    digits.be_quiet()
    torch.manual_seed(options.seed)
    images, labels = digits.learned(options.learned)
    test_images, test_labels = digits.held_out(options.tested)
    lora = LoraConfig(
        r=options.rank, lora_alpha=2 * options.rank, target_modules=TARGETS, modules_to_save=["classifier"]
    )
    model = get_peft_model(tower(options.folder), lora)
    train(model, digits.pixels(options.folder, images), torch.tensor(labels), options)
    test_pixels = digits.pixels(options.folder, test_images)
    with tempfile.TemporaryDirectory() as scratch:
        adapter = options.out or Path(scratch)
        model.save_pretrained(adapter)
        size = (adapter / "adapter_model.safetensors").stat().st_size
        again = PeftModel.from_pretrained(tower(options.folder), adapter).eval()
    logits, same = predict(model, test_pixels), predict(again, test_pixels)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(
        f"trained: {trained:,} of {sum(p.numel() for p in model.parameters()):,} weights; adapter: {size / 1e3:.0f} kB"
    )
    if not torch.equal(logits, same):
        print(f"the loaded adapter differs by {(logits - same).abs().max():.1e}", file=sys.stderr)
        return 1
    predicted = logits.argmax(dim=-1).tolist()
    return digits.report("LoRA", predicted, digits.zero_shot(options.folder, test_images), test_labels)


def tower(folder: Path) -> nn.Module:
    """Return the exported image tower with a head for ten digits; the head's weights are random."""
    model: nn.Module = AutoModelForImageClassification.from_pretrained(folder, num_labels=len(digits.NAMES))
    return model


def train(model: nn.Module, pixels: Tensor, labels: Tensor, options: argparse.Namespace) -> None:
    """Train the adapter: AdamW, batches of 32, a rate that falls to zero."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.learning_rate)
    batches = [batch for _ in range(options.epochs) for batch in torch.randperm(len(labels)).split(32)]
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    model.train()
    for batch in batches:
        loss = F.cross_entropy(model(pixel_values=pixels[batch]).logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.inference_mode()
def predict(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the logits [N, 10]."""
    return torch.cat([model(pixel_values=batch).logits for batch in pixels.split(digits.BATCH)])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an export for transformers")
    parser.add_argument("--out", type=Path, help="where the adapter is saved; nowhere without it")
    parser.add_argument("--rank", type=int, default=8, help="of the matrices beside each weight (default: 8)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--learned", type=int, default=digits.LEARNED, help="digits to learn from (default: all 1000)")
    parser.add_argument("--tested", type=int, help="held-out digits to test on (default: all 797)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

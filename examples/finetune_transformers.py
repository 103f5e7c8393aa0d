"""Fine-tune the exported image tower with transformers' Trainer: a new head for ten digits, all weights trained.

    contrastive export runs/glyphs_vit --to transformers export/transformers
    python examples/finetune_transformers.py export/transformers

Prints the accuracy on held-out digits before (zero-shot, with the text tower) and after. Exit status 1: no better.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import digits
import torch
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, set_seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status."""
    options = parse(arguments)
    if problem := digits.problem(options.folder, "transformers", ("clip", "siglip")):
        print(problem, file=sys.stderr)
        return 2
    digits.be_quiet()
    set_seed(options.seed)
    images, labels = digits.learned(options.learned)
    test_images, test_labels = digits.held_out(options.tested)
    names = dict(enumerate(digits.NAMES))
    model = AutoModelForImageClassification.from_pretrained(
        options.folder, num_labels=len(names), id2label=names, label2id={name: key for key, name in names.items()}
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=settings(options, scratch),
            train_dataset=dataset(options.folder, images, labels),
        )
        trainer.train()
        logits = trainer.predict(dataset(options.folder, test_images, test_labels)).predictions
    if options.out is not None:
        trainer.save_model(str(options.out))
    predicted = logits.argmax(axis=-1).tolist()
    return digits.report("fine-tuned", predicted, digits.zero_shot(options.folder, test_images), test_labels)


def settings(options: argparse.Namespace, scratch: str) -> TrainingArguments:
    """Return how the Trainer trains: AdamW, a rate that falls to zero, nothing saved on the way."""
    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=digits.BATCH,
        weight_decay=0.05,
        warmup_steps=20,
        seed=options.seed,
        save_strategy="no",
        logging_strategy="epoch",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )


def dataset(folder: Path, images: Sequence, labels: Sequence[int]) -> list[dict[str, torch.Tensor]]:
    """Return what the Trainer's collator makes batches of."""
    pixels = digits.pixels(folder, images)
    return [{"pixel_values": one, "labels": torch.tensor(label)} for one, label in zip(pixels, labels, strict=True)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an export for transformers")
    parser.add_argument("--out", type=Path, help="where the fine-tuned model is saved; nowhere without it")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--learned", type=int, default=digits.LEARNED, help="digits to learn from (default: all 1000)")
    parser.add_argument("--tested", type=int, help="held-out digits to test on (default: all 797)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

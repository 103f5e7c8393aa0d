"""A linear probe with timm: logistic regression on the features of the exported image tower, which stays as it is.

    contrastive export runs/glyphs_vit --to timm export/timm
    contrastive export runs/glyphs_vit --to transformers export/transformers
    python examples/linear_probe_timm.py export/timm --zeroshot export/transformers

timm's folder holds the image tower alone: what zero-shot makes of the same digits needs the text tower too, which the
export of the same model for transformers has. Exit status 1: the probe is no better than zero-shot.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import digits
import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return the exit status."""
    options = parse(arguments)
    problem = digits.problem(options.folder, "timm") or digits.problem(options.zeroshot, "transformers")
    if problem:
        print(problem, file=sys.stderr)
        return 2
    digits.be_quiet()
    images, labels = digits.learned(options.learned)
    test_images, test_labels = digits.held_out(options.tested)
    # num_classes=0 leaves out the projection into the shared space; without pretrained=True the weights are random.
    model = timm.create_model(f"local-dir:{options.folder}", pretrained=True, num_classes=0).eval()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=options.c, max_iter=2000, random_state=0))
    probe.fit(features(model, images), labels)
    predicted = probe.predict(features(model, test_images)).tolist()
    return digits.report("linear probe", predicted, digits.zero_shot(options.zeroshot, test_images), test_labels)


@torch.inference_mode()
def features(model: torch.nn.Module, images: Sequence[Image.Image]) -> np.ndarray:
    """Return the pooled features [N, width] of images, preprocessed as the folder says."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    batches = torch.stack([transform(image) for image in images]).split(digits.BATCH)
    return torch.cat([model(batch) for batch in batches]).numpy()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an export for timm")
    parser.add_argument("--zeroshot", type=Path, required=True, help="an export of the same model for transformers")
    parser.add_argument("--c", type=float, default=0.1, help="inverse strength of the penalty (default: 0.1)")
    parser.add_argument("--learned", type=int, default=digits.LEARNED, help="digits to learn from (default: all 1000)")
    parser.add_argument("--tested", type=int, help="held-out digits to test on (default: all 797)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

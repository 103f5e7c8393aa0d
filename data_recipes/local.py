"""Your own images: a folder, a CSV, TSV, JSON Lines or Parquet, COCO's JSON, NumPy arrays or tars, made into shards.

    python data_recipes/local.py --source photos.csv --out data/mine image=file caption=title
    python data_recipes/local.py --source photos/ --out data/mine caption=folder 'template=a photo of a {}'
    python data_recipes/local.py --source photos.csv --out data/mine -- --split val=0.01 --size 512

What follows the options goes to `contrastive data pack` as it is: key=value for the form of the source, and its own
options after a `--`. `contrastive data pack --help` lists them; docs/your-data.md tells the whole way to a model. This
file is also the shortest example of a recipe.

**Source.** Yours. **Licence.** Yours; write it here when you copy this file for a dataset of your own.

**Size.** The tars are as large as the images, unless you make them smaller (--size). Nothing is written beside them.

**Expected counts.** --expect N says how many samples there should be: fewer than 99 % of them end with status 1. Rows
that cannot be used are in `shards/rejected.jsonl`, each with its reason.

**Written.** `shards/`: KEY.jpg, KEY.txt and KEY.json of each sample, with index and manifest, in one folder or in one
for each split. Steps: pack, verify.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli import main as contrastive
from contrastive.recipes.catalogue import (
    Action,
    Steps,
    add_steps,
    counted,
    follow,
    guarded,
    ours,
    recipe_parser,
    split_folders,
    verifying,
)


def steps(options: argparse.Namespace) -> Steps:
    """Return the steps by name."""
    shards: Path = options.out / "shards"

    def pack() -> list[Action]:
        words = ["data", "pack", options.source, "--out", str(shards), *options.words]
        return [ours(contrastive, *words)]

    def verify() -> list[Action]:
        checks = [verifying(contrastive, folder) for folder in split_folders(shards)]
        return checks if options.expect is None else [*checks, counted(shards, options.expect, "expected", 0.99)]

    return {"pack": pack, "verify": verify}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    parser = recipe_parser(__doc__, "data/local")
    add_steps(parser, ("pack", "verify"))
    parser.add_argument("--source", required=True, help="a folder, a file, or hf:NAME")
    parser.add_argument("--expect", type=int, metavar="N", help="how many samples there should be")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="what contrastive data pack takes")
    options = parser.parse_args(arguments)
    return guarded(lambda: follow(steps(options), options.step, options.dry_run))


if __name__ == "__main__":
    sys.exit(main())

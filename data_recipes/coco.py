"""COCO captions: 123,287 photographs with five captions each, in Karpathy's split or in that of 2017.

    python data_recipes/coco.py                                                   Karpathy's split: train, val, test
    python data_recipes/coco.py --split 2017 --out data/coco2017                  COCO's own: train2017, val2017
    python data_recipes/coco.py --source /data/coco                               images that lie here

Train on Karpathy's split when you report retrieval on its 5,000 test images, as the field does: train2017 holds nearly
all of them.

**Source.** https://cocodataset.org, images and captions from http://images.cocodataset.org; Karpathy's split is
dataset_coco.json in https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip. Papers:
https://arxiv.org/abs/1504.00325 (captions), https://arxiv.org/abs/1412.2306 (split).

**Licence.** Of the annotations: CC BY 4.0. The images belong to their owners on Flickr, under the licence each one
chose, which is in COCO's JSON; the consortium does not own them, say its terms of use.

**Size.** Zips of 13 GB (train2014) and 6 GB (val2014), or 18 GB (train2017) and 1 GB (val2017); the tars about as much.

**Expected counts.** Karpathy: 113,287 (train, with restval), 5,000 (val), 5,000 (test). 2017: 118,287 with 591,753
captions (train), 5,000 with 25,014 (val). Nothing rots here: one sample in a thousand fewer ends with status 1.

**Written.** `source/` (zips and images; may go once packed) and `shards/`, a folder a split: jpg, txt (the first
caption) and json with all of them: train with data.caption_key=json.captions, which draws one. Steps: download, pack,
verify.
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
    fetch,
    follow,
    guarded,
    ours,
    recipe_parser,
    split_folders,
    unzip,
    verifying,
)

IMAGES, KARPATHY = "http://images.cocodataset.org", "https://cs.stanford.edu/people/karpathy/deepimagesent"
ZIPS = {
    "karpathy": (
        f"{KARPATHY}/caption_datasets.zip",
        f"{IMAGES}/zips/train2014.zip",
        f"{IMAGES}/zips/val2014.zip",
    ),
    "2017": (
        f"{IMAGES}/annotations/annotations_trainval2017.zip",
        f"{IMAGES}/zips/train2017.zip",
        f"{IMAGES}/zips/val2017.zip",
    ),
}
COUNTS = {"karpathy": 123_287, "2017": 123_287}
AT_LEAST = 0.999


def steps(options: argparse.Namespace) -> Steps:
    """Return the steps by name."""
    source: Path = options.source or options.out / "source"
    shards: Path = options.out / "shards"

    def download() -> list[Action]:
        if options.source is not None:
            return []
        paths = [(url, source / url.rpartition("/")[2]) for url in ZIPS[options.split]]
        return [action for url, path in paths for action in (fetch(url, path), unzip(path, source))]

    def pack() -> list[Action]:
        form, named = ("karpathy", "dataset_coco.json") if options.split == "karpathy" else ("coco", "")
        words = ["data", "pack", str(source / named), "--from", form, "--split", "source", "--out", str(shards)]
        return [ours(contrastive, *words, *([f"images={source}"] if named else []))]

    def verify() -> list[Action]:
        checks = [verifying(contrastive, folder) for folder in split_folders(shards)]
        return [*checks, counted(shards, options.expect or COUNTS[options.split], "images", AT_LEAST)]

    return {"download": download, "pack": pack, "verify": verify}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    parser = recipe_parser(__doc__, "data/coco")
    add_steps(parser, ("download", "pack", "verify"))
    parser.add_argument("--split", choices=ZIPS, default="karpathy", help="default: karpathy")
    parser.add_argument("--source", type=Path, metavar="DIR", help="what the zips hold; default: downloaded")
    parser.add_argument("--expect", type=int, metavar="N", help="images, when your copy is a part of COCO")
    options = parser.parse_args(arguments)
    return guarded(lambda: follow(steps(options), options.step, options.dry_run))


if __name__ == "__main__":
    sys.exit(main())

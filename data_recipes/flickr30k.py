"""Flickr30k: 31,783 photographs of people and animals with five captions each, in Karpathy's split.

    python data_recipes/flickr30k.py --source /data/flickr30k                     dataset_flickr30k.json and the images
    python data_recipes/flickr30k.py --source /data/flickr30k --captions results_20130124.token --out data/flickr30k-all

The images have to be asked for: the form is at https://shannon.cs.illinois.edu/DenotationGraph/. Unpack them in the
folder that --source names, as flickr30k-images/ or images/; the recipe gets Karpathy's JSON.

**Source.** https://shannon.cs.illinois.edu/DenotationGraph/; the split is dataset_flickr30k.json in
https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip. Papers: Young et al., TACL 2014
(https://aclanthology.org/Q14-1006), and https://arxiv.org/abs/1412.2306 (split).

**Licence.** Of the images: for research and teaching that is not commercial, and by the terms of Flickr, where their
owners showed them. Do not hand the tars on.

**Size.** About 4.4 GB of images; the tars as much.

**Expected counts.** Karpathy: 29,000 (train), 1,014 (val), 1,000 (test), with five captions each. The file
results_20130124.token: 31,783 images, 158,915 captions, no split. Nothing rots here: one sample in a thousand fewer
ends with status 1.

**Written.** `shards/`, a folder a split: jpg, txt (the first caption) and json with all of them: train with
data.caption_key=json.captions, which draws one. Steps: download (the JSON alone), pack, verify.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli import main as contrastive
from contrastive.errors import DataError
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
    work,
)

KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
SPLIT = "dataset_flickr30k.json"
COUNTS = {True: 31_014, False: 31_783}  # of Karpathy's split, of the captions' own file
AT_LEAST = 0.999


def steps(options: argparse.Namespace) -> Steps:
    """Return the steps by name."""
    captions: Path = options.source / options.captions
    shards: Path = options.out / "shards"
    is_split = captions.name == SPLIT

    def download() -> list[Action]:
        if not is_split or captions.exists():
            return []
        archive = options.source / "caption_datasets.zip"
        return [work(f"see that {options.source} is there", present), fetch(KARPATHY, archive),
                unzip(archive, options.source)]  # fmt: skip

    def present() -> None:
        if not options.source.is_dir():
            raise DataError(f"--source {options.source}: no such folder; ask for the images first, see --help")

    def pack() -> list[Action]:
        words = ["data", "pack", str(captions), "--out", str(shards), "--from", "karpathy" if is_split else "flickr"]
        words += ["--split", "source"] if is_split else []
        return [ours(contrastive, *words, *([] if options.images is None else [f"images={options.images}"]))]

    def verify() -> list[Action]:
        checks = [verifying(contrastive, folder) for folder in split_folders(shards)]
        return [*checks, counted(shards, options.expect or COUNTS[is_split], "images", AT_LEAST)]

    return {"download": download, "pack": pack, "verify": verify}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    parser = recipe_parser(__doc__, "data/flickr30k")
    add_steps(parser, ("download", "pack", "verify"))
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="the folder of the images")
    parser.add_argument("--captions", default=SPLIT, metavar="FILE", help=f"within it; default: {SPLIT}")
    parser.add_argument("--images", metavar="DIR", help="default: the usual folders of the source")
    parser.add_argument("--expect", type=int, metavar="N", help="images, when your copy is a part of Flickr30k")
    options = parser.parse_args(arguments)
    return guarded(lambda: follow(steps(options), options.step, options.dry_run))


if __name__ == "__main__":
    sys.exit(main())

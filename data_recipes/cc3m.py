"""Conceptual Captions, CC3M: 3.3 million images of the web with their cleaned alt-texts.

    python data_recipes/cc3m.py --source Train_GCC-training.tsv                   from the web, with img2dataset
    python data_recipes/cc3m.py --from hub                                        ready shards of the hub
    python data_recipes/cc3m.py --source Train_GCC-training.tsv --limit 10000 --out data/cc3m-try

**Source.** https://ai.google.com/research/ConceptualCaptions/download, "Training split": Train_GCC-training.tsv, a line
an image, caption and address, without a header. Paper: https://aclanthology.org/P18-1238. The ready shards are
https://huggingface.co/datasets/pixparse/cc3m-wds.

**Licence.** Of the list: Google's own, "may be freely used for any purpose", acknowledgement appreciated, as it is. The
images belong to whoever published them; Google distributes none.

**Size.** The list about 500 MB; the images about 300 GB at 512 pixels on the shorter side, 100 GB at 256
(--size 256), reckoned at 100 and 35 kB an image.

**Expected counts.** 3,318,333 rows in the list (15,840 more in the validation split, which is another file). Addresses
die: 2,905,954 images (87.6 %) are in the ready shards, collected in 2021. Expect fewer; below half the recipe ends with
status 1. Rows that are rejected, or did not come, are in list/rejected.jsonl and download/*.parquet.

**Written.** `list/`, `download/` (img2dataset's tars and statistics; may go once packed) and `shards/`: jpg, txt and
json (url, id = line of the list, sha256, EXIF) of each sample. Steps: list, download, pack, verify.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from contrastive.cli import main as contrastive
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import in_batches, only_one, read_tsv
from contrastive.recipes.web_lists import WebList, run_web_list

KINDS = {"url": pa.string(), "caption": pa.string(), "id": pa.int64()}


def read(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of the list."""
    return in_batches(read_tsv(only_one(paths), ("caption", "url")), KINDS)


RECIPE = WebList(
    name="cc3m",
    samples=3_318_333,
    files=("*raining*.tsv*",),
    read=read,
    where_from="download the training split at https://ai.google.com/research/ConceptualCaptions/download",
    hub=("pixparse/cc3m-wds", "cc3m-train-*.tar"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    return run_web_list(RECIPE, __doc__, arguments, contrastive)


if __name__ == "__main__":
    sys.exit(main())

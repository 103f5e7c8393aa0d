"""Conceptual 12M, CC12M: 12.4 million images of the web with their alt-texts, wider and less clean than CC3M.

    python data_recipes/cc12m.py                                                  list and images from the web
    python data_recipes/cc12m.py --from hub                                       ready shards of the hub
    python data_recipes/cc12m.py --limit 10000 --out data/cc12m-try

**Source.** https://github.com/google-research-datasets/conceptual-12m, cc12m.tsv: a line an image, address and caption,
without a header. Paper: https://arxiv.org/abs/2102.08981. The ready shards are
https://huggingface.co/datasets/pixparse/cc12m-wds.

**Licence.** Of the list: Google's own, "may be freely used for any purpose", acknowledgement appreciated, as it is. The
images belong to whoever published them: "We do not own any of the images in the dataset", says its page.

**Size.** The list 2.5 GB; 331 GB of images of 256 pixels (img2dataset's figure), about 1.1 TB at 512
(reckoned at 100 kB an image).

**Expected counts.** 12,423,374 rows in the list. Addresses die: 10,968,539 images (88.3 %) are in the ready shards.
Expect fewer; below half the recipe ends with status 1. About 63,000 addresses are in CC3M too, says its page: run
`contrastive data dedup` when you train on both.

**Written.** `source/`, `list/`, `download/` (img2dataset's tars and statistics; may go once packed) and `shards/`: jpg,
txt and json (url, id = line of the list, sha256, EXIF) of each sample. Steps: list, download, pack, verify.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from contrastive.cli import main as contrastive
from contrastive.recipes.catalogue import Action, fetch
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import in_batches, only_one, read_tsv
from contrastive.recipes.web_lists import WebList, run_web_list

URL = "https://storage.googleapis.com/conceptual_12m/cc12m.tsv"
KINDS = {"url": pa.string(), "caption": pa.string(), "id": pa.int64()}


def get(folder: Path) -> list[Action]:
    """Return what downloads the list."""
    return [fetch(URL, folder / "cc12m.tsv")]


def read(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of the list."""
    return in_batches(read_tsv(only_one(paths), ("url", "caption")), KINDS)


RECIPE = WebList(
    name="cc12m",
    samples=12_423_374,
    files=("cc12m*.tsv*",),
    read=read,
    where_from=f"download {URL}",
    get=get,
    hub=("pixparse/cc12m-wds", "cc12m-train-*.tar"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    return run_web_list(RECIPE, __doc__, arguments, contrastive)


if __name__ == "__main__":
    sys.exit(main())

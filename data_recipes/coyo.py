"""COYO-700M: 747 million images of the web with English alt-texts, and scores to choose by.

    python data_recipes/coyo.py --limit 100000 --out data/coyo-try                a try: 100,000 images
    python data_recipes/coyo.py --where 'clip_similarity_vitl14>=0.25' --where 'watermark_score<=0.5'

**Source.** https://github.com/kakaobrain/coyo-dataset; its Parquet files at
https://huggingface.co/datasets/kakaobrain/coyo-700m, data/part-00000-….snappy.parquet to part-00127.

**Licence.** Of the list: CC BY 4.0. The images belong to whoever published them. Images that two detectors call unsafe
were taken out (a score above 0.5); filter harder with --where 'nsfw_score_gantman<=0.1'.

**Size.** 128 files of Parquet, about 125 GB; the images tens of terabytes (about 45 kB each at 256 pixels, 100 kB at
512): choose rows first.

**Expected counts.** About 747 million rows, collected from pages of 2020 and 2021. Below half of the rows that you
listed the recipe ends with status 1. Images near those of ImageNet, Flickr30k, COCO, CC3M and CC12M were taken out,
says its page; look for your own evaluation sets with `contrastive data dedup`.

**Written.** `source/`, `list/` and `shards/`: img2dataset's tars where they are (--repack writes equal, shuffled ones),
with jpg, txt and json: url, id, the scores, source_width, source_height, sha256, EXIF. Steps: list, download, pack,
verify. For many machines: run --step list once, and `img2dataset --distributor pyspark` on the list by hand.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from contrastive.cli import main as contrastive
from contrastive.recipes.catalogue import Action, hub_fetch
from contrastive.recipes.downloads import Download
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import read_parquets
from contrastive.recipes.web_lists import WebList, run_web_list

COLUMNS = {"url": ("url",), "caption": ("text",), "id": ("id",)}
SCORES = (
    "clip_similarity_vitb32",
    "clip_similarity_vitl14",
    "nsfw_score_opennsfw2",
    "nsfw_score_gantman",
    "watermark_score",
    "aesthetic_score_laion_v2",
)


def get(folder: Path) -> list[Action]:
    """Return what downloads the list."""
    return [hub_fetch("kakaobrain/coyo-700m", ["data/*.parquet"], folder)]


def read(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of the list with their scores."""
    return read_parquets(paths, COLUMNS, (*SCORES, "width", "height"))


RECIPE = WebList(
    name="coyo",
    samples=747_000_000,
    files=("part-*.parquet",),
    read=read,
    where_from="download https://huggingface.co/datasets/kakaobrain/coyo-700m",
    get=get,
    download=Download(columns=("id", *SCORES, "source_width", "source_height"), processes=16),
    in_place=True,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    return run_web_list(RECIPE, __doc__, arguments, contrastive)


if __name__ == "__main__":
    sys.exit(main())

"""Re-LAION-5B: billions of images of the web with their alt-texts, without the links that LAION-5B was withdrawn for.

    hf auth login                                                                 after you agreed to its terms
    python data_recipes/relaion.py --limit 100000 --out data/relaion-try          a try: 100,000 images
    python data_recipes/relaion.py --where 'similarity>=0.3' --where 'pwatermark<=0.5'
    python data_recipes/relaion.py --part multi --out data/relaion-multi

**Source.** https://laion.ai/blog/relaion-5b/ and https://arxiv.org/abs/2210.08402. The lists are at
https://huggingface.co/datasets/laion/relaion2B-en-research-safe (--part en, the default), relaion2B-multi-research-safe
(multi) and relaion1b-nolang-research-safe (nolang); one has to agree to their terms there first. Do not use old copies
of LAION-5B: in December 2023 links to illegal images were found in it, which the new lists leave out.

**Licence.** LAION means the lists for research, not for products; their terms are on the hub. The images belong to
whoever published them. "research-safe" also leaves out most of what is not safe for work.

**Size.** The English list 467 GB, 128 files of Parquet; the images about 30 kB each at 256 pixels, 100 kB at 512:
60 to 200 TB for all. Choose rows first.

**Expected counts.** Re-LAION-5B has 5,526,641,167 links in all; the hub counts 2.1 (en), 2.06 (multi) and 1.19 (nolang)
billion rows in the research-safe lists. Their pages are of 2014 to 2021: below half of the rows that you listed the
recipe ends with status 1.

**Written.** `source/`, `list/` and `shards/`: img2dataset's tars where they are (--repack writes equal, shuffled ones),
with jpg, txt and json: url, id (the list's own, or file and row), and those of similarity, punsafe, pwatermark that the
list has. Steps: list, download, pack, verify. For many machines: run --step list once, and `img2dataset --distributor
pyspark` on the list by hand.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from contrastive.cli import main as contrastive
from contrastive.recipes.catalogue import Action, hub_fetch
from contrastive.recipes.downloads import Download
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import read_parquets
from contrastive.recipes.web_lists import WebList, run_web_list

PARTS = {  # repository of the hub, and its rows
    "en": ("laion/relaion2B-en-research-safe", 2_100_000_000),
    "multi": ("laion/relaion2B-multi-research-safe", 2_060_000_000),
    "nolang": ("laion/relaion1b-nolang-research-safe", 1_190_000_000),
}
COLUMNS = {"url": ("url",), "caption": ("caption", "text"), "id": ("id", "sample_id", "hash")}
SCORES = ("similarity", "punsafe", "pwatermark")


def get(repository: str, folder: Path) -> list[Action]:
    """Return what downloads the list."""
    return [hub_fetch(repository, ["*.parquet"], folder)]


def read(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of the list with their scores, which all lists of one name have or none."""
    return read_parquets(paths, COLUMNS, SCORES)


RECIPE = WebList(
    name="relaion",
    samples=PARTS["en"][1],
    files=("*.parquet",),
    read=read,
    where_from=f"agree to the terms at https://huggingface.co/datasets/{PARTS['en'][0]}, and run hf auth login",
    get=partial(get, PARTS["en"][0]),
    download=Download(columns=("id", *SCORES), processes=16, digits=6),
    in_place=True,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--part", choices=PARTS, default="en")
    options, words = parser.parse_known_args(arguments)
    repository, samples = PARTS[options.part]
    recipe = replace(RECIPE, samples=samples, get=partial(get, repository), detail=options.part)
    return run_web_list(recipe, __doc__, words, contrastive)


if __name__ == "__main__":
    sys.exit(main())

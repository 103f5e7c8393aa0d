"""RedCaps: 12 million images that people showed on Reddit, in 350 subreddits, with the titles they gave them.

    python data_recipes/redcaps.py                                                list and images from the web
    python data_recipes/redcaps.py --source redcaps/annotations                   annotations that lie here
    python data_recipes/redcaps.py --source redcaps/annotations --images redcaps/images

The last line packs what the authors' own tool has downloaded, https://github.com/redcaps-dataset/redcaps-downloader,
`redcaps download-imgs -a FILE --save-to redcaps/images --resize 512`: it keeps to the limits of Reddit, Imgur and
Flickr, which many requests at once from one address exceed.

**Source.** https://redcaps.xyz/download, version 1.0: a JSON a subreddit and year. Paper:
https://arxiv.org/abs/2111.11431. They are downloaded from https://huggingface.co/datasets/kdexd/red_caps.

**Licence.** Of the annotations: CC BY 4.0, and Reddit's API terms. "RedCaps should only be used for non-commercial
research", and not for tasks that identify features of people, says its page. The images belong to who showed them.

**Size.** The annotations 1.06 GB packed; images of 512 pixels about 1.2 TB (reckoned at 100 kB an image).

**Expected counts.** About 12.0 million rows. Posts are deleted, the more of them the later: below half the recipe ends
with status 1.

**Written.** `source/`, `list/`, `download/` (img2dataset's tars and statistics; may go once packed) and `shards/`: jpg,
txt (the caption, cleaned by the authors) and json (url, id, subreddit, score, sha256, EXIF); they are shuffled, as the
list goes subreddit by subreddit. Steps: list, download, pack, verify; with --images: list, pack, verify.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from contrastive.cli import main as contrastive
from contrastive.errors import DataError
from contrastive.files import replacing
from contrastive.recipes.catalogue import (
    Action,
    Steps,
    add_steps,
    counted,
    follow,
    guarded,
    hub_fetch,
    ours,
    recipe_parser,
    unzip,
    verifying,
    work,
)
from contrastive.recipes.downloads import Download
from contrastive.recipes.records import Rejected
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import in_batches, read_json
from contrastive.recipes.web_lists import WebList, run_web_list

ARCHIVE = "data/redcaps_v1.0_annotations.zip"
KINDS = {"url": pa.string(), "caption": pa.string(), "id": pa.string(), "subreddit": pa.string(), "score": pa.int64()}


def get(folder: Path) -> list[Action]:
    """Return what downloads the annotations."""
    return [hub_fetch("kdexd/red_caps", [ARCHIVE], folder), unzip(folder / ARCHIVE, folder)]


def rows(paths: Sequence[Path]) -> Iterator[Mapping[str, Any] | Rejected]:
    """Yield the rows of the annotations, one file in memory at a time.

    Raises:
        DataError: a file holds no annotations.
    """
    for path in paths:
        content = read_json(path)
        found = content.get("annotations") if isinstance(content, Mapping) else None
        if not isinstance(found, list):
            raise DataError(f"{path}: holds no annotations of RedCaps; --source is their folder")
        for number, row in enumerate(found):
            where = f"{path.name} annotation {number}"
            if not isinstance(row, Mapping) or not isinstance(row.get("image_id"), str):
                yield Rejected(where, str(number), "broken row", "has no image_id")
                continue
            yield {
                "url": row.get("url"),
                "caption": row.get("caption"),
                "id": row["image_id"],
                "subreddit": path.stem.rpartition("_")[0],  # in the file it may be a number
                "score": row.get("score"),
            }


def read(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of the annotations in batches."""
    return in_batches(rows(paths), KINDS)


RECIPE = WebList(
    name="redcaps",
    samples=12_000_000,
    files=("annotations/*_20*.json", "*_20*.json"),
    read=read,
    where_from="download the annotations at https://redcaps.xyz/download",
    get=get,
    download=Download(columns=("id", "subreddit", "score"), processes=2, threads=16),
)


def write_table(source: Path, images: Path, table: Path) -> str:
    """Write the rows whose image was downloaded as JSON Lines; return how many these are.

    Raises:
        DataError: there are no annotations, or no image.
    """
    paths = sorted({path for pattern in RECIPE.files for path in source.rglob(pattern)})
    if not paths:
        raise DataError(f"--source {source}: holds no annotations; {RECIPE.where_from}")
    listed = present = 0
    table.parent.mkdir(parents=True, exist_ok=True)
    with replacing(table, table.suffix) as file:
        for row in rows(paths):
            listed += 1
            path = None if isinstance(row, Rejected) else images / row["subreddit"] / f"{row['id']}.jpg"
            if path is not None and path.is_file():
                line = {**row, "image": str(path.relative_to(images))}
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                present += 1
        if not present:
            raise DataError(f"--images {images}: holds no SUBREDDIT/ID.jpg of the {listed:,} annotations")
    return f"{present:,} of {listed:,} images are there ({present / listed:.1%})"


def steps(options: argparse.Namespace) -> Steps:
    """Return the steps for images that the authors' tool has downloaded."""
    table, shards = options.out / "list.jsonl", options.out / "shards"
    packed = ["data", "pack", str(table), "--from", "table", "--out", str(shards), f"root={options.images}", "id=id"]
    source = options.source or options.out / "source"
    return {
        "list": lambda: [work(f"write {table}", lambda: write_table(source, options.images, table))],
        "pack": lambda: [ours(contrastive, *packed)],
        "verify": lambda: [
            verifying(contrastive, shards),
            counted(shards, RECIPE.samples, "published annotations", RECIPE.at_least),
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not any(word.split("=")[0] == "--images" for word in words):
        return run_web_list(RECIPE, __doc__, words, contrastive)
    parser = recipe_parser(__doc__, "data/redcaps")
    add_steps(parser, ("list", "pack", "verify"))
    parser.add_argument("--source", type=Path, metavar="PATH", help="the annotations; default: OUT/source")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="SUBREDDIT/ID.jpg below it")
    options = parser.parse_args(words)
    return guarded(lambda: follow(steps(options), options.step, options.dry_run))


if __name__ == "__main__":
    sys.exit(main())

"""ImageNet-Captions: 463,622 training images of ImageNet with what their owners wrote about them on Flickr.

    git clone https://github.com/mlfoundations/imagenet-captions && unzip imagenet-captions/imagenet_captions.zip
    python data_recipes/imagenet_captions.py --source imagenet_captions.json --images /data/imagenet/train
    python data_recipes/imagenet_captions.py --source imagenet_captions.json --images … --caption title --out titles

Labels and captions of the same images: the set to tell what language adds to supervision.

**Source.** https://github.com/mlfoundations/imagenet-captions, a JSON list of filename, wnid, title, description and
tags. Paper: https://arxiv.org/abs/2205.01397. The images are those of ILSVRC2012's training set, train/WNID/FILE, from
https://image-net.org.

**Licence.** None is stated for the captions. The images: ImageNet's terms, for research and teaching that is not
commercial, and their owners' on Flickr.

**Size.** The JSON 131 MB, held in memory; the tars about 50 GB (reckoned at 110 kB an image).

**Expected counts.** 463,622 images, says the paper. Rows whose caption is empty are rejected, which --caption title
makes more. Nothing rots here: below 98 % the recipe ends with status 1.

**Written.** `list.jsonl` and `shards/`: jpg, txt (title, tags and description, in this order, parted by blanks; HTML
taken out) and json: title, description, tags (in one text), wnid. Steps: list, pack, verify.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    ours,
    recipe_parser,
    verifying,
    work,
)
from contrastive.recipes.url_sources import read_json

SAMPLES, AT_LEAST = 463_622, 0.98
PARTS = ("title", "tags", "description")


def caption_of(row: dict[str, Any], parts: Sequence[str]) -> str:
    """Return the parts of a row that are not empty, parted by blanks."""
    tags = row.get("tags") or ""
    texts = {**row, "tags": tags if isinstance(tags, str) else " ".join(map(str, tags))}
    return " ".join(" ".join(str(texts.get(part) or "").split()) for part in parts).strip()


def write_table(source: Path, table: Path, parts: Sequence[str]) -> str:
    """Write the rows with their captions and the places of their images as JSON Lines; return how many.

    Raises:
        DataError: the JSON holds something else.
    """
    rows = read_json(source)
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict) or "filename" not in rows[0]:
        raise DataError(f"{source}: holds no list of filename, wnid, title, description, tags; see --help")
    table.parent.mkdir(parents=True, exist_ok=True)
    with replacing(table, table.suffix) as file:
        for row in rows:
            name = str(row["filename"])
            wnid = row.get("wnid") or name.partition("_")[0]
            line = {"image": f"{wnid}/{name}", "caption": caption_of(row, parts), "id": Path(name).stem, "wnid": wnid}
            line.update({part: caption_of(row, [part]) for part in PARTS})
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return f"{len(rows):,} rows"


def steps(options: argparse.Namespace) -> Steps:
    """Return the steps by name."""
    table, shards = options.out / "list.jsonl", options.out / "shards"
    words = ["data", "pack", str(table), "--from", "table", "--out", str(shards), "--clean-html"]
    words += [f"root={options.images}", "id=id"]

    def listed() -> list[Action]:
        return [work(f"write {table}", lambda: write_table(options.source, table, options.caption.split("+")))]

    return {
        "list": listed,
        "pack": lambda: [ours(contrastive, *words)],
        "verify": lambda: [
            verifying(contrastive, shards),
            counted(shards, options.expect or SAMPLES, "images", AT_LEAST),
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    parser = recipe_parser(__doc__, "data/imagenet_captions")
    add_steps(parser, ("list", "pack", "verify"))
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help="imagenet_captions.json")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="ILSVRC2012's train, a folder a WNID")
    choices = ("title+tags+description", "title+description", "title", "description", "tags")
    parser.add_argument("--caption", choices=choices, default=choices[0], help=f"default: {choices[0]}")
    parser.add_argument("--expect", type=int, metavar="N", help="images, when your copy is a part of ImageNet")
    options = parser.parse_args(arguments)
    return guarded(lambda: follow(steps(options), options.step, options.dry_run))


if __name__ == "__main__":
    sys.exit(main())

"""DataComp's CommonPool: 12.8 million to 12.8 billion images of the web with their alt-texts, not yet filtered.

    python data_recipes/datacomp.py --scale small                                 the whole pool
    python data_recipes/datacomp.py --scale small --uids basic_filter.npy         only the samples of a list
    python data_recipes/datacomp.py --scale medium --where 'clip_l14_similarity_score>=0.28'
    python data_recipes/datacomp.py --scale 1b --out data/datacomp_1b             DataComp-1B, the best subset of xlarge

Here a subset is chosen before the download, which spares the rest. A pool that is there is cut afterwards:
`contrastive data subset data/datacomp_small/shards --uids basic_filter.npy --skip …`. Pools that DataComp's own
download_upstream.py has fetched need no recipe: `contrastive data index DATA_DIR/shards`.

**Source.** https://github.com/mlfoundations/datacomp and https://arxiv.org/abs/2304.14108; the lists are Parquet at
https://huggingface.co/datasets/mlfoundations/datacomp_small (medium, large, xlarge, 1b). The images are downloaded as
its download_upstream.py does: 512 pixels at most on the longer side, faces blurred, two retries.

**Licence.** Of the lists: CC BY 4.0. The images belong to whoever published them. The pools were cleaned of images that
are unsafe, and of near-copies of the evaluation images (section 3 and appendix of the paper), not of anything else.

**Size.** By its own table, list and tars: small 3 GB and 450 GB, medium 30 GB and 4.5 TB, large 300 GB and 45 TB,
xlarge 3 TB and 450 TB.

**Expected counts.** 12.8 million, 128 million, 1.28 billion and 12.8 billion rows; 1b has about 1.4 billion. They are
of 2022; addresses die, and below half of the rows that you listed the recipe ends with status 1. --verify-hash leaves
out images that have changed since (the lists hold the SHA-256 of each).

**Written.** `source/`, `list/` and `shards/`: img2dataset's tars where they are (--repack writes equal, shuffled ones),
with jpg, txt and json: uid, url, the CLIP scores, sha256, EXIF. Steps: list, download, pack, verify.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from contrastive.cli import main as contrastive
from contrastive.errors import DataError
from contrastive.files import sha256
from contrastive.recipes.catalogue import Action, guarded, hub_fetch
from contrastive.recipes.curation.names import NAME, Names
from contrastive.recipes.downloads import Download
from contrastive.recipes.records import Rejected
from contrastive.recipes.uids import read_uids
from contrastive.recipes.url_lists import Batch, Item
from contrastive.recipes.url_sources import HASH, read_parquets
from contrastive.recipes.web_lists import WebList, run_web_list

SCALES = {
    "small": 12_800_000,
    "medium": 128_000_000,
    "large": 1_280_000_000,
    "xlarge": 12_800_000_000,
    "1b": 1_400_000_000,
}
COLUMNS = {"url": ("url",), "caption": ("text",), "id": ("uid",)}
BOXES, SCORES = "face_bboxes", ("clip_b32_similarity_score", "clip_l14_similarity_score")


def get(scale: str, folder: Path) -> list[Action]:
    """Return what downloads a pool's list."""
    return [hub_fetch(f"mlfoundations/datacomp_{scale}", ["*.parquet"], folder)]


def read(uids: Path | None, paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of a pool's list, or those of them that a list of uids names."""
    items = read_parquets(paths, COLUMNS, ("uid", *SCORES, BOXES, "sha256"))
    if uids is None:
        yield from items
        return
    wanted = np.sort(read_uids(uids))
    if not len(wanted):
        raise DataError(f"--uids {uids}: names no sample")
    for item in items:
        yield item if isinstance(item, Rejected) else item.filter(is_named(item, wanted))


def is_named(batch: Batch, wanted: Names) -> pa.Array:
    """Return which rows of a batch are among sorted uids.

    Raises:
        DataError: the list holds a uid that is none.
    """
    try:
        held = np.array([bytes.fromhex(uid) for uid in batch.column("uid").to_pylist()], NAME)
    except (TypeError, ValueError):
        raise DataError("the list's column uid holds something else than 32 hexadecimal digits; get it again") from None
    places = np.minimum(np.searchsorted(wanted, held), len(wanted) - 1)
    return pa.array(wanted[places] == held)


def made(scale: str, uids: Path | None) -> WebList:
    """Return the recipe of a pool, or of a subset of it."""
    return WebList(
        name=f"datacomp_{scale}",
        samples=len(read_uids(uids)) if uids else SCALES[scale],
        files=("*.parquet",),
        read=partial(read, uids),
        where_from=f"download https://huggingface.co/datasets/mlfoundations/datacomp_{scale}",
        get=partial(get, scale),
        download=Download(
            columns=("uid", *SCORES), mode="keep_ratio_largest", boxes=BOXES, hashes=HASH, processes=16, threads=128,
            digits=8,
        ),
        in_place=True,
        detail=f"{uids.name} {sha256(uids)}" if uids else "",
    )  # fmt: skip


RECIPE = made("small", None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--uids", type=Path)
    options, words = parser.parse_known_args(arguments)
    return guarded(lambda: run_web_list(made(options.scale, options.uids), __doc__, words, contrastive))


if __name__ == "__main__":
    sys.exit(main())

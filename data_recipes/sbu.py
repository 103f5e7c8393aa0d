"""SBU Captioned Photos: photographs of Flickr with what their owners wrote about them.

    python data_recipes/sbu.py                                                    list and images from the web
    python data_recipes/sbu.py --source SBU                                       a folder that holds a list already

**Source.** https://www.cs.rice.edu/~vo9/sbucaptions/, sbu-captions-all.tar.gz: one JSON of three lists, image_urls,
captions and user_ids. The list of 2011 is read too: SBU_captioned_photo_dataset_urls.txt and _captions.txt, a line
each. Paper: Ordonez, Kulkarni and Berg, Im2Text, NeurIPS 2011.

**Licence.** None is stated for the list. The images belong to their owners on Flickr, under the licence each one chose.

**Size.** The list about 50 MB packed; the images about 70 GB (most are at most 500 pixels wide, and keep
their bytes).

**Expected counts.** About 860,000 rows in the JSON, 1,000,000 in the list of 2011. Owners take photographs away: expect
eight or nine of ten; below half the recipe ends with status 1.

**Written.** `source/`, `list/`, `download/` (img2dataset's tars and statistics; may go once packed) and `shards/`: jpg,
txt and json (url, id = place in the list, user_id, sha256, EXIF). Steps: list, download, pack, verify.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from contrastive.cli import main as contrastive
from contrastive.errors import DataError
from contrastive.recipes.catalogue import Action, fetch, program
from contrastive.recipes.downloads import Download
from contrastive.recipes.records import Rejected
from contrastive.recipes.url_lists import Item
from contrastive.recipes.url_sources import in_batches, only_one, opened, read_json
from contrastive.recipes.web_lists import WebList, run_web_list

URL = "https://www.cs.rice.edu/~vo9/sbucaptions/sbu-captions-all.tar.gz"
URLS, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"
KINDS = {"url": pa.string(), "caption": pa.string(), "id": pa.int64(), "user_id": pa.string()}


def get(folder: Path) -> list[Action]:
    """Return what downloads the list."""
    archive = folder / "sbu-captions-all.tar.gz"
    return [fetch(URL, archive), program("tar", "-xzf", str(archive), "-C", str(folder))]


def read(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the rows of either list."""
    texts = [path for path in paths if path.suffix == ".txt"]
    return in_batches(_lines(texts[0].parent) if texts else _json(only_one(paths)), KINDS)


def _json(path: Path) -> Iterator[Mapping[str, Any] | Rejected]:
    content = read_json(path)
    try:
        urls, captions = content["image_urls"], content["captions"]
        users = content.get("user_ids") or [None] * len(urls)
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: has no lists image_urls and captions; get {URL}") from None
    if not len(urls) == len(captions) == len(users):
        raise DataError(f"{path}: {len(urls)} addresses, {len(captions)} captions, {len(users)} users; get it again")
    for number, (url, caption, user) in enumerate(zip(urls, captions, users, strict=True)):
        yield {"url": url, "caption": caption, "id": number, "user_id": None if user is None else str(user)}


def _lines(folder: Path) -> Iterator[Mapping[str, Any] | Rejected]:
    with opened(folder / URLS) as urls, opened(folder / CAPTIONS) as captions:
        for number, (url, caption) in enumerate(zip_longest(urls, captions)):
            if url is None or caption is None:
                short = URLS if url is None else CAPTIONS
                raise DataError(f"{folder / short}: ends after {number} lines, before the other one; get both again")
            try:
                yield {"url": url.decode(), "caption": caption.decode(), "id": number}
            except UnicodeDecodeError:
                where = f"{CAPTIONS} line {number + 1}"
                yield Rejected(where, str(number), "not UTF-8", "holds bytes that are no UTF-8")


RECIPE = WebList(
    name="sbu",
    samples=860_000,
    files=("sbu-captions-all.json", URLS, CAPTIONS),
    read=read,
    where_from=f"download and unpack {URL}",
    get=get,
    download=Download(columns=("id", "user_id")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, 1 for too few or bad samples, or 2 after one line that says what was wrong."""
    return run_web_list(RECIPE, __doc__, arguments, contrastive)


if __name__ == "__main__":
    sys.exit(main())

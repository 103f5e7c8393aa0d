"""XTD10: 1,000 images of COCO with one caption in each of eleven languages, for multilingual retrieval.

    git clone https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10
    python data_recipes/xtd10.py --source Cross-lingual-Test-Dataset-XTD10 --coco COCO --out data/eval/xtd10

**Source.** https://arxiv.org/abs/2012.05107; its captions in German and French are those of MIC (arXiv:1510.03519), the
Japanese ones those of STAIR (https://aclanthology.org/P17-2066). The images are 800 of COCO's train2014 and 200 of its
val2014, from http://images.cocodataset.org/zips/; COCO is the folder that holds train2014 and val2014, or all images.
Licence of the captions: Adobe Research, not for commercial use; of the images: their owners' on Flickr.

**Written.** `images/`, a copy of the images that are used, and one table a language, `de.jsonl`, with the columns image
and caption; the datasets configs/eval/xtd10_*.yaml read them.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from contrastive.errors import DataError, UserError
from contrastive.recipes.writing import finished_folder, write_lines

NAMES = "XTD10/test_image_names.txt"
CAPTIONS = {  # by ISO 639-1; the source writes jp for Japanese
    "de": "MIC/test_1kcaptions_de.txt",
    "en": "XTD10/test_1kcaptions_en.txt",
    "es": "XTD10/test_1kcaptions_es.txt",
    "fr": "MIC/test_1kcaptions_fr.txt",
    "it": "XTD10/test_1kcaptions_it.txt",
    "ja": "STAIR/test_1kcaptions_jp.txt",
    "ko": "XTD10/test_1kcaptions_ko.txt",
    "pl": "XTD10/test_1kcaptions_pl.txt",
    "ru": "XTD10/test_1kcaptions_ru.txt",
    "tr": "XTD10/test_1kcaptions_tr.txt",
    "zh": "XTD10/test_1kcaptions_zh.txt",
}
COCO_FOLDERS = (".", "train2014", "val2014")


def read_list(path: Path) -> list[str]:
    """Return the stripped lines of a file of the source.

    Raises:
        DataError: there is no such file.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").rstrip().split("\n")]
    except OSError:
        raise DataError(f"{path}: no such file; give the checkout of XTD10, see --help") from None


def find_image(coco: Path, name: str) -> Path:
    """Return where an image of COCO lies.

    Raises:
        DataError: it is in none of the folders.
    """
    for folder in COCO_FOLDERS:
        if (coco / folder / name).is_file():
            return coco / folder / name
    raise DataError(f"{coco}: has no {name}, nor have its folders train2014 and val2014; unpack both there")


def build(source: Path, coco: Path, out: Path) -> None:
    """Write the tables and copy the images; the folder appears whole or not at all.

    Raises:
        DataError: a file is missing, or a language has not one caption an image.
    """
    names = read_list(source / NAMES)
    tables = {language: read_list(source / path) for language, path in CAPTIONS.items()}
    for language, captions in tables.items():
        if len(captions) != len(names) or not all(captions):
            raise DataError(
                f"{source / CAPTIONS[language]}: {len(captions)} captions for {len(names)} images, or an empty one"
            )
    found = [find_image(coco, name) for name in names]
    with finished_folder(out) as folder:
        (folder / "images").mkdir()
        for path in found:
            shutil.copyfile(path, folder / "images" / path.name)
        for language, captions in tables.items():
            rows = [{"image": name, "caption": text} for name, text in zip(names, captions, strict=True)]
            write_lines(folder / f"{language}.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, or 2 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="a checkout of Cross-lingual-Test-Dataset-XTD10")
    parser.add_argument("--coco", type=Path, required=True, help="the folder of COCO's train2014 and val2014")
    parser.add_argument("--out", type=Path, default=Path("data/eval/xtd10"), help="default: data/eval/xtd10")
    options = parser.parse_args(arguments)
    try:
        build(options.source, options.coco, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

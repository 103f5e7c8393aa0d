"""Glyphs: every character of sixteen fonts, drawn, with its Unicode name as the caption.

    python data_recipes/glyphs.py --out data/glyphs

**Source.** The DejaVu and STIX General fonts inside matplotlib, and the 1,797 handwritten digits inside scikit-learn.
Nothing is downloaded. Licences: Bitstream Vera / DejaVu and the STIX Font License (SIL OFL 1.1) allow rendering and
redistribution; `load_digits` is the UCI set "Optical Recognition of Handwritten Digits", CC BY 4.0.

**Characters.** Letters, numbers, punctuation and symbols (general categories L, N, P, S) that at least twelve of the
sixteen faces draw, without box drawing (128 near-copies of a line). That keeps Latin, Greek, Cyrillic, Armenian,
Georgian, phonetic letters, arrows, mathematics and shapes: about 2,200 names made of some 600 words. Blank glyphs and
the font's box for a missing glyph are skipped.

**Splits**, by hash, so that neither order nor other characters move them:
- `faces/`: the face of lowest hash in each of the four families is held out; its training characters are the test.
- `characters/`: names of lowest hash (8 %) whose words all occur in other names; their training faces are the test.
- `train/`: training faces x training characters. A sample of a held-out face *and* character is in neither.
- `digits/`: handwriting, with class names and templates, for zero-shot classification.

`names.txt` is the pool of all names for retrieval, `lookalikes.json` says which names no pixel can tell apart.
"""

import argparse
import hashlib
import io
import json
import platform
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import sklearn
from PIL import Image
from sklearn.datasets import load_digits

from contrastive.errors import UserError
from contrastive.hashing import mix
from contrastive.recipes.fonts import BASELINE, EM, Face, Glyph, draw_face, find_faces, name_of
from contrastive.recipes.vocabulary import write_tokenizer
from contrastive.recipes.writing import (
    MANIFEST,
    Sample,
    finished_folder,
    is_finished,
    write_classification,
    write_json,
    write_lines,
    write_retrieval,
    write_shards,
)

VERSION = 2
FAMILIES = {  # the family's name in the font file, and its word in captions
    "DejaVu Sans": "sans-serif",
    "DejaVu Sans Mono": "monospace",
    "DejaVu Serif": "serif",
    "STIXGeneral": "serif",
}
CATEGORIES = "LNPS"
SCRIPTS = ("latin", "greek", "cyrillic", "armenian", "georgian")
MIN_FACES = 12
HELD_OUT_CHARACTERS = 0.08
TRAIN_SHARDS, TEST_SHARDS = 8, 2
ALIKE = 2.0  # grey levels of 255
CLASSNAMES = [name_of(str(digit)) for digit in range(10)]  # "digit zero" ...
TEMPLATES = ["{c}", "bold {c}", "italic {c}", "{c} in serif", "{c} in sans-serif"]


def is_wanted(character: str) -> bool:
    """Tell whether the character is of a kind that this dataset teaches."""
    name = name_of(character)
    return bool(name) and unicodedata.category(character)[0] in CATEGORIES and not name.startswith("box drawings")


def common_characters(glyphs: Iterable[Glyph]) -> set[str]:
    """Return the characters that at least `MIN_FACES` faces draw."""
    counts = Counter(glyph.character for glyph in glyphs)
    return {character for character, count in counts.items() if count >= MIN_FACES}


def held_out_faces(faces: Iterable[Face]) -> set[str]:
    """Return the names of the faces never trained on: in each family the one of lowest hash."""
    families: dict[str, list[str]] = defaultdict(list)
    for face in faces:
        families[face.family].append(face.name)
    return {min(names, key=lambda name: int(mix("glyphs face", name))) for names in families.values()}


def held_out_names(names: Iterable[str]) -> set[str]:
    """Return the names never trained on: a share by hash, less those with a word that only held-out names have."""
    chosen = {name for name in names if int(mix("glyphs name", name)) < HELD_OUT_CHARACTERS * 2**64}
    words = {word for name in names if name not in chosen for word in name.split()}
    return {name for name in chosen if words.issuperset(name.split())}


def lookalikes(glyphs: Iterable[Glyph]) -> dict[str, list[str]]:
    """Return for each name those drawn alike by every face that has both: at most `ALIKE` grey levels apart (RMS).

    Exactly equal would be too strict: STIX hints Latin A and Greek Alpha a fraction of a grey level apart.
    """
    by_face: dict[str, list[Glyph]] = defaultdict(list)
    for glyph in glyphs:
        by_face[glyph.face.name].append(glyph)
    both: Counter[tuple[str, str]] = Counter()  # pairs alike in one face at least: faces alike
    drawn = {face: {glyph.name for glyph in members} for face, members in by_face.items()}
    for members in by_face.values():
        both.update(_alike(members))
    found: dict[str, list[str]] = defaultdict(list)
    for (one, other), count in both.items():
        if count == sum({one, other} <= names for names in drawn.values()):
            found[one].append(other)
    return {name: sorted(found[name]) for name in sorted(found)}


def _alike(glyphs: Sequence[Glyph]) -> list[tuple[str, str]]:
    pixels = np.stack([glyph.pixels.ravel() for glyph in glyphs]).astype(np.float64)  # sums of squares stay exact
    squares = (pixels**2).sum(axis=1)
    distance = squares[:, None] + squares - 2 * pixels @ pixels.T
    pairs = np.argwhere(distance <= ALIKE**2 * pixels.shape[1])
    return [(glyphs[i].name, glyphs[j].name) for i, j in pairs if i != j]


def captions(glyph: Glyph) -> list[str]:
    """Return what may be said of a glyph: its plain name, and the name with the face's weight, slant and family.

    A reader draws one of them uniformly. The name, which is what the tests ask for, therefore stands three times: two
    thirds of styled captions instead of 30 % cost held-out faces 4 points of recall@1 after three epochs (one seed).
    """
    weight = "" if glyph.face.weight == "regular" else f"{glyph.face.weight} "
    slant = "" if glyph.face.slant == "upright" else f"{glyph.face.slant} "
    return [glyph.name] * 3 + [f"{weight}{slant}{glyph.name} in {FAMILIES[glyph.face.family]}"]


def train_sample(glyph: Glyph) -> Sample:
    """Return the webdataset sample: image, plain name, and what is known about them."""
    face = glyph.face
    about = {
        "character": glyph.character,
        "code_point": ord(glyph.character),
        "category": unicodedata.category(glyph.character),
        "script": script_of(glyph.name),
        "face": face.name,
        "family": face.family,
        "weight": face.weight,
        "slant": face.slant,
        "captions": captions(glyph),
    }
    return {**test_sample(glyph), "json": json.dumps(about, ensure_ascii=False)}


def script_of(name: str) -> str:
    """Return the script that the name speaks of, "common" for signs that belong to none."""
    return next((word for word in name.split() if word in SCRIPTS), "common")


def test_sample(glyph: Glyph) -> Sample:
    """Return image and plain name alone: what CLIP_benchmark's retrieval layout holds."""
    return {"__key__": key_of(glyph), "png": png(glyph.pixels), "txt": glyph.name}


def key_of(glyph: Glyph) -> str:
    """Return the sample's key: the face and the code point."""
    return f"{glyph.face.name.lower()}-{ord(glyph.character):05x}"


def png(pixels: np.ndarray) -> bytes:
    """Return a grey PNG of uint8 [H, W]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def digit_samples(size: int) -> list[Sample]:
    """Return the handwritten digits, dark on light [size, size], about as tall as print and on its baseline."""
    digits = load_digits()
    return [
        {"__key__": f"s{index:07d}", "png": png(_enlarged(ink, size)), "cls": str(label)}
        for index, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True))
    ]


def _enlarged(ink: np.ndarray, size: int) -> np.ndarray:
    pixel = size * EM * 0.1  # an 8 x 8 digit fills its frame, a printed digit stands 0.73 em tall
    framed = np.pad(255 - np.rint(ink * 255 / 16), 1, constant_values=255)  # else ink at the edge is cut off sharply
    side = round(pixel * len(framed))
    grey = Image.fromarray(framed.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    page = Image.new("L", (size, size), 255)
    page.paste(grey, (round((size - side) / 2), round(BASELINE * size - 8.6 * pixel)))
    return np.asarray(page)


def recipe_of(faces: Iterable[Face], size: int) -> dict[str, object]:
    """Return all that the bytes depend on: settings, versions and the fonts themselves."""
    return {
        "name": "glyphs",
        "version": VERSION,
        "size": size,
        "python": platform.python_version(),
        "unicodedata": unicodedata.unidata_version,
        "matplotlib": matplotlib.__version__,
        "pillow": PIL.__version__,
        "scikit-learn": sklearn.__version__,
        "fonts": {face.path.name: hashlib.sha256(face.path.read_bytes()).hexdigest() for face in faces},
    }


def split(glyphs: Sequence[Glyph], faces: set[str], names: set[str]) -> dict[str, list[Glyph]]:
    """Return the glyphs of train, faces and characters, given the held-out faces and names.

    They stand in the order of their keys' hashes, so that each shard is a fair sample of the whole.
    """
    kind = {(False, False): "train", (True, False): "faces", (False, True): "characters"}
    parts: dict[str, list[Glyph]] = {part: [] for part in kind.values()}
    for glyph in sorted(glyphs, key=lambda glyph: int(mix("glyphs order", key_of(glyph)))):
        part = kind.get((glyph.face.name in faces, glyph.name in names))
        if part is not None:
            parts[part].append(glyph)
    return parts


def build(out: Path, size: int) -> Mapping[str, int]:
    """Draw, split and write the dataset unless it is there already; return the number of samples of each part."""
    faces = find_faces(FAMILIES)
    recipe = recipe_of(faces, size)
    if is_finished(out, recipe):
        print(f"{out}: already there, made by this recipe; nothing to do")
        return dict(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["counts"])
    glyphs = draw_all(faces, size)
    with finished_folder(out) as folder:
        counts = write(folder, recipe, glyphs, digit_samples(size))
    print(f"{out}: " + ", ".join(f"{count:,} {part}" for part, count in counts.items()))
    return counts


def write(
    folder: Path, recipe: Mapping[str, object], glyphs: Sequence[Glyph], digits: Sequence[Sample]
) -> dict[str, int]:
    """Write all parts of the dataset and, last, the manifest; return the number of samples of each part."""
    names = sorted({glyph.name for glyph in glyphs})
    held_out = {"faces": held_out_faces(glyph.face for glyph in glyphs), "names": held_out_names(names)}
    parts = split(glyphs, held_out["faces"], held_out["names"])
    write_shards(folder / "train", [train_sample(glyph) for glyph in parts["train"]], TRAIN_SHARDS)
    for part in ("faces", "characters"):
        write_retrieval(folder / part, [test_sample(glyph) for glyph in parts[part]], TEST_SHARDS)
    write_classification(folder / "digits", digits, CLASSNAMES, TEMPLATES)
    write_tokenizer(folder / "tokenizer", [caption for glyph in parts["train"] for caption in captions(glyph)])
    write_lines(folder / "names.txt", names)
    write_json(folder / "lookalikes.json", lookalikes(glyphs))
    counts = {part: len(members) for part, members in parts.items()} | {"digits": len(digits), "names": len(names)}
    kept_out = {kind: sorted(members) for kind, members in held_out.items()}
    write_json(folder / MANIFEST, {"recipe": recipe, "counts": counts, "held_out": kept_out})
    return counts


def draw_all(faces: Sequence[Face], size: int) -> list[Glyph]:
    """Draw the common characters of every face, telling how far it got."""
    glyphs: list[Glyph] = []
    for index, face in enumerate(faces, start=1):
        glyphs += draw_face(face, size, is_wanted)
        print(f"[{index:2d}/{len(faces)}] {face.name}: {len(glyphs):,} glyphs so far", flush=True)
    common = common_characters(glyphs)
    return [glyph for glyph in glyphs if glyph.character in common]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return 0, or 2 after one line that says what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, e.g. data/glyphs")
    parser.add_argument("--size", type=int, default=32, help="side of the square images in pixels (default: 32)")
    options = parser.parse_args(arguments)
    try:
        build(options.out, options.size)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

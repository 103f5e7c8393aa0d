"""Draw single characters with the fonts that matplotlib ships."""

import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

EM, BASELINE = 0.75, 0.72  # of the image side: every accent of a capital and every descender stays inside
INK_WIDTH = 0.96  # of the image side, at most
MISSING = chr(0x10FFFF)  # no font maps it, so it draws the font's box for a missing glyph


@dataclass(frozen=True)
class Face:
    """One font file: a family in one weight and slant."""

    path: Path
    family: str
    weight: str
    slant: str

    @property
    def name(self) -> str:
        """The file's stem, e.g. "DejaVuSans-Bold"."""
        return self.path.stem


@dataclass(frozen=True)
class Glyph:
    """One character drawn by one face: dark on light, uint8 [size, size]."""

    face: Face
    character: str
    pixels: NDArray[np.uint8]

    @property
    def name(self) -> str:
        """The character's Unicode name in lower case."""
        return name_of(self.character)


def name_of(character: str) -> str:
    """Return the Unicode name in lower case, empty for a character without one."""
    return unicodedata.name(character, "").lower()


def find_faces(families: Collection[str]) -> list[Face]:
    """Return matplotlib's faces of these families, sorted by name, without the incomplete Display variants."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [(path, FT2Font(str(path))) for path in sorted(folder.glob("*.ttf")) if "Display" not in path.stem]
    return [_face(path, font) for path, font in fonts if font.family_name in families]


def _face(path: Path, font: FT2Font) -> Face:
    weight = "bold" if "Bold" in font.style_name else "regular"
    slant = "italic" if "Italic" in font.style_name or "Oblique" in font.style_name else "upright"
    return Face(path, font.family_name, weight, slant)


def draw_face(face: Face, size: int, is_wanted: Callable[[str], bool]) -> list[Glyph]:
    """Draw the wanted characters of a face, in code point order, skipping blanks and the missing-glyph box."""
    font = ImageFont.truetype(
        str(face.path), round(size * EM), layout_engine=ImageFont.Layout.BASIC
    )  # raqm fails on some
    missing = draw(MISSING, font, size).tobytes()
    mapped = sorted(code for code, index in FT2Font(str(face.path)).get_charmap().items() if index != 0)
    glyphs = (Glyph(face, chr(code), draw(chr(code), font, size)) for code in mapped if is_wanted(chr(code)))
    return [glyph for glyph in glyphs if glyph.pixels.min() < 128 and glyph.pixels.tobytes() != missing]


def draw(character: str, font: ImageFont.FreeTypeFont, size: int) -> NDArray[np.uint8]:
    """Draw black on white, the ink centred in width and on one baseline; a glyph too large is set smaller to fit."""
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    above, below = BASELINE * size, (1 - BASELINE) * size
    fit = min(INK_WIDTH * size / max(right - left, 1), above / max(-top, 1), below / max(bottom, 1))
    if fit < 1:
        font = font.font_variant(size=max(1, int(font.size * fit)))
        left, top, right, bottom = font.getbbox(character, anchor="ls")
    image = Image.new("L", (size, size), 255)
    start = round((size - left - right) / 2), round(BASELINE * size)
    ImageDraw.Draw(image).text(start, character, fill=0, font=font, anchor="ls")
    return np.asarray(image)

import builtins
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.errors import DataError
from contrastive.recipes.curation.perceptual import Rule, alike, look, reduction
from tests.recipes.curation import pictures


def likeness(one: Image.Image, other: Image.Image, rule: Rule | None = None) -> tuple[float, bool]:
    a, b = (look(np.asarray(image.convert("RGB"))) for image in (one, other))
    value, enough = alike((a.luma[None], b.luma[None]), (a.chroma[None], b.chroma[None]), rule or Rule())
    return float(value[0]), bool(enough[0])


def test_the_hash_is_that_of_imagehash():
    import imagehash

    image = pictures.picture(3)
    theirs = imagehash.phash(image).hash.ravel()
    ours = np.unpackbits(np.array([look(np.asarray(image)).hash], "<u8").view(np.uint8))
    assert np.array_equal(ours.astype(bool), theirs)


def test_a_look_holds_means_of_the_pixels():
    pixels = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8), 4, 0), 4, 1)
    found = look(np.stack([pixels] * 3, 2))
    assert np.abs(found.luma.astype(int) - pixels[::4, ::4]).max() <= 1  # Pillow's grey is rounded down
    assert (found.chroma == 128).all()
    assert not found.is_flat


def test_copies_look_the_same():
    image = pictures.picture(1, (160, 120))
    for copy in (image.resize((80, 60)), image.resize((300, 200)), pictures.brighter(image), pictures.cropped(image)):
        value, enough = likeness(image, copy)
        assert enough, value
        assert likeness(copy, image)[0] == pytest.approx(value, abs=1e-5)
    assert likeness(image, image) == (pytest.approx(1, abs=1e-6), True)


def test_other_pictures_and_other_colours_do_not():
    image = pictures.picture(1)
    swapped = Image.fromarray(np.asarray(image)[..., [2, 1, 0]])
    assert not any(likeness(image, other)[1] for other in (pictures.picture(2), swapped, image.transpose(0)))


def test_on_a_white_page_a_small_stroke_makes_another_drawing():
    strokes = [(10, 50, 32, 10), (32, 10, 54, 50), (18, 36, 46, 36)]
    plain, accented = pictures.page(*strokes), pictures.page(*strokes, (28, 4, 38, 4))
    assert likeness(plain, accented, Rule(likeness=0.9))[1] is False
    assert likeness(plain, plain.resize((128, 128)))[1] is True


def test_likeness_is_a_weighted_correlation():
    """An independent loop over pixels, for drawings, which are never shifted."""
    one = pictures.page((5, 5, 50, 60), (10, 40, 60, 40))
    other = pictures.page((5, 5, 50, 60), (10, 44, 60, 38))
    a, b = look(np.asarray(one)), look(np.asarray(other))
    pairs = [
        (int(x), int(y))
        for x, y in zip(a.luma.ravel().tolist(), b.luma.ravel().tolist(), strict=True)
        if abs(x - 252) > 12 or abs(y - 252) > 12
    ]
    assert likeness(one, other)[0] == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-4)


def test_many_pairs_are_compared_as_one():
    looks = [look(np.asarray(pictures.picture(seed))) for seed in range(12)]
    luma, chroma = np.stack([one.luma for one in looks]), np.stack([one.chroma for one in looks])
    first, second = np.arange(5000) % 12, np.arange(5000) // 12 % 12
    value, enough = alike((luma[first], luma[second]), (chroma[first], chroma[second]), Rule())
    assert np.array_equal(enough, first == second)
    assert value[first == second] == pytest.approx(1, abs=1e-5)


def test_a_jpeg_is_reduced_while_its_short_side_stays_long_enough():
    assert [reduction(*size) for size in ((100, 900), (255, 256), (256, 300), (512, 2000), (4000, 3000))] == [
        1,
        1,
        2,
        4,
        8,
    ]


def test_without_imagehash_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def absent(name: str, *arguments: Any) -> Any:
        if name == "imagehash":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DataError, match=r"need imagehash: pip install 'contrastive-pretrain\[curate\]'"):
        look(np.zeros((8, 8, 3), np.uint8))

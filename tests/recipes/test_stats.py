import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
from PIL import Image

from contrastive.recipes.stats import Stats, draw, gather
from tests import toys
from tests.data.toys import reader, settings

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def shards(folder: Path) -> list[tuple[bytes, str]]:
    draw, samples, members = np.random.default_rng(0), [], []
    for number in range(60):
        kind = list(KINDS)[number % 3]
        size = (int(draw.integers(5, 90)), int(draw.integers(5, 90)))
        content = io.BytesIO()
        Image.new("RGB", size, tuple(draw.integers(0, 256, 3).tolist())).save(content, KINDS[kind])
        image = samples[0][0] if number in (3, 6, 9) else content.getvalue()
        text = "the same caption" if number % 10 == 0 else "word " * int(draw.integers(1, 120)) + str(number)
        samples.append((image, text))
        members += [(f"{number}.{'jpg' if number in (3, 6, 9) else kind}", image), (f"{number}.txt", text.encode())]
    toys.write_tar(folder / "a.tar", members)
    return samples


def stats(folder: Path, processes: int = 0) -> Stats:
    opened = reader(settings(folder, caption_key="txt"))
    return gather(opened, range(len(opened.pool)), processes=processes)


@pytest.mark.parametrize("processes", [0, 2])
def test_the_figures_are_those_of_a_plain_loop(tmp_path: Path, processes: int):
    samples = shards(tmp_path)
    found = stats(tmp_path, processes)
    sizes = [Image.open(io.BytesIO(image)).size for image, _ in samples]
    ids = open_clip.tokenizer.SimpleTokenizer()([text for _, text in samples])
    assert list(zip(found.width.tolist(), found.height.tolist(), strict=True)) == sizes
    assert found.image_bytes.tolist() == [len(image) for image, _ in samples]
    assert found.characters.tolist() == [len(text) for _, text in samples]
    assert found.tokens.tolist() == (ids != 0).sum(dim=1).tolist()
    assert found.cut_captions == sum((ids != 0).all(dim=1).tolist())
    assert found.cut_captions > 3
    assert found.image_repeats == 60 - len({image for image, _ in samples}) == 3
    assert found.caption_repeats == 5
    assert found.most_repeated == [("the same caption", 6)]
    assert found.members == {"jpg": 20, "png": 20, "webp": 20}
    least, _, _, median, _, _, most, mean = found.quantiles()["width / height"]
    aspects = [width / height for width, height in sizes]
    assert (least, most) == (min(aspects), max(aspects))
    assert (median, mean) == (pytest.approx(np.median(aspects)), pytest.approx(np.mean(aspects)))


def test_what_cannot_be_read_is_counted_by_reason(tmp_path: Path):
    image = toys.encode(toys.image(0))
    members = [("0.png", image), ("0.txt", b"a"), ("1.png", b"no image"), ("1.txt", b"b"), ("2.png", image)]
    toys.write_tar(tmp_path / "a.tar", [*members, ("2.txt", b" ")])
    found = stats(tmp_path)
    assert len(found) == 1
    assert found.unreadable == {"image: not an image": 1, "caption: empty": 1}


def test_of_nothing_there_are_no_quantiles():
    assert Stats().quantiles() == {}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_drawn_even_of_samples_that_are_all_alike(tmp_path: Path, suffix: str):
    toys.write_shards(tmp_path / "shards", 6)
    draw(gather(reader(settings(tmp_path / "shards")), range(6)), tmp_path / f"s{suffix}", "six")
    content = (tmp_path / f"s{suffix}").read_bytes()
    if suffix == ".png":
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[:2] == (780, 1200)
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    else:
        assert b"tokens of the caption" not in content[:100]
        assert content.count(b"<g id=") > 50

from dataclasses import replace

import numpy as np
import pytest

from contrastive.recipes.doctor import RunFacts
from contrastive.recipes.doctor_samples import Captions, Images, of_captions, of_images, of_large_images

RUN = RunFacts("shards", "'shards'", global_batch_size=1000)
HEALTHY = Captions(2000, 77)


def images(width: int, height: int, size: int = 224, count: int = 100) -> Images:
    return Images(np.full(count, width), np.full(count, height), size)


def test_healthy_captions_and_images_have_no_finding():
    assert of_captions(HEALTHY, RUN) == []
    assert of_captions(Captions(0, 77), RUN) == []
    assert of_images(images(256, 300), RUN) == []


@pytest.mark.parametrize(("cut", "severity"), [(40, "note"), (1000, "wastes")])
def test_cut_captions_are_told_with_the_length_that_would_do(cut: int, severity: str):
    (found,) = of_captions(replace(HEALTHY, cut=cut, long_tokens=130), RUN)
    assert found.severity == severity
    assert f"{cut / 2000:.1%} of the captions are longer than the 77 tokens" in found.what
    assert "context_length: 136" in found.fix


def test_one_caption_of_many_samples_is_told_by_its_wrong_negatives():
    found = of_captions(replace(HEALTHY, repeated=199, most_frequent=("image", 200)), RUN)
    assert "one caption is that of 10.0% of the samples: 'image'" in found[0].what
    assert found[0].gain == "100 of each batch's 1,000 are its wrong negatives"
    assert "10.0% of the captions occurred before among 2,000" in found[1].what


@pytest.mark.parametrize(
    ("kind", "said"), [("html", "HTML"), ("names", "file names"), ("foreign", "letters other than Latin")]
)
def test_odd_captions_are_told(kind: str, said: str):
    (found,) = of_captions(replace(HEALTHY, **{kind: 400}), RUN)
    assert (found.severity, found.share) == ("wastes", 0.2)
    assert said in found.what


def test_small_images_are_told():
    (found,) = of_images(images(100, 400), RUN)[:1]
    assert found.severity == "wastes"
    assert "100.0% of the images are smaller than the 224 pixels" in found.what
    assert "--min-side 224" in found.fix


def test_long_and_narrow_images_are_told():
    (found,) = of_images(images(300, 1000), RUN)
    assert "more than 3 times as long as wide" in found.what


@pytest.mark.parametrize(("size", "stored"), [(224, 256), (336, 384), (384, 448), (16, 24)])
def test_the_stored_size_leaves_a_crop_its_room(size: int, stored: int):
    assert images(500, 500, size).stored_size == stored


def test_huge_images_are_told_with_the_speed_they_cost():
    found = of_large_images(images(1024, 2048), RUN, 0.8, is_limiting=True, stored_bytes=100e9)
    faster = 1 / (0.2 + 0.8 / 16)  # of 1024 pixels 256 are left a side: a sixteenth of the work
    assert f"about {faster:.1f} times as fast, and 100.0 GB of shards become about 6.2 GB" in found[0].gain
    assert found[0].severity == "wastes"
    assert found[0].share == pytest.approx(1 - 1 / faster)
    assert "contrastive data pack 'shards' --size 256" in found[0].fix
    assert of_large_images(images(1024, 2048), RUN, 0.8, is_limiting=False, stored_bytes=1)[0].severity == "note"


def test_images_of_the_right_size_or_that_cost_little_are_not_told():
    assert of_large_images(images(256, 256), RUN, 0.8, is_limiting=True, stored_bytes=1) == []
    assert of_large_images(images(1024, 1024), RUN, 0.1, is_limiting=True, stored_bytes=1) == []

import numpy as np
import pytest
from PIL import Image

from contrastive.recipes.curation.leaks import Leaks, Reference, mark_alike, mark_equal, mark_near
from contrastive.recipes.curation.perceptual import Rule
from contrastive.recipes.engine import Local
from tests.recipes.curation import pictures
from tests.recipes.curation.test_near import Array


def ignore(done: int, total: int) -> None:
    pass


def reference(images: list[Image.Image], features: np.ndarray | None = None) -> Reference:
    return Reference("tested", len(images), str, images.__getitem__, pictures.records_of(images), features)


def test_what_looks_like_an_image_of_the_set_is_marked_with_the_one_that_is_most_alike():
    tested = [pictures.picture(seed, (128, 96)) for seed in range(6)]
    near = pictures.cropped(tested[2], 0.02)
    samples = [pictures.picture(50), tested[3].resize((64, 48)), pictures.brighter(tested[2]), pictures.picture(51)]
    leaks = Leaks.none(4)
    mark_alike(leaks, pictures.records_of(samples), reference([*tested, near]), Rule(), Local(1), ignore)
    assert leaks.image.tolist() == [-1, 3, 2, -1]
    assert (leaks.likeness[[1, 2]] > 0.95).all()
    assert np.isnan(leaks.likeness[[0, 3]]).all()


def test_flat_images_leak_only_with_equal_pixels():
    grey, other = Image.new("RGB", (20, 20), (7, 7, 7)), Image.new("RGB", (20, 20), (8, 7, 7))
    leaks = Leaks.none(2)
    mark_alike(leaks, pictures.records_of([grey, other]), reference([grey]), Rule(), Local(1), ignore)
    assert leaks.image.tolist() == [0, -1]
    assert leaks.likeness[0] == 1


def test_equal_pixels_are_marked_and_images_without_a_digest_are_not():
    ours, theirs = np.zeros(4, [("pixels", "<u8", 2)]), np.zeros(3, [("pixels", "<u8", 2)])
    ours["pixels"], theirs["pixels"] = [[1, 2], [0, 0], [3, 4], [9, 9]], [[3, 4], [0, 0], [1, 2]]
    leaks = Leaks.none(4)
    mark_equal(leaks, ours, Reference("tested", 3, str, lambda at: None, theirs))
    assert leaks.image.tolist() == [2, -1, 0, -1]


def test_near_features_are_marked_and_unreadable_images_of_the_set_are_passed_over():
    features = np.eye(4, dtype=np.float32)
    base = np.stack([np.full(4, np.nan, np.float32), features[2], features[0]])
    leaks = Leaks.none(4)
    pictures_of_set = [pictures.picture(0)] * 3
    mark_near(leaks, Array(features), np.array([0, 1, 2]), reference(pictures_of_set, base), 0.9, Local(1), ignore)
    assert leaks.image.tolist() == [2, -1, 1, -1]
    assert leaks.cosine[0] == pytest.approx(1)

import numpy as np

from contrastive.recipes.curation.exact import digest, firsts, of_captions, of_pixels
from tests import toys


def test_a_digest_tells_how_its_parts_are_cut():
    assert digest([b"ab", b"c"]) == digest([b"ab", b"c"])
    assert len({digest([b"ab", b"c"]), digest([b"a", b"bc"]), digest([b"abc"])}) == 3


def test_pixels_have_a_shape_and_a_picture_may_lie_in_memory_as_it_likes():
    pixels = toys.image(1, 8)
    assert of_pixels(pixels) == of_pixels(np.asfortranarray(pixels))
    assert of_pixels(pixels) != of_pixels(pixels.reshape(4, 16, 3))


def test_captions_are_a_set():
    assert of_captions(["b", "a", "b"]) == of_captions(["a", "b"])
    assert of_captions(["a"]) != of_captions(["a", "b"])


def test_the_lowest_rank_is_first_and_what_has_no_digest_stands_alone():
    draw = np.random.default_rng(0)
    digests = draw.integers(0, 4, (200, 2)).astype(np.uint64)
    rank = draw.permutation(200)
    found = firsts(digests, rank)
    for row in range(200):
        equal = [other for other in range(200) if (digests[other] == digests[row]).all()]
        wanted = min(equal, key=lambda one: rank[one]) if digests[row].any() else row
        assert found[row] == wanted


def test_no_rows_have_no_firsts():
    assert len(firsts(np.zeros((0, 2), np.uint64), np.zeros(0, np.int64))) == 0

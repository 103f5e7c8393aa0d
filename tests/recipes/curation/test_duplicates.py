import numpy as np
import pytest

from contrastive.recipes.curation import duplicates
from contrastive.recipes.curation.duplicates import (
    EMBEDDING,
    EXACT,
    PERCEPTUAL,
    REASONS,
    Stars,
    drop_alike,
    drop_equal,
    drop_near,
    ranked,
    sizes_of_groups,
)
from contrastive.recipes.curation.near import Pairs
from contrastive.recipes.curation.perceptual import Rule, alike
from contrastive.recipes.engine import Local
from tests.recipes.curation import pictures


def ignore(done: int, total: int) -> None:
    pass


def reasons(stars: Stars) -> list[str]:
    return [REASONS[reason].removeprefix("duplicate: ") for reason in stars.reason.tolist()]


def pairs(*of: tuple[int, int]) -> Pairs:
    one, other = np.array(of).reshape(-1, 2).T
    return Pairs(one, other, np.full(len(of), 0.97, np.float32))


def looked(images: list, rule: Rule | None = None, rank: np.ndarray | None = None, near: Pairs | None = None) -> Stars:
    stars, everything = Stars.of(len(images)), np.ones(len(images), bool)
    rank = np.arange(len(images)) if rank is None else rank
    drop_alike(stars, pictures.records_of(images), rank, everything, rule or Rule(), Local(1), ignore, near)
    return stars


def test_in_a_chain_only_what_is_near_a_kept_one_is_dropped():
    stars = Stars.of(4)
    drop_near(stars, pairs((1, 0), (2, 1), (3, 2)), np.arange(4))
    assert stars.kept_for.tolist() == [0, 0, 2, 2]
    assert reasons(stars) == ["", "embedding", "", "embedding"]
    assert stars.cosine[1] == pytest.approx(0.97)
    assert sizes_of_groups(stars).tolist() == [2, 2]


def test_the_star_rule_holds_for_any_graph():
    draw = np.random.default_rng(0)
    rank = draw.permutation(60)
    edges = [(a, b) for a in range(60) for b in range(60) if rank[b] < rank[a] and draw.random() < 0.05]
    stars = Stars.of(60)
    drop_near(stars, pairs(*edges), rank)
    near = set(edges)
    kept = {number for number in range(60) if stars.kept_for[number] == number}
    for number in range(60):
        earlier = [other for other in kept if (number, other) in near]
        assert (number in kept) == (not earlier)
        assert number in kept or stars.kept_for[number] == min(earlier, key=lambda one: rank[one])


def test_equal_ones_follow_the_one_that_stands_for_them():
    stars = Stars.of(4)
    digests = np.array([[1, 0], [2, 0], [2, 0], [3, 0]], np.uint64)
    drop_equal(stars, digests, np.arange(4), np.ones(4, bool))
    assert reasons(stars) == ["", "", "exact", ""]
    drop_near(stars, pairs((1, 0)), np.arange(4))
    assert stars.kept_for.tolist() == [0, 0, 0, 3]
    assert reasons(stars) == ["", "embedding", "embedding", ""]


def test_what_is_not_asked_about_is_left_alone():
    stars = Stars.of(3)
    drop_equal(stars, np.ones((3, 2), np.uint64), np.arange(3), np.array([False, True, True]))
    assert stars.kept_for.tolist() == [0, 1, 1]


def test_copies_are_dropped_and_others_stay():
    first, second = pictures.picture(1), pictures.picture(2)
    stars = looked([first, second, first.resize((192, 144)), pictures.brighter(second), pictures.picture(3)])
    assert stars.kept_for.tolist() == [0, 1, 0, 1, 4]
    assert reasons(stars) == ["", "", "perceptual", "perceptual", ""]
    assert stars.distance[2] <= 12
    assert stars.likeness[2] > 0.98
    assert np.isnan(stars.distance[[0, 1, 4]]).all()


def test_the_rank_says_who_stays():
    image = pictures.picture(1)
    stars = looked([image.resize((48, 36)), image, image.resize((64, 48))], rank=np.array([1, 0, 2]))
    assert stars.kept_for.tolist() == [1, 1, 1]


def test_the_same_as_a_comparison_of_all_in_order():
    images = [pictures.picture(seed % 9, (60 + 5 * seed, 64)) for seed in range(30)]
    images = [pictures.cropped(image, 0.01 * (at % 5)) for at, image in enumerate(images)]
    records, rule = pictures.records_of(images), Rule(distance=20, likeness=0.9)
    kept: list[int] = []
    wanted = []
    for number in range(30):
        one = records[[number]]
        for other in kept:
            two = records[[other]]
            enough = alike((two["luma"], one["luma"]), (two["chroma"], one["chroma"]), rule)[1]
            if enough and int(one["hash"][0] ^ two["hash"][0]).bit_count() <= 20:
                wanted.append(other)
                break
        else:
            kept.append(number)
            wanted.append(number)
    assert looked(images, rule).kept_for.tolist() == wanted
    assert 5 < len(kept) < 25


def test_flat_images_are_duplicates_only_where_all_pixels_agree():
    from PIL import Image

    grey = [Image.new("RGB", (40, 40), colour) for colour in ((90, 90, 90), (91, 90, 90), (90, 90, 90))]
    stars = looked([*grey, pictures.picture(1)])
    assert stars.kept_for.tolist() == [0, 1, 0, 3]
    assert reasons(stars) == ["", "", "exact", ""]


def test_near_features_are_candidates_besides_the_hashes():
    image = pictures.picture(4, (200, 160))
    crop = pictures.cropped(image, 0.05)
    rule = Rule(distance=0)
    assert looked([image, crop], rule).kept_for.tolist() == [0, 1]
    stars = looked([image, crop, pictures.picture(5)], rule, near=pairs((1, 0), (2, 0)))
    assert stars.kept_for.tolist() == [0, 0, 2]
    assert REASONS[stars.reason[1]] == EMBEDDING
    assert EXACT != PERCEPTUAL


def test_a_thousand_copies_of_one_picture_cost_as_many_comparisons(monkeypatch: pytest.MonkeyPatch):
    compared = []
    monkeypatch.setattr(duplicates, "alike", lambda *given: compared.append(len(given[0][0])) or alike(*given))
    image = pictures.picture(1)
    records = np.repeat(pictures.records_of([image]), 1000)
    stars = Stars.of(1000)
    drop_alike(stars, records, np.arange(1000), np.ones(1000, bool), Rule(), Local(1), ignore)
    assert sum(compared) == 999
    assert stars.kept_for.tolist() == [0] * 1000


def test_the_largest_or_the_best_comes_first_and_ties_in_order():
    sizes = np.array([[2, 2], [9, 9], [3, 3], [9, 9]], np.int32)
    assert ranked(4, "largest", sizes).tolist() == [3, 0, 2, 1]
    scores = np.array([0.5, np.nan, 0.9, 0.5], np.float32)
    assert ranked(4, "score", scores=scores).tolist() == [1, 3, 0, 2]
    assert ranked(3, "first").tolist() == [0, 1, 2]

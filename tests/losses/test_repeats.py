import itertools

import pytest
import torch

from contrastive.errors import ConfigError
from contrastive.losses.repeats import Repeats, gather_repeats, names_of, needs
from contrastive.losses.tiles import Tile
from tests.losses import by_hand


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_repeats_are_the_pairs_with_an_equal_id_apart_from_the_diagonal(kinds: int):
    generator = torch.Generator().manual_seed(kinds)
    ids = torch.randint(0, 9, (kinds, 12), generator=generator)
    same = by_hand.equal(12, list(ids))
    first, rows = 4, 6
    repeats = Repeats(ids, first, rows)
    assert torch.equal(repeats.count, same.sum(dim=1))
    found = torch.zeros(rows, 12, dtype=torch.bool)
    for row, column in itertools.product(range(0, rows, 4), range(0, 12, 5)):
        tile = Tile(row, min(row + 4, rows), column, min(column + 5, 12), first)
        i, j = repeats.within(tile)
        found[i + row, j + column] = True
    expected = (same & ~torch.eye(12, dtype=torch.bool))[first : first + rows]
    assert expected.any()
    assert torch.equal(found, expected)


def test_a_batch_without_repeats_has_none_to_look_for():
    repeats = gather_repeats({"caption_id": torch.arange(5)}, ["caption"], [5])
    assert repeats.within(Tile(0, 5, 0, 5, 0)) is None


def test_no_ids_are_read_when_duplicates_are_negatives():
    assert names_of("negatives", "caption") == []
    assert gather_repeats({}, [], [5]) is None
    assert needs({"duplicates": "negatives"}) == set()


def test_no_name_at_all_is_refused_unless_duplicates_are_negatives():
    with pytest.raises(ValueError, match="duplicates_by: names no ids; give it some, or set duplicates: negatives"):
        names_of("masked", [])


def test_missing_ids_are_named():
    with pytest.raises(ConfigError, match=r"duplicates by image need ids in the batch: image_id, int64 \[b\]"):
        gather_repeats({"caption_id": torch.arange(5)}, ["caption", "image"], [5])

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from contrastive.errors import ConfigError
from contrastive.losses.infonce import InfoNCE
from contrastive.losses.sigmoid import Sigmoid
from contrastive.losses.tiles import Pairs, Tile
from tests.losses.by_hand import copy, features


@pytest.mark.parametrize("first", [0, 3])
def test_tiles_cover_every_pair_once_and_know_their_diagonal(first: int):
    image, text = torch.randn(7, 3), torch.randn(7, 3)
    pairs = Pairs(image, text, torch.zeros(1), (3, 2))
    seen, own = torch.zeros(7, 7 + first), torch.zeros(7, 7 + first)
    for tile in pairs.tiles():
        moved = Tile(tile.row, tile.row_end, tile.column, tile.column_end, first)
        seen[moved.rows, moved.columns] += 1
        moved.diagonal(own[moved.rows, moved.columns]).add_(1)
        torch.testing.assert_close(pairs.scores(tile), image[tile.rows] @ text[tile.columns].T)
    assert (seen[:, :7] == 1).all()
    assert torch.equal(own[:, :7], torch.eye(7, 7 + first).roll(first, 1)[:, :7])


def test_gradients_are_those_of_the_matrix_product():
    image, text = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    log_scale, weight = torch.tensor([0.7], dtype=torch.float64, requires_grad=True), torch.randn(5, 5).double()
    pairs = Pairs(image, text, log_scale, (2, 4))
    pairs.want(image=True, text=True)
    for tile in pairs.tiles():
        pairs.add(tile, weight[tile.rows, tile.columns])
    value = (weight * (log_scale.exp() * image @ text.T)).sum() * pairs.share
    expected = torch.autograd.grad(value, [image, text, log_scale])
    for found, wanted in zip(pairs.gradients(), expected, strict=True):
        torch.testing.assert_close(found.reshape(wanted.shape), wanted)
    torch.testing.assert_close(pairs.total_similarity(), (image @ text.T).sum())


def test_a_tile_without_rows_is_refused():
    with pytest.raises(ConfigError, match=r"tile: \(0, 4\) must be two numbers of at least 1"):
        Pairs(torch.randn(5, 3), torch.randn(5, 3), torch.zeros(1), (0, 4))


@pytest.mark.parametrize(("kind", "products"), [("infonce", 8), ("sigmoid", 6)])
def test_a_loss_takes_the_operations_that_its_docstring_says(kind: str, products: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("contrastive.losses.softmax.KEPT", 0)
    given = copy(features(64, width=16, bias=-3.0), torch.float32)
    loss = InfoNCE(tile=(16, 24)) if kind == "infonce" else Sigmoid(tile=(16, 24))
    # addmm_ is counted as addmm; a product of [m, k] and [k, n] is 2 m k n operations.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _product}) as counter:
        loss(given, {"caption_id": torch.arange(64)})["loss"].backward()
    assert counter.get_total_flops() == products * 64 * 64 * 16


def _product(total: object, left: tuple[int, int], right: tuple[int, int], **_: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def test_few_scores_are_kept_and_many_are_made_again():
    given = copy(features(64, width=16), torch.float32)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _product}) as counter:
        InfoNCE(tile=(16, 24))(given, {"caption_id": torch.arange(64)})["loss"].backward()
    assert counter.get_total_flops() == 6 * 64 * 64 * 16


def test_what_is_saved_for_the_backward_pass_grows_with_the_batch_not_with_its_square():
    def saved(count: int) -> int:
        given = copy(features(count, width=16), torch.float32)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            InfoNCE()(given, {"caption_id": torch.arange(count)})
        return sum(sizes)

    assert saved(512) == 2 * saved(256) - 1 == 2 * 512 * 16 + 1

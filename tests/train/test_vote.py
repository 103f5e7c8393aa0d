import math

import pytest
import torch

from contrastive import distributed
from contrastive.train.vote import Asked, Counted, Votes
from tests import toys

CPU = torch.device("cpu")


def test_alone_a_vote_is_ones_own():
    votes = Votes(CPU)
    bad = votes.cast(3, torch.tensor(2.5), torch.tensor(1.0))
    assert bad.item() == 0
    assert votes.read(everything=False) == [Counted(3, False, False, 0, False, 2.5)]
    assert votes.read(everything=True) == []


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, -math.inf)])
def test_what_is_not_finite_is_bad(loss: float, norm: float):
    votes = Votes(CPU)
    assert votes.cast(1, torch.tensor(loss), torch.tensor(norm)).item() == 1
    (counted,) = votes.read(everything=False)
    assert counted.bad_loss == (not math.isfinite(loss))
    assert counted.bad_gradient == (not math.isfinite(norm))


def cast_on_ranks() -> list[Counted]:
    rank, votes = distributed.rank(), Votes(CPU)
    world = distributed.world_size()
    votes.cast(1, torch.tensor(float(rank)), torch.tensor(1.0))
    bad = votes.cast(2, torch.tensor(math.nan if rank == world - 1 else 1.0), torch.tensor(1.0))
    assert bad.item() == 1
    votes.cast(3, torch.tensor(1.0), torch.tensor(1.0), Asked(15 if rank == 1 else 0))
    votes.cast(4, torch.tensor(1.0), torch.tensor(1.0), Asked(saves=rank == 0))
    return votes.read(everything=True)


@pytest.mark.parametrize("world_size", [2, 4])
def test_one_rank_decides_for_all_and_all_know(world_size: int):
    for counted in toys.on_ranks(cast_on_ranks, world_size):
        first, second, third, fourth = counted
        assert first == Counted(1, False, False, 0, False, world_size - 1.0)
        assert (second.bad_loss, second.bad_gradient, second.signal) == (True, False, 0)
        assert math.isnan(second.loss)
        assert (third.signal, third.saves, third.bad_loss) == (15, False, False)
        assert (fourth.signal, fourth.saves) == (0, True)

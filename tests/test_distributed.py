import torch

from contrastive import distributed
from tests import toys


def exchange() -> dict[str, object]:
    rank = distributed.rank()
    x = torch.full((rank + 1, 3), float(rank + 1), requires_grad=True)  # 1, 2 and 3 rows
    counts = distributed.row_counts(len(x), x.device)
    gathered = distributed.gather_rows(x, counts)
    rows = torch.arange(6.0)[:, None] * (rank + 1)
    distributed.barrier()
    return {
        "objects": distributed.gather_objects({"rank": rank}),
        "mean": distributed.mean_over_ranks(torch.tensor([float(rank)])).item(),
        "sum": distributed.sum_over_ranks(torch.tensor([float(rank)])).item(),
        "counts": counts,
        "gathered": gathered.tolist(),
        "has_gradient": gathered.requires_grad,
        "own_rows": distributed.own_rows_of_sum(rows, counts).tolist(),
        "world_size": distributed.world_size(),
    }


def test_every_exchange_on_three_processes():
    own_rows = [[[0.0]], [[6.0], [12.0]], [[18.0], [24.0], [30.0]]]  # 1 + 2 + 3 times the row's number
    for rank, answer in enumerate(toys.on_ranks(exchange, 3)):
        assert answer["world_size"] == 3
        assert answer["objects"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert (answer["mean"], answer["sum"], answer["counts"]) == (1.0, 3.0, [1, 2, 3])
        assert answer["gathered"] == [[1.0] * 3] + [[2.0] * 3] * 2 + [[3.0] * 3] * 3
        assert not answer["has_gradient"]
        assert answer["own_rows"] == own_rows[rank]


def test_one_process_needs_no_group():
    x = torch.ones(2, 3)
    assert distributed.row_counts(2, x.device) == [2]
    assert torch.equal(distributed.gather_rows(x, [2]), x)
    assert torch.equal(distributed.own_rows_of_sum(x, [2]), x)
    assert torch.equal(distributed.sum_over_ranks(x), x)
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.mean_over_ranks(torch.tensor([2.0])).item() == 2.0
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    distributed.barrier()


def test_what_gloo_says_of_a_lost_rank_is_a_failed_exchange_and_other_errors_are_not():
    said = ["[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.2]:1"]
    for words in (*said, "Application timeout caused pair closure"):
        assert distributed.is_failed_exchange(RuntimeError(words))
    assert not distributed.is_failed_exchange(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not distributed.is_failed_exchange(ValueError("gloo/"))

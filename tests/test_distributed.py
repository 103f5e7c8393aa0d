import torch

from contrastive import distributed
from tests import toys


def exchange() -> dict[str, object]:
    rank = distributed.rank()
    x = torch.full((2, 3), float(rank + 1), requires_grad=True)
    gathered = distributed.all_gather_with_gradient(x)
    # Each rank weights the rows by its own number: the gradient of a row is the sum of these weights over ranks.
    (gathered * (rank + 1)).sum().backward()
    plain = distributed.all_gather(x)
    distributed.barrier()
    return {
        "objects": distributed.gather_objects({"rank": rank}),
        "mean": distributed.mean_over_ranks(torch.tensor([float(rank)])).item(),
        "gathered": gathered.detach().tolist(),
        "plain": plain.tolist(),
        "plain_has_gradient": plain.requires_grad,
        "gradient": x.grad.tolist(),
        "world_size": distributed.world_size(),
    }


def test_every_exchange_on_three_processes():
    for answer in toys.on_ranks(exchange, 3):
        assert answer["world_size"] == 3
        assert answer["objects"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert answer["mean"] == 1.0
        assert answer["gathered"] == answer["plain"] == [[float(r + 1)] * 3 for r in range(3) for _ in range(2)]
        assert not answer["plain_has_gradient"]
        assert answer["gradient"] == [[1.0 + 2.0 + 3.0] * 3] * 2


def test_one_process_needs_no_group():
    x = torch.ones(2, 3, requires_grad=True)
    assert distributed.all_gather_with_gradient(x) is x
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.mean_over_ranks(torch.tensor([2.0])).item() == 2.0
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    distributed.barrier()

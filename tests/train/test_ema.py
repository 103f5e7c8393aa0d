import torch
from torch import nn

from contrastive.train.ema import Ema


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def test_the_average_follows_the_weights_by_the_formula():
    model = Model()
    ema = Ema(model, 0.9)
    expected = model.first.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            model.first.weight.add_(0.1)
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.first.weight.detach()
    torch.testing.assert_close(ema.averages["first.weight"], expected)


def test_its_state_dict_is_a_whole_model_with_tied_names_and_buffers():
    model = Model()
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.first.weight.add_(1)
        model.norm.running_mean.add_(2)
    found = ema.state_dict()
    assert found.keys() == model.state_dict().keys()
    assert torch.equal(found["tied.weight"], found["first.weight"])
    assert not torch.equal(found["first.weight"], model.first.weight)
    assert torch.equal(found["norm.running_mean"], model.norm.running_mean)
    Model().load_state_dict(found)


def test_while_applied_the_model_computes_with_it_and_gets_its_own_weights_back_bit_by_bit():
    model = Model()
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.first.weight.mul_(1.7)
    own = model.first.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.first.weight, ema.averages["first.weight"])
        assert torch.equal(model.tied.weight, ema.averages["first.weight"])
    assert torch.equal(model.first.weight, own)
    ema.begin()
    assert torch.equal(ema.averages["first.weight"], own)


def test_what_is_frozen_is_the_models_own():
    model = Model()
    ema = Ema(model, 0.5)
    assert "frozen" not in ema.averages
    assert ema.state_dict()["frozen"] is not None

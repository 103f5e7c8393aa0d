import pytest
import torch
from torch.testing import assert_close

from contrastive.encoders.cnn import CNN, StandardisedConv


def small(**options):
    torch.manual_seed(0)
    model = CNN(**{"widths": (8, 16, 24), "depths": (1, 2, 1), **options})
    for name, parameter in model.named_parameters():
        if name.endswith("strength"):
            parameter.data.fill_(0.5)  # at 0, its start, the residual branches would go untested
    return model


def test_pooled_is_the_mean_of_the_tokens():
    pooled, tokens = small()(torch.randn(2, 3, 32, 32))
    assert pooled.shape == (2, 24)
    assert tokens.shape == (2, 16, 24)  # 32 pixels, halved by the stem and by two stages
    assert_close(pooled, tokens.mean(dim=1))


@pytest.mark.parametrize(("side", "stride"), [(31, 2), (33, 1), (8, 2)])
def test_any_side_will_do(side, stride):
    pooled, _ = small(stem_stride=stride)(torch.randn(1, 3, side, side))
    assert pooled.shape == (1, 24)


def test_a_row_does_not_depend_on_its_batch():
    model, image = small(), torch.randn(5, 3, 16, 16)
    pooled, tokens = model(image)
    alone = [model(image[i : i + 1]) for i in range(5)]
    assert_close(pooled, torch.cat([row[0] for row in alone]))
    assert_close(tokens, torch.cat([row[1] for row in alone]))


def test_gradients_of_half_batches_add_up_to_those_of_the_whole_in_training():
    model, image = small().train(), torch.randn(6, 3, 16, 16)
    model(image)[0].square().sum().backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for half in image.chunk(2):
        model(half)[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_every_parameter_has_a_gradient():
    model = small()
    model(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_a_standardised_filter_has_mean_zero_and_norm_gain():
    conv = StandardisedConv(4, 6, 3)
    conv.gain.data.fill_(2.0)
    response = conv(torch.ones(1, 4, 9, 9))[0, :, 4, 4]  # a constant input meets the mean of each filter
    assert_close(response, torch.zeros(6), atol=1e-4, rtol=0)
    out = conv(torch.randn(64, 4, 16, 16))[:, :, 1:-1, 1:-1]
    assert out.std().item() == pytest.approx(2.0, rel=0.05)


def test_the_signal_keeps_its_strength_through_many_blocks():
    torch.manual_seed(0)
    _, tokens = CNN(widths=(16, 32, 64), depths=(6, 6, 6))(torch.randn(16, 3, 64, 64))
    assert 0.1 < tokens.square().mean().sqrt().item() < 3  # averaging white noise costs some


def test_bfloat16_agrees_with_float32():
    model, image = small(), torch.randn(2, 3, 32, 32)
    exact = model(image)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(image)[0]
    assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("options", [{"widths": (8,)}, {"depths": (1, 0, 1)}, {"stem_stride": 0}])
def test_a_shape_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="widths"):
        small(**options)

import pytest
import torch
from torch import nn

from contrastive.encoders.lstm import LSTM

TEXT = torch.tensor([[5, 3, 2, 9, 0, 0, 0], [5, 1, 9, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 9]])
KINDS = pytest.mark.parametrize(
    "options", [{}, {"layers": 2}, {"bidirectional": True}, {"bidirectional": True, "layers": 2}]
)


def encoder(**options: object) -> LSTM:
    torch.manual_seed(0)
    return LSTM(vocab_size=10, pad_id=0, width=8, **options)


@KINDS
def test_padding_is_never_read(options: dict):
    lstm = encoder(**options)
    pooled, tokens = lstm(TEXT)
    assert pooled.shape == (4, 8)
    assert tokens.shape == (4, 7, 8)
    for row, length in enumerate((4, 3, 1, 7)):
        alone, own_tokens = lstm(TEXT[row : row + 1, :length])
        torch.testing.assert_close(pooled[row : row + 1], alone, atol=1e-6, rtol=0)
        torch.testing.assert_close(tokens[row, :length], own_tokens[0], atol=1e-6, rtol=0)


@KINDS
def test_a_row_does_not_depend_on_its_batch_mates(options: dict):
    lstm = encoder(**options)
    together = lstm(TEXT)[0]
    for row in range(len(TEXT)):
        torch.testing.assert_close(lstm(TEXT[row : row + 1])[0], together[row : row + 1], atol=1e-6, rtol=0)


def test_the_pooled_state_is_torchs_over_packed_sequences():
    lstm = encoder(bidirectional=True)
    packed = nn.utils.rnn.pack_padded_sequence(
        lstm.embedding(TEXT), torch.tensor([4, 3, 1, 7]), batch_first=True, enforce_sorted=False
    )
    reference = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
    for name, value in lstm.forwards.state_dict().items():
        reference.state_dict()[name].copy_(value)
    for name, value in lstm.backwards.state_dict().items():
        reference.state_dict()[f"{name}_reverse"].copy_(value)
    last = reference(packed)[1][0]  # [2 directions, B, 4]
    torch.testing.assert_close(lstm(TEXT)[0], torch.cat([last[0], last[1]], dim=-1), atol=1e-6, rtol=0)


def test_every_parameter_gets_a_gradient():
    lstm = encoder(bidirectional=True, layers=2)
    lstm(TEXT)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in lstm.parameters())


def test_an_odd_width_cannot_hold_two_directions():
    with pytest.raises(ValueError, match="width 7 must be even"):
        LSTM(vocab_size=10, pad_id=0, width=7, bidirectional=True)

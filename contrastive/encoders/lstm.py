"""A small recurrent text tower (Hochreiter and Schmidhuber 1997)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LSTM(nn.Module):
    """Reads the tokens left to right and pools the state at the last real one; padding is never read.

    The forward direction is causal, so what follows the last real token cannot reach it and no packing is needed: the
    batch keeps its shape and rows do not depend on one another. A bidirectional layer would read padding first, so
    the reverse direction runs over each row's own tokens, reversed in place.
    """

    reads_padding = False

    def __init__(
        self,
        vocab_size: int,
        pad_id: int,
        width: int = 256,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % 2 and bidirectional:
            raise ValueError(f"width {width} must be even to hold two directions")
        self.width, self.pad_id = width, pad_id
        # torch's unit-variance start, not CLIP's 0.02: no norm follows that would lift small inputs of the gates.
        self.embedding = nn.Embedding(vocab_size, width)
        hidden = width // 2 if bidirectional else width
        self.forwards = nn.LSTM(width, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.backwards = nn.LSTM(width, hidden, layers, batch_first=True) if bidirectional else None

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, L, width]) of token ids [B, L]; rows of padding alone pool step 0."""
        last = _last_real_position(text, self.pad_id)  # [B]
        embedded = self.embedding(text)  # [B, L, width]
        tokens, _ = self.forwards(embedded)  # [B, L, width]
        rows = torch.arange(text.shape[0], device=text.device)
        if self.backwards is None:
            return tokens[rows, last], tokens
        back, _ = self.backwards(_reverse(embedded, last))
        back = _reverse(back, last)
        return torch.cat([tokens[rows, last], back[:, 0]], dim=-1), torch.cat([tokens, back], dim=-1)


def _last_real_position(text: Tensor, pad_id: int) -> Tensor:
    positions = torch.arange(text.shape[1], device=text.device)
    return torch.where(text != pad_id, positions, 0).amax(dim=1)


def _reverse(x: Tensor, last: Tensor) -> Tensor:
    """Reverse each row's steps 0..last and leave the padding behind them where it is."""
    steps = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)  # [B, L]
    order = torch.where(steps <= last[:, None], last[:, None] - steps, steps)
    return F.embedding(
        order + torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1], x.reshape(-1, x.shape[-1])
    )

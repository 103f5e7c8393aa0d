"""Any text tower of transformers."""

from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from contrastive.errors import ModelError, why_unread


class HuggingFaceText(nn.Module):
    """The transformers model in a folder or on the hub, pooled over its real tokens.

    With `pretrained` false only the architecture is taken. `config` overrides entries of its description. Remote code
    is never run, and weights are safetensors.
    """

    reads_padding = False  # it is masked

    def __init__(
        self,
        model: str,
        pad_id: int,
        pooling: Literal["mean", "first", "last"] = "mean",
        pretrained: bool = True,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        try:
            description = AutoConfig.from_pretrained(model, trust_remote_code=False, **(config or {}))
            description = getattr(description, "text_config", description)
            if pretrained:
                options = {"config": description, "use_safetensors": True, "trust_remote_code": False}
                self.trunk = AutoModel.from_pretrained(model, **options)
            else:
                self.trunk = AutoModel.from_config(description, trust_remote_code=False)
        except (OSError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(f"{model}: cannot be loaded: {why_unread(error)}") from error
        self.pooling, self.pad_id, self.width = pooling, pad_id, int(description.hidden_size)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, L, width]) of token ids [B, L]."""
        mask = text != self.pad_id  # [B, L]
        tokens = self.trunk(input_ids=text, attention_mask=mask.long()).last_hidden_state
        if self.pooling == "first":
            return tokens[:, 0], tokens
        if self.pooling == "last":
            last = torch.where(mask, torch.arange(text.shape[1], device=text.device), 0).amax(dim=1)
            return tokens[torch.arange(text.shape[0], device=text.device), last], tokens
        weights = mask.to(tokens.dtype)[..., None]  # [B, L, 1]
        return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1), tokens

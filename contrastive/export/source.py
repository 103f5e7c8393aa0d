"""What is exported: a model as it was built, on the CPU, in float32 and evaluation mode."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive.models import forms
from contrastive.models.build import Built
from contrastive.models.checkpoint import Weights, ready
from contrastive.models.contrastive_model import OpenClipModel


@dataclass(frozen=True)
class Source:
    """A model with its preprocessing and tokenizer. `form` is what the user named it; `info` is its checkpoint's."""

    built: Built
    form: str
    info: dict[str, Any]
    identity: str

    @property
    def model_cfg(self) -> dict[str, Any] | None:
        """The open_clip description of the model, or None for two encoders of the tables."""
        return self.built.config.model_cfg or None

    @property
    def inner(self) -> Any:
        """The open_clip model inside, or None for two encoders of the tables."""
        return self.built.model.inner if isinstance(self.built.model, OpenClipModel) else None

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Named tensors: open_clip's own names for an open_clip model, else those of `DualEncoder`."""
        module = self.built.model if self.inner is None else self.inner
        return {name: value.detach() for name, value in module.state_dict().items()}

    def embed(self, pixels: Tensor | None, ids: Tensor | None) -> dict[str, Tensor]:
        """Return float32 unit vectors: `image` [N, embed_dim] of pixels, `text` [M, embed_dim] of ids, where given."""
        features = {}
        with torch.inference_mode():
            if pixels is not None:
                features["image"] = F.normalize(self.built.model.encode_image(pixels).float(), dim=-1)
            if ids is not None:
                features["text"] = F.normalize(self.built.model.encode_text(ids).float(), dim=-1)
        return features


class OneTower(nn.Module):
    """One encoder of a model, as a module of its own."""

    def __init__(self, model: nn.Module, tower: str) -> None:
        super().__init__()
        self.model, self.tower = model, tower

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors [B, embed_dim]."""
        features: Tensor = getattr(self.model, f"encode_{self.tower}")(x)
        return features


def open_source(form: str, weights: Weights = "trained") -> Source:
    """Return the model that `form` names, any that `models.forms` knows.

    Raises:
        ModelError: there is none, it is damaged, or it is of a kind that cannot be rebuilt as ours.
    """
    built, info = forms.open_built(form, weights)
    loaded = ready(built, info, "cpu")  # in evaluation mode, with a digest of all that decides its embeddings
    built.model.float().requires_grad_(False)
    return Source(built, form, info, loaded.identity)

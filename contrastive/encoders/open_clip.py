"""Towers of open_clip: one to stand beside a tower of another kind, and the text towers' way with short captions.

A model whose two towers both come from open_clip is better named whole (`model.name`, `model.model_cfg`).
"""

from typing import Any

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, _build_text_tower, _build_vision_tower
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


class OpenClipImage(nn.Module):
    """The image tower that open_clip builds from a `vision_cfg`, given as `cfg`."""

    def __init__(
        self, image_size: int, cfg: dict[str, Any], width: int | None = None, quick_gelu: bool = False
    ) -> None:
        super().__init__()
        described = CLIPVisionCfg(**{**cfg, "image_size": image_size, "output_tokens": True})
        self.width = width or described.width
        self.tower = _build_vision_tower(self.width, described, quick_gelu)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, L, W]); a tower without tokens gives its pooled output as one."""
        return _pair(self.tower(image))


class OpenClipText(nn.Module):
    """The text tower that open_clip builds from a `text_cfg`, given as `cfg`."""

    def __init__(
        self,
        cfg: dict[str, Any],
        vocab_size: int,
        context_length: int,
        pad_id: int,
        width: int | None = None,
        quick_gelu: bool = False,
    ) -> None:
        super().__init__()
        given = {"vocab_size": vocab_size, "context_length": context_length, "pad_id": pad_id, "output_tokens": True}
        described = CLIPTextCfg(**{**cfg, **given})
        self.width = width or described.width
        self.tower = _build_text_tower(self.width, described, quick_gelu)
        self.reads_padding = not is_causal(self.tower)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, L, W]) of token ids [B, L]."""
        return encode_short(self.tower, text) if is_short(self.tower, text) else _pair(self.tower(text))


def is_causal(tower: nn.Module) -> bool:
    """Whether nothing behind a caption's end token can reach what the tower pools, so that it may be cut off."""
    if not isinstance(tower, (CLIP, TextTransformer)) or tower.attn_mask is None:
        return False
    pads = getattr(tower, "use_pad_mask", False) or getattr(tower, "cls_emb", None) is not None
    return _pool_type(tower) in ("argmax", "eos") and not pads


def is_short(tower: Any, text: Tensor) -> bool:
    """Whether the captions were cut to fewer tokens than the tower's context."""
    return is_causal(tower) and text.shape[1] < tower.context_length


def encode_short(tower: Any, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return (pooled [B, E], tokens [B, n, W]) of captions [B, n] that were cut behind their end tokens.

    open_clip 3.3 adds all positions and masks all pairs whatever the length, so its own forward refuses them.
    """
    length = text.shape[1]
    x = tower.token_embedding(text).to(tower.transformer.get_cast_dtype())  # [B, n, W]
    x = x + tower.positional_embedding[:length].to(x.dtype)
    tokens = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    end = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    pooled = text_global_pool(tokens, text, _pool_type(tower), eos_token_id=end)
    projection = tower.text_projection
    if projection is not None:
        pooled = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return pooled, tokens


def _pool_type(tower: Any) -> str:
    return str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", None)))


def _pair(output: Any) -> tuple[Tensor, Tensor]:
    return output if isinstance(output, tuple) else (output, output[:, None])

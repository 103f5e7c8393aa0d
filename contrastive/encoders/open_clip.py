"""One tower of open_clip, to stand beside a tower of another kind.

A model whose two towers both come from open_clip is better named whole (`model.name`, `model.model_cfg`).
"""

from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg, _build_text_tower, _build_vision_tower
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

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, L, W]) of token ids [B, L]."""
        return _pair(self.tower(text))


def _pair(output: Any) -> tuple[Tensor, Tensor]:
    return output if isinstance(output, tuple) else (output, output[:, None])

"""A small residual convolutional network without normalisation layers (Brock et al. 2021, arXiv:2101.08692).

Batch norm would let the images of a batch see each other, so that one global batch split over two processes gave
other gradients; group norm is free of that but is memory traffic that a CPU pays for. Here the weights are
standardised instead of the activations, which costs next to nothing: a batch only ever meets convolutions.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RELU_GAIN = 1.7139588594436646  # sqrt(2 / (1 - 1/pi)): gives relu of a unit normal variance 1 again


class CNN(nn.Module):
    """Turns images into a mean feature and a map of features, one stage a width, each half the side of the one before.

    `depths` counts the residual blocks of each stage and `stem_stride` is the first convolution's step: 2 quarters the
    cost, 1 keeps fine strokes of very small images. `width` is the last of `widths`.
    """

    def __init__(
        self, widths: tuple[int, ...] = (32, 64, 128, 256), depths: tuple[int, ...] = (1, 1, 1, 1), stem_stride: int = 2
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or not widths or min(*widths, *depths, stem_stride) < 1:
            raise ValueError(f"widths {tuple(widths)} and depths {tuple(depths)}: one of each a stage, all at least 1")
        self.width = widths[-1]
        self.stem = StandardisedConv(3, widths[0], 3, stem_stride)
        self.blocks = nn.Sequential(*_blocks(widths, depths))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (pooled [B, width], tokens [B, H*W, width]) of normalised images [B, 3, S, S], H = W the last side."""
        image = image.contiguous(memory_format=torch.channels_last)  # three times as fast on a CPU in bfloat16
        features = _activate(self.blocks(self.stem(image)))  # [B, width, H, W]
        return features.mean(dim=(2, 3)), features.flatten(2).mT


def _blocks(widths: Sequence[int], depths: Sequence[int]) -> list[nn.Module]:
    blocks: list[nn.Module] = [Block(widths[0], widths[0], stride=1) for _ in range(depths[0])]
    for (before, after), depth in zip(pairwise(widths), depths[1:], strict=True):
        blocks += [Block(before if index == 0 else after, after, 2 if index == 0 else 1) for index in range(depth)]
    return blocks


class Block(nn.Module):
    """Activation, convolution, activation, convolution, beside a shortcut; starts as the shortcut alone (SkipInit).

    The residual's strength is one learned number that begins at 0 (De and Smith 2020, arXiv:2002.10444).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = StandardisedConv(inputs, outputs, 3, stride)
        self.second = StandardisedConv(outputs, outputs, 3)
        self.shortcut = StandardisedConv(inputs, outputs, 1) if stride > 1 or inputs != outputs else None
        self.stride = stride
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride]."""
        active = _activate(x)
        if self.shortcut is not None:
            x = self.shortcut(F.avg_pool2d(active, self.stride, ceil_mode=True) if self.stride > 1 else active)
        changed: Tensor = self.second(_activate(self.first(active)))
        return x + self.strength.to(x.dtype) * changed


class StandardisedConv(nn.Conv2d):
    """A convolution whose every filter has mean 0 and norm `gain`, so that unit variance in is unit variance out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.gain = nn.Parameter(torch.ones(outputs))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the standardised weight; the standardisation itself runs in the parameters' precision."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        scale = torch.rsqrt(variance * self.weight[0].numel() + 1e-4) * self.gain[:, None, None, None]
        return F.conv2d(x, (self.weight - mean) * scale, self.bias, self.stride, self.padding)


def _activate(x: Tensor) -> Tensor:
    return F.relu(x) * RELU_GAIN

"""Augmentations of a batch of images: pure functions of (image row, seed row), run on the device inside the step.

All random numbers come from `contrastive.hashing.uniform`, so a row's result depends neither on its neighbours nor on
the process it is computed in. Shapes: B batch, S side of the square image, K control points a side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive.hashing import uniform

POINTS = 4  # control points of the warp, a side


class Scribble(nn.Module):
    """Makes print look handwritten: turns, slants, bends, thickens or thins, and blurs dark ink on light paper.

    Each number of geometry is drawn uniformly from [-limit, limit]: `rotation` in radians, `shear` as a tangent,
    `scale` as a log-ratio for each axis, `shift` and `warp` in halves of the image side. `warp` moves 4 x 4 control
    points that cubic interpolation joins. `thicken` and `thin`, 0 to 1, blend towards the dilated or the eroded stroke.
    Half of the images are shrunk to a side of `resolution` to 1 of the original and enlarged again. `fade` is the
    largest loss of contrast, 0 to 1.
    """

    def __init__(
        self,
        rotation: float = 0.2,
        shear: float = 0.3,
        scale: float = 0.15,
        shift: float = 0.1,
        warp: float = 0.1,
        thicken: float = 0.8,
        thin: float = 0.5,
        resolution: float = 0.3,
        fade: float = 0.3,
    ) -> None:
        super().__init__()
        if not 0 < resolution <= 1:
            raise ValueError(f"resolution {resolution} must be above 0 and at most 1")
        self.rotation, self.shear, self.scale, self.shift, self.warp = rotation, shear, scale, shift, warp
        self.thicken, self.thin, self.resolution, self.fade = thicken, thin, resolution, fade

    @torch.no_grad()
    def forward(self, image: Tensor, seed: Tensor) -> Tensor:
        """Return the images [B, C, S, S] in 0..1, changed by their seeds int64 [B]; colour becomes grey."""
        side = image.shape[-1]
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 would round the sampling positions
            numbers = uniform(seed, 10 + 2 * POINTS**2)
            signed = 2 * numbers - 1
            ink = 1 - image.float().mean(dim=1, keepdim=True)  # [B, 1, S, S]; paper is 0, which is what padding brings
            grid = self._affine(signed[:, :6], side) + self._bend(signed[:, 10:], side)
            ink = F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            ink = self._shrink(self._stroke(ink, signed[:, 6]), numbers[:, 7], numbers[:, 8])
            ink = ink * (1 - self.fade * numbers[:, 9])[:, None, None, None]
            return (1 - ink).clamp(0, 1).expand(-1, image.shape[1], -1, -1)

    def _affine(self, signed: Tensor, side: int) -> Tensor:
        angle, shear = self.rotation * signed[:, 0], self.shear * signed[:, 1]
        wide, high = torch.exp(self.scale * signed[:, 2]), torch.exp(self.scale * signed[:, 3])
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows = [wide * cos, wide * (shear * cos - sin), self.shift * signed[:, 4]]
        rows += [high * sin, high * (shear * sin + cos), self.shift * signed[:, 5]]
        matrix = torch.stack(rows, dim=1).unflatten(1, (2, 3))  # [B, 2, 3]
        return F.affine_grid(matrix, [len(signed), 1, side, side], align_corners=False)  # [B, S, S, 2]

    def _bend(self, signed: Tensor, side: int) -> Tensor:
        control = self.warp * signed.unflatten(1, (2, POINTS, POINTS))  # [B, 2, K, K]
        smooth = _resizer(POINTS, side, signed.device)  # [S, K]
        offset: Tensor = smooth @ control @ smooth.T  # [B, 2, S, S]
        return offset.permute(0, 2, 3, 1)

    def _stroke(self, ink: Tensor, signed: Tensor) -> Tensor:
        amount = signed[:, None, None, None]
        thick = F.max_pool2d(ink, 3, stride=1, padding=1) - ink
        thin = -F.max_pool2d(-ink, 3, stride=1, padding=1) - ink
        return ink + self.thicken * amount.clamp(min=0) * thick + self.thin * (-amount).clamp(min=0) * thin

    def _shrink(self, ink: Tensor, whether: Tensor, how: Tensor) -> Tensor:
        side = ink.shape[-1]
        sizes = range(max(1, round(self.resolution * side)), side + 1)
        bank = torch.stack([_resizer(n, side, ink.device) @ _pooler(side, n, ink.device) for n in sizes])  # [N, S, S]
        index = torch.where(whether < 0.5, (how * len(bank)).long(), len(bank) - 1)  # the last one is the identity
        filters = bank[index].unsqueeze(1)  # [B, 1, S, S]; two small products an image are cheaper than two resizes
        return filters @ ink @ filters.mT


def _resizer(small: int, large: int, device: torch.device) -> Tensor:
    """Return the matrix [large, small] of cubic interpolation between pixel centres; its rows sum to 1."""
    eye = torch.eye(small, device=device)[None, None]
    return F.interpolate(eye, (large, small), mode="bicubic", align_corners=False)[0, 0]


def _pooler(large: int, small: int, device: torch.device) -> Tensor:
    """Return the matrix [small, large] that averages areas; its rows sum to 1."""
    edges = torch.linspace(0, large, small + 1, device=device)
    pixel = torch.arange(large, device=device)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return overlap.clamp(min=0) * (small / large)

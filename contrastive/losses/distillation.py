"""Learning from a frozen teacher: its softmax over the batch, and its features."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrastive import distributed
from contrastive.errors import ConfigError
from contrastive.losses.gradients import is_asked, not_a_number, with_gradients
from contrastive.losses.softmax import HIGHEST, holds
from contrastive.losses.tiles import Pairs, Tile

TEACHER = ("teacher_image_features", "teacher_text_features", "teacher_logit_scale")


class Distillation(nn.Module):
    """Match a teacher that sees the same images and captions; `logits` and `features` weigh the two ways to.

    `logits`: the divergence KL(teacher, student) of the softmax over the global batch's texts for each image and over
    its images for each text, halved (Yang et al. 2024, arXiv:2307.12732, section 3.2, contrastive relational
    distillation; open_clip's DistillClipLoss has the same gradient). Each keeps its own temperature. Exact and tiled as
    `contrastive.losses.infonce.InfoNCE` is, with one product more a tile: 12 b B E operations, and the teacher's texts
    gathered too.

    `features`: the squared distance of unit vectors, mean over samples, summed over the two towers (section 3.2,
    feature distillation). Where the teacher's space has another size, a learned linear map goes before it.
    """

    splits_batch = True

    def __init__(
        self,
        embed_dim: int,
        teacher_embed_dim: int,
        logits: float = 1.0,
        features: float = 0.0,
        tile: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        for name, weight in (("logits", logits), ("features", features)):
            if weight < 0:
                raise ValueError(f"{name}: {weight} must be at least 0")
        if not logits and not features:
            raise ValueError("logits and features are both 0; nothing would be distilled")
        self.weight = {"logits": logits, "features": features}
        self.tile = tile
        self.image_head: nn.Module = nn.Identity()
        self.text_head: nn.Module = nn.Identity()
        if features and embed_dim != teacher_embed_dim:
            self.image_head = nn.Linear(embed_dim, teacher_embed_dim, bias=False)
            self.text_head = nn.Linear(embed_dim, teacher_embed_dim, bias=False)

    @staticmethod
    def needs(options: Mapping[str, Any]) -> set[str]:  # noqa: ARG004  (the contract's signature)
        """Return what the features must hold."""
        return set(TEACHER)

    def forward(self, features: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `loss`, and its parts `logits` and `features` before their weights.

        Raises:
            ConfigError: there is no teacher.
            RunError: features are far from unit length. With any that are not finite it is NaN.
        """
        for name in TEACHER:
            if name not in features:
                raise ConfigError(f"losses: distillation needs {name}; set model.teacher")
        parts = {}
        if self.weight["logits"]:
            parts["logits"] = divergence(features, self.tile)
        if self.weight["features"]:
            parts["features"] = self._distance(features)
        loss = torch.stack([self.weight[name] * value for name, value in parts.items()]).sum()
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def _distance(self, features: Mapping[str, Tensor]) -> Tensor:
        total = features["image_features"].new_zeros(())
        count = len(features["image_features"])
        share = distributed.world_size() / sum(distributed.row_counts(count, total.device))
        for name, head in (("image_features", self.image_head), ("text_features", self.text_head)):
            found = F.normalize(head(features[name]), dim=-1)
            total = total + (found - features[f"teacher_{name}"].to(found.dtype)).square().sum()
        return share * total


def divergence(features: Mapping[str, Tensor], tile: tuple[int, int] | None = None) -> Tensor:
    """Return the mean over samples and both directions of KL(teacher, student), differentiable by the student's side.

    Raises:
        RunError: features are far from unit length. With any that are not finite it is NaN.
    """
    student = [features[name] for name in ("image_features", "text_features", "logit_scale")]
    bias = features.get("logit_bias")
    asked = [is_asked(x) for x in student]
    with torch.no_grad():
        own = Pairs(student[0], student[1], student[2], tile)
        match = _Match(own, Pairs(features[TEACHER[0]], features[TEACHER[1]], features[TEACHER[2]], tile))
        sums = match.solve()
    if sums is None:
        return not_a_number(features, [*student, bias])
    with torch.no_grad():
        loss = match.value(sums).to(own.dtype)
        if not any(asked):
            return loss
        own.want(image=asked[0] or not asked[1], text=asked[1])
        match.gradients(sums)
        gradients = [*own.gradients(), None if bias is None else torch.zeros_like(bias)]
    return with_gradients(loss, [*student, bias], gradients)


class _Sums(NamedTuple):
    """By row [3, b] and column [3, B]: exponentials of the student, of the teacher, of the teacher * difference."""

    row: Tensor
    column: Tensor


class _Match:
    """Two sweeps over the tiles of both: sums, then the difference of the two softmaxes."""

    def __init__(self, student: Pairs, teacher: Pairs) -> None:
        self.student, self.teacher = student, teacher
        self.shift = [max(0.0, float(pairs.scale) - HIGHEST) for pairs in (student, teacher)]
        self.dtype = student.dtype

    def solve(self) -> _Sums | None:
        """Return the sums, from float64 where float32 does not hold them; None where nothing does, on all ranks."""
        found = self._sums()
        found = _Sums(found.row, distributed.sum_over_ranks(found.column))
        rows, columns = self._hold(found)
        if not (rows and columns):
            self.dtype = torch.float64
            again = self._sums()
            column = found.column.double() if columns else distributed.sum_over_ranks(again.column)
            found = _Sums(again.row, column)
            if not all(self._hold(found)):
                return None
        return found

    def value(self, sums: _Sums) -> Tensor:
        """Return this rank's part of the loss; the mean over ranks is that of the whole batch."""
        own = slice(self.student.first, self.student.first + len(self.student.image))
        total = torch.zeros((), dtype=torch.float64, device=sums.row.device)
        for part in (sums.row.double(), sums.column[:, own].double()):
            kl = part[2] / part[1] - part[1].log() - self.shift[1] + part[0].log() + self.shift[0]
            total += kl.sum()
        return self.student.share * total

    def gradients(self, sums: _Sums) -> None:
        """Add every tile's student softmax minus teacher softmax, of both directions."""
        row, column = 1 / sums.row[:2], 1 / sums.column[:2]
        for tile in self.student.tiles():
            _, student, teacher = self._exponentials(tile)
            student.mul_(row[0][tile.rows][:, None] + column[0][tile.columns])
            teacher.mul_(row[1][tile.rows][:, None] + column[1][tile.columns])
            self.student.add(tile, student.sub_(teacher))

    def _hold(self, sums: _Sums) -> tuple[bool, bool]:
        rows, columns = holds([sums.row[:2], sums.column[:2]], len(self.student.text))
        return rows, columns

    def _sums(self) -> _Sums:
        sizes = len(self.student.image), len(self.student.text)
        row, column = (torch.zeros(3, n, dtype=self.dtype, device=self.student.image.device) for n in sizes)
        for tile in self.student.tiles():
            difference, student, teacher = self._exponentials(tile)
            for i, value in enumerate((student, teacher, difference.mul_(teacher))):
                row[i, tile.rows] += value.sum(dim=1)
                column[i, tile.columns] += value.sum(dim=0)
        return _Sums(row, column)

    def _exponentials(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        """Return a tile's teacher score minus student score, and the exponentials of both."""
        student, teacher = (pairs.scores(tile).to(self.dtype) for pairs in (self.student, self.teacher))
        difference = teacher - student
        return difference, student.sub_(self.shift[0]).exp_(), teacher.sub_(self.shift[1]).exp_()

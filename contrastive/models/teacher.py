"""A frozen model to learn from: its features of the student's pixels and captions, without a gradient."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from open_clip.factory import parse_model_name
from torch import Tensor, nn

from contrastive.errors import ConfigError, ModelError
from contrastive.models.build import Built, build, check_name
from contrastive.models.checkpoint import find, restore
from contrastive.registry import convert, suggest
from contrastive.settings import ModelConfig


@dataclass(frozen=True)
class TeacherSpec:
    """What `model.teacher` names: a checkpoint of ours, or an open_clip model with its weights."""

    checkpoint: str | None = None
    name: str | None = None
    pretrained: str | None = None

    def __str__(self) -> str:
        return self.checkpoint or f"{self.name}{f' ({self.pretrained})' if self.pretrained else ''}"


class Teacher(nn.Module):
    """A model that is never trained: no gradient, no dropout, and running statistics that stand still.

    `source` says where it came from.
    """

    def __init__(self, built: Built, source: str) -> None:
        super().__init__()
        self.model, self.preprocess, self.tokenizer = built.model, built.preprocess, built.tokenizer
        self.source = source
        self.embed_dim = built.model.embed_dim
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  (the signature is torch's)
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def features(self, images: Iterable[Tensor], texts: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return `teacher_image_features`, `teacher_text_features` [b, E_t], `teacher_logit_scale` [1] in log space.

        `images` are the pieces of a batch, float [n, 3, H, W] in 0..1, made when their turn comes; `texts` the pieces
        of its token ids [n, L]. What comes out has the dtype of the weights, under autocast too.
        """
        scale = self.model.logit_scale.detach().reshape(1)
        return {
            "teacher_image_features": torch.cat([self._image_features(image) for image in images]).to(scale.dtype),
            "teacher_text_features": torch.cat([self.model.encode_text(text) for text in texts]).to(scale.dtype),
            "teacher_logit_scale": scale,
        }

    def _image_features(self, image: Tensor) -> Tensor:
        size = (self.preprocess.size, self.preprocess.size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode=self.preprocess.interpolation, antialias=True)
            image = image.clamp(0, 1)  # as encoded pixels are: bicubic weights reach beyond the range
        image = self.preprocess.normalise(image).to(self.model.logit_scale.dtype)
        return self.model.encode_image(image)


def check(config: ModelConfig) -> None:
    """Refuse a `model.teacher` that cannot be loaded, as far as can be told before anything is downloaded.

    Raises:
        ConfigError: an unknown key or model, none or both of `checkpoint` and `name`, or random weights.
        ModelError: there is no such checkpoint.
    """
    if not config.teacher:
        return
    spec = _spec(config)
    if (spec.checkpoint is None) == (spec.name is None):
        rule = "give one of checkpoint (a run or one of its checkpoints) and name (an open_clip model)"
        raise ConfigError(f"model.teacher: {rule}; {'none is' if spec.name is None else 'both are'} set")
    if spec.name is not None:
        _check_name(spec.name, spec.pretrained)
    elif spec.pretrained is not None:
        raise ConfigError("model.teacher.pretrained: a checkpoint brings its own weights; remove it")
    else:
        _find(str(spec.checkpoint))


def load(config: ModelConfig) -> Teacher | None:
    """Return the teacher of a checked `model` section, or None where it names none; torch's random state is kept.

    Raises:
        ModelError: its weights or its tokenizer cannot be had.
    """
    if not config.teacher:
        return None
    spec = _spec(config)
    with torch.random.fork_rng(devices=[]):  # else the heads of the losses would depend on the size of the teacher
        if spec.checkpoint is not None:
            folder = _find(spec.checkpoint)
            try:
                return Teacher(restore(folder)[0], str(folder))
            except ModelError as error:
                raise ModelError(f"model.teacher.checkpoint: {error}") from error
        try:
            return Teacher(build(ModelConfig(name=spec.name, pretrained=spec.pretrained)), str(spec))
        except ModelError as error:
            raise ModelError(f"model.teacher.name: {str(error).removeprefix('model.name: ')}") from error


def _spec(config: ModelConfig) -> TeacherSpec:
    known = {f.name: f.type for f in dataclasses.fields(TeacherSpec)}
    for key, value in config.teacher.items():
        if key not in known:
            raise ConfigError(f"model.teacher.{key}: unknown key{suggest(key, known)}")
        convert(value, known[key], f"model.teacher.{key}")
    return TeacherSpec(**config.teacher)


def _check_name(name: str, pretrained: str | None) -> None:
    check_name(name, "model.teacher.name")
    schema, identifier = parse_model_name(name)
    if schema is None and pretrained is None:
        raise ConfigError(f"model.teacher: {name} has random weights; name its pretrained tag")
    if schema is not None and pretrained is not None:
        raise ConfigError(f"model.teacher.pretrained: {name} brings its own weights; remove it")
    if schema == "local-dir" and not (Path(identifier) / "open_clip_config.json").is_file():
        rule = "holds no open_clip_config.json; give the folder of a saved open_clip model"
        raise ConfigError(f"model.teacher.name: {identifier} {rule}")


def _find(path: str) -> Path:
    try:
        return find(path)
    except ModelError as error:
        raise ModelError(f"model.teacher.checkpoint: {error}") from error

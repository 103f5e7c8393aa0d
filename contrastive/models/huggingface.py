"""Whole image-text models of transformers, behind our names: weights, pixels and token ids are theirs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from contrastive.errors import ModelError, why_unread
from contrastive.modalities.decode import as_rgb
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.models.quantization import KEY, check

# Whether the text tower must be told what is padding. CLIP's looks only backwards from the end token, whose id may be
# that of the padding; SigLIP's reads its padding, as it did in training.
MASKED = {"clip": False, "metaclip_2": False, "siglip": False, "chinese_clip": True, "altclip": True}
DUAL = "vision-text-dual-encoder"  # two towers of any kind
CAUSAL = ("clip_text_model",)  # its text towers that need no mask, as CLIP's
SHIFTED = ("altclip", "roberta", "xlm-roberta", "camembert", "mpnet")  # number positions behind the padding's
LOGITS = ("logit_scale", "logit_bias")
ADAPTER = "adapter_config.json"


class HuggingFaceModel(ContrastiveModel):
    """A transformers model with get_image_features and get_text_features. `pad_id` None: nothing is masked."""

    def __init__(self, inner: Any, pad_id: int | None) -> None:
        super().__init__()
        self.inner, self.pad_id = inner, pad_id
        self.embed_dim = int(getattr(inner.config, "projection_dim", None) or inner.config.vision_config.hidden_size)

    @property
    def logit_scale(self) -> Tensor:  # type: ignore[override]
        """The inner model's, [1], in log space."""
        return self.inner.logit_scale.reshape(1)  # type: ignore[no-any-return]

    @property
    def logit_bias(self) -> nn.Parameter | None:  # type: ignore[override]
        """The inner model's, [1], or None."""
        return getattr(self.inner, "logit_bias", None)

    def encode_image(self, image: Tensor) -> Tensor:
        """Return image_features [B, embed_dim], L2-normalised, of normalised images [B, 3, H, W]."""
        return F.normalize(_pooled(self.inner.get_image_features(pixel_values=image)), dim=-1)

    def encode_text(self, text: Tensor) -> Tensor:
        """Return text_features [B, embed_dim], L2-normalised, of token ids [B, L]."""
        mask = None if self.pad_id is None else (text != self.pad_id).long()
        return F.normalize(_pooled(self.inner.get_text_features(input_ids=text, attention_mask=mask)), dim=-1)

    def towers(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each encoder and its projection."""
        named = [(name, one) for name, one in self.inner.named_parameters() if name not in LOGITS]
        image = [one for name, one in named if name.startswith("vis")]  # vision_model, visual_projection
        return {"image": image, "text": [one for name, one in named if not name.startswith("vis")]}


class HuggingFaceTokenizer:
    """Texts to token ids, as the model's own tokenizer makes them."""

    def __init__(self, inner: Any, context_length: int, padding: str) -> None:
        self.inner, self.context_length, self.padding = inner, context_length, padding

    def __call__(self, texts: list[str]) -> Tensor:
        """Return int64 [B, L], L at most `context_length`; longer texts are cut, and end with the end token."""
        rule = {"padding": self.padding, "truncation": True, "max_length": self.context_length}
        ids: Tensor = self.inner(list(texts), return_tensors="pt", **rule)["input_ids"]
        return ids


def load(source: str) -> tuple[HuggingFaceModel, Callable[[Image.Image], Tensor], HuggingFaceTokenizer, Any]:
    """Return model, transform, tokenizer and image processor of a folder of transformers, or of a hub id.

    Only safetensors are read, and code that comes with a model is never run.

    Raises:
        ModelError: there is none, it is of a kind that has no shared space, or its weights are not all there.
    """
    given: dict[str, Any] = {"trust_remote_code": False}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, **given)
            if config.model_type not in (*MASKED, DUAL):
                known = ", ".join((*MASKED, DUAL))
                raise ModelError(f"{source}: is of type {config.model_type}; what can be read: {known}")
            _require_plain(source, config)
            options = {"config": config, "dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            inner, report = transformers.AutoModel.from_pretrained(source, **options, **given)
            processor = transformers.AutoImageProcessor.from_pretrained(source, **given)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **given)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        AssertionError,
        SafetensorError,
    ) as error:
        raise ModelError(f"{source}: cannot be loaded: {why_unread(error)}") from error
    absent = sorted(report["missing_keys"]) + sorted(str(found[0]) for found in report["mismatched_keys"])
    if absent:  # transformers leaves them random
        raise ModelError(f"{source}: its weights do not fit its config.json, the first of {len(absent)} is {absent[0]}")
    masked = MASKED.get(config.model_type, config.text_config.model_type not in CAUSAL)
    padding = "longest" if masked else "max_length"  # masked padding changes nothing but the time
    ids = HuggingFaceTokenizer(tokenizer, _context_length(config, tokenizer), padding)
    model = HuggingFaceModel(inner, int(tokenizer.pad_token_id) if masked else None)
    return model, partial(_pixels, processor), ids, processor


def _require_plain(source: str, config: Any) -> None:
    """Refuse a description that would have transformers fetch code, or other weights than the folder's.

    Raises:
        ModelError: it does.
    """
    for part in (config, config.text_config, config.vision_config):
        kernel = str(getattr(part, "_attn_implementation", None))
        if "/" in kernel:  # of the hub: compiled code
            raise ModelError(f"{source}: config.json: attention {kernel!r} is code from elsewhere; remove it")
    if quantised := getattr(config, KEY, None):
        check(quantised, source)
    if Path(source, ADAPTER).is_file():
        raise ModelError(f"{source}: {ADAPTER} names the weights of another model; merge it, and save the whole model")


def _pixels(processor: Any, image: Image.Image) -> Tensor:
    pixels: Tensor = processor(images=as_rgb(image), return_tensors="pt")["pixel_values"][0]
    return pixels


def _context_length(config: Any, tokenizer: Any) -> int:
    """Return how many tokens both the positions of the text tower and the tokenizer allow."""
    text = config.text_config
    used = text.pad_token_id + 1 if {config.model_type, text.model_type} & set(SHIFTED) else 0
    return int(min(tokenizer.model_max_length, text.max_position_embeddings - used))


def _pooled(output: Any) -> Tensor:
    """Return the features: transformers gives them alone or, since 5.0, inside its output."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the progress bars and reports of transformers, and what torchao makes torch say when it is imported.

    What matters in them is raised.
    """
    said, drawn = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    trees = logging.getLogger("torch.utils._pytree")
    level = trees.level
    trees.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        trees.setLevel(level)
        transformers.logging.set_verbosity(said)
        if drawn:
            transformers.logging.enable_progress_bar()

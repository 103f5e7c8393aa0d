"""Small random models of every kind, and what an export of one is."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Fast
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast

from contrastive.errors import ModelError
from contrastive.export.exporter import Exporter, Written
from contrastive.export.folder import writing
from contrastive.export.parity import Claim, Parity, verify, verify_all
from contrastive.export.probe import Probe, built_in_probe
from contrastive.export.source import Source
from contrastive.models.build import build
from contrastive.models.checkpoint import ready
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.registry import EXPORTERS
from contrastive.registry import build as build_part
from contrastive.settings import ModelConfig
from tests.modalities.test_text import word_level  # noqa: F401  (writes a tokenizer)

FOLDER = "FOLDER"  # in a `model` section: the place of the files that the toy needs
BYTES = 259  # token ids of `byte_tokenizer`
VIT = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def cfg(vision: dict[str, Any], text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {**TEXT, **(text or {})}, **more}


SIGLIP = {
    "timm_model_name": f"local-dir:{FOLDER}/timm",
    "timm_model_pretrained": False,
    "timm_pool": "map",
    "timm_proj": "none",
    "image_size": 32,
}
SIGLIP_TEXT = {
    "context_length": 16,
    "vocab_size": BYTES,
    "hf_tokenizer_name": f"{FOLDER}/tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 48,
    "heads": 3,
    "mlp_ratio": 2.7,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}
CONVNEXT = {
    "timm_model_name": "convnext_atto",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "linear",
    "image_size": 64,
}
BERT = {
    "hf_model_name": f"{FOLDER}/bert",
    "hf_model_pretrained": False,
    "hf_tokenizer_name": f"{FOLDER}/tokenizer",
    "context_length": 24,
}


def siglip(**more: Any) -> dict[str, Any]:
    whole = cfg(SIGLIP, {**SIGLIP_TEXT, **more}, custom_text=True)
    return {"model_cfg": {**whole, "embed_dim": 48, "init_logit_bias": -10.0}, "preprocess": {"resize_mode": "squash"}}


# Each is a `model` section; those that name FOLDER need the files that `write_files` puts there.
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"model_cfg": cfg(VIT)},
    "vit_quick_gelu": {"model_cfg": cfg(VIT, quick_gelu=True)},
    "vit_wide": {"model_cfg": cfg({**VIT, "image_size": 48, "patch_size": 16, "width": 64, "head_width": 32})},
    "vit_short_text": {"model_cfg": cfg(VIT, {"context_length": 20, "width": 48, "heads": 3})},
    "vit_custom_text": {"model_cfg": cfg(VIT, custom_text=True)},
    "vit_layer_scale": {"model_cfg": cfg({**VIT, "ls_init_value": 0.1})},
    "vit_attentional_pool": {"model_cfg": cfg({**VIT, "attentional_pool": True, "attn_pooler_heads": 4})},
    "vit_bias": {"model_cfg": cfg(VIT), "init_logit_bias": -10.0},
    "resnet": {"model_cfg": cfg({"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None})},
    "convnext": {
        "model_cfg": cfg(CONVNEXT, custom_text=True),
        "preprocess": {"resize_mode": "squash", "interpolation": "bilinear"},
    },
    "siglip": siglip(),
    "siglip2": siglip(act_kwargs={"approximate": "tanh"}),
    "hf_text": {"model_cfg": cfg(VIT, {**BERT, "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"})},
    "timm_hf_text": {"model_cfg": cfg(CONVNEXT, {**BERT, "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"})},
    "timm_vit": {
        "model_cfg": cfg(
            {
                "timm_model_name": "test_vit",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 160,
            }
        )
    },
    "own_towers": {
        "image": {"name": "cnn", "widths": [8, 16], "depths": [1, 1]},
        "text": {"name": "lstm", "width": 24},
        "embed_dim": 24,
        "image_size": 32,
    },
}


# Two encoders of ours, which no library holds as a whole.
ENCODERS: dict[str, dict[str, Any]] = {
    "own_towers": MODELS["own_towers"],
    "dual_timm_hf": {
        "image": {"name": "timm", "model": "convnext_atto"},
        "text": {"name": "huggingface", "model": f"{FOLDER}/bert", "pretrained": False},
        "tokenizer": {"name": f"{FOLDER}/tokenizer", "context_length": 24},
        "embed_dim": 24,
        "image_size": 64,
    },
}


def model_config(name: str, folder: Path) -> ModelConfig:
    """Return the `model` section called `name`; `folder` is a place for the files that some need."""
    found = {**MODELS, **ENCODERS}[name]
    text = json.dumps(found)
    if FOLDER not in text:
        return ModelConfig(**found)
    write_files(folder)
    return ModelConfig(**json.loads(text.replace(FOLDER, str(folder))))


def write_files(folder: Path) -> None:
    """Write a tokenizer, a text tower of transformers and a ViT of timm with attention pooling, without weights."""
    byte_tokenizer(folder / "tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertConfig(vocab_size=BYTES, max_position_embeddings=40, pad_token_id=0, **sizes).save_pretrained(folder / "bert")
    shape = {"embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2.7, "img_size": 32, "patch_size": 8}
    tower = {"architecture": "vit_base_patch16_siglip_224", "num_features": 48, "model_args": shape}
    (folder / "timm").mkdir(parents=True)
    described = {**tower, "pretrained_cfg": {"input_size": [3, 32, 32], "fixed_input_size": True}}
    (folder / "timm" / "config.json").write_text(json.dumps(described))


def byte_tokenizer(folder: Path) -> None:
    """Write a tokenizer that knows any text: lower case, bytes, an end token."""
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {
        token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    inner = Fast(models.BPE(vocabulary, []))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **named).save_pretrained(folder)


def source(name: str, folder: Path, seed: int = 0) -> Source:
    """Return a random model in which no bias is 0, no norm weight 1, and no two tensors are alike."""
    torch.manual_seed(seed)
    built = build(model_config(name, folder))
    perturb(built.model)
    loaded = ready(built, {}, "cpu")
    built.model.requires_grad_(False)
    return Source(built, name, {}, loaded.identity)


def perturb(model: ContrastiveModel) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = {id(value) for value in model.logit_parameters().values()}
    with torch.no_grad():
        tensors: list[Tensor] = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
        for tensor in tensors:
            if id(tensor) not in logits and tensor.isfinite().all():  # causal masks are buffers with -inf
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(0.1 * noise.abs() if tensor.ndim == 1 else 0.02 * noise)  # running variances stay positive


def exporter(name: str, **options: Any) -> Exporter:
    found: Exporter = build_part(EXPORTERS, {"name": name, **options}, "--to")
    return found


@cache
def small_probe() -> Probe:
    """Return a few images and captions: the built-in probe is larger than small models need."""
    whole = built_in_probe()
    return Probe(whole.images[:8], whole.texts, whole.calibration_images[:8], whole.calibration_texts[:16])


def export(found: Source, name: str, out: Path, **options: Any) -> tuple[Written, Parity]:
    """Write and verify an export as the command does, without a card; nothing is left where it fails."""
    one, probe = exporter(name, **options), small_probe()
    one.check(found)
    with writing(out) as scratch:
        written = one.write(found, scratch, probe)
        return written, verify(Claim(found, one, written, scratch, probe))


@dataclass(frozen=True)
class Exported:
    """An export of a toy, in `folder`, with what came of its proof."""

    source: Source
    folder: Path
    written: Written
    outcome: Parity | ModelError

    @property
    def parity(self) -> Parity:
        if isinstance(self.outcome, ModelError):
            raise self.outcome
        return self.outcome


def export_all(names: Iterable[str], form: str, folder: Path, **options: Any) -> dict[str, Exported]:
    """Export toys and read them all in one fresh process, which takes seconds to start."""
    claims = {}
    for name in names:
        (folder / "files" / name).mkdir(parents=True)
        (folder / name).mkdir()
        one, found, probe = exporter(form, **options), source(name, folder / "files" / name), small_probe()
        one.check(found)
        claims[name] = Claim(found, one, one.write(found, folder / name, probe), folder / name, probe)
    outcomes = dict(zip(claims, verify_all(list(claims.values())), strict=True))
    return {name: Exported(one.source, one.folder, one.written, outcomes[name]) for name, one in claims.items()}

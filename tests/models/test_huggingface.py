import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from contrastive.errors import ModelError
from contrastive.models.huggingface import load
from tests import toys

TEXTS = ["a cat", "two dogs in the snow", "cat"]
WORDS = ["<pad>", "<unk>", "a", "cat", "two", "dogs", "in", "the", "snow", "<start>", "<end>"]
PAD, START, END = 0, WORDS.index("<start>"), WORDS.index("<end>")
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 12, "bos_token_id": START, "eos_token_id": END}
KINDS = {
    "clip": transformers.CLIPModel,
    "metaclip_2": transformers.MetaClip2Model,
    "siglip": transformers.SiglipModel,
    "chinese_clip": transformers.ChineseCLIPModel,
    "altclip": transformers.AltCLIPModel,
    "bert": transformers.VisionTextDualEncoderModel,
    "roberta": transformers.VisionTextDualEncoderModel,
}


def tokenizer(pad: str) -> transformers.PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", START), ("<end>", END)]
    )
    special = {"unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>", "pad_token": pad}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def write(folder: Path, kind: str = "clip") -> Path:
    """Write a random model of transformers with its processor and tokenizer, as save_pretrained leaves them."""
    torch.manual_seed(3)
    model_class = KINDS[kind]
    text: dict[str, Any] = {**TEXT, "pad_token_id": PAD}
    if kind == "altclip":
        text |= {"project_dim": 32, "max_position_embeddings": 12 + PAD + 1}
    vision: dict[str, Any] = dict(VISION)
    if kind in ("bert", "roberta"):  # the text tower of a dual encoder
        text |= {"model_type": kind, "max_position_embeddings": 12 + (PAD + 1 if kind == "roberta" else 0)}
        vision["model_type"] = "vit"
    own = {} if kind == "siglip" else {"projection_dim": 16}
    model = model_class(model_class.config_class(text_config=text, vision_config=vision, **own)).eval()
    for parameter in model.parameters():  # else the last layers start so small that all features are alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if kind == "siglip":
        transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        processor.save_pretrained(folder)
    tokenizer("<end>" if kind == "clip" else "<pad>").save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 41, 57, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def by_transformers(folder: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Return the embeddings of the whole model's own forward pass."""
    model = KINDS[kind].from_pretrained(folder).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")
    rule = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {"padding": True}
    texts = dict(transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, return_tensors="pt", **rule))
    if kind == "siglip":  # its processor gives no mask: it reads its padding
        del texts["attention_mask"]
    texts.pop("token_type_ids", None)
    with torch.no_grad():
        found = model(pixel_values=images["pixel_values"], **texts)
    return found.image_embeds, found.text_embeds


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_transformers_forward(tmp_path: Path, kind: str):
    model, transform, ids, _ = load(str(write(tmp_path, kind)))
    image_features, text_features = by_transformers(tmp_path, kind)
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([transform(picture) for picture in pictures()]))
        texts = model.encode_text(ids(TEXTS))
        alone = torch.cat([model.encode_text(ids([text])) for text in TEXTS])
    torch.testing.assert_close(images, image_features, rtol=0, atol=1e-6)
    torch.testing.assert_close(texts, text_features, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone, text_features, rtol=0, atol=1e-6)
    assert (texts[0] - texts[1]).norm() > 1e-2
    assert model.embed_dim == images.shape[1] == texts.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_cut_to_what_the_tower_has_places_for(tmp_path: Path, kind: str):
    model, _, ids, _ = load(str(write(tmp_path, kind)))
    long = ids(["cat " * 40])
    assert (long.shape, long[0, -1].item()) == ((1, 12), END)
    with torch.no_grad():
        assert model.encode_text(long).isfinite().all()


def test_scale_and_bias_are_the_models_own(tmp_path: Path):
    model = load(str(write(tmp_path / "siglip", "siglip")))[0]
    assert model.logit_bias is not None
    assert model.logit_scale.shape == model.logit_bias.shape == (1,)
    torch.testing.assert_close(model.logit_scale[0], model.inner.logit_scale[0])
    plain = load(str(write(tmp_path / "clip")))[0]
    assert (plain.logit_scale.shape, plain.logit_bias) == ((1,), None)


def test_every_parameter_is_of_one_tower_or_of_the_logits(tmp_path: Path):
    model = load(str(write(tmp_path)))[0]
    towers = model.towers()
    ids = [id(one) for side in ("image", "text") for one in towers[side]]
    assert len(ids) == len(set(ids)) == len(list(model.inner.parameters())) - 1
    assert id(model.inner.visual_projection.weight) in {id(one) for one in towers["image"]}


def test_a_picture_of_any_mode_is_read(tmp_path: Path):
    transform = load(str(write(tmp_path)))[1]
    grey = Image.fromarray(toys.image(1, 40)).convert("L")
    assert torch.equal(transform(grey), transform(grey.convert("RGB")))


def test_weights_that_are_not_all_there_are_refused_not_random(tmp_path: Path):
    write(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    described["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(
        ModelError, match=r"do not fit its config.json, the first of \d+ is text_model.encoder.layers.2"
    ):
        load(str(tmp_path))


def test_a_model_without_a_shared_space_is_refused(tmp_path: Path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is of type bert; what can be read: clip, "):
        load(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*safetensors") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_voice_of_transformers_is_left_as_it_was(tmp_path: Path):
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    load(str(write(tmp_path)))
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before

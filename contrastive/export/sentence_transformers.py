"""A folder that `SentenceTransformer(FOLDER)` loads offline, without remote code: images and texts to unit vectors.

What is one model of transformers is one module here. Where only the towers are, each is a route of a `Router`, with its
pooling and projection as modules of sentence-transformers: so it holds text towers that transformers' dual encoder
cannot pool. https://sbert.net/docs/package_reference/base/modules.html
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
import transformers
from torch import nn

from contrastive.encoders.huggingface import HuggingFaceText
from contrastive.errors import ModelError
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.export.tokenizer_files import tokenizer_refusal, write_tokenizer
from contrastive.export.transformers import INSTEAD, Transformers
from contrastive.export.transformers_files import image_processor, preprocess_notes, preprocess_refusal
from contrastive.models.build import Built
from contrastive.models.huggingface import quiet
from contrastive.models.mapping import dual, kind_of
from contrastive.models.mapping.tensors import to_theirs
from contrastive.models.mapping.towers import Part, image_part, text_part

CONFIG = "sentence_bert_config.json"
EXACT = {"backend": "pil"}  # of the image processor; written into the folder, so that nobody has to ask for it
POOLINGS = {"mean": "mean", "first": "cls", "last": "lasttoken"}  # of our encoder
POOLERS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls"}  # of open_clip's
PIXELS = "Images are prepared with Pillow, as in training: FOLDER/sentence_bert_config.json says so."
NO_SCALE = "The temperature (logit_scale) is not in it: sentence-transformers compares by cosine."
Layers = list[tuple[str, str]]


class SentenceTransformers:
    """A folder for `SentenceTransformer`."""

    requires: ClassVar[Mapping[str, str]] = {"sentence_transformers": "sentence-transformers>=6"}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance()
    reader = "sentence_transformers"

    def check(self, source: Source) -> None:
        """Refuse what can be neither one model of transformers nor two towers of it.

        Raises:
            ModelError: naming the key.
        """
        built = source.built
        refusal = _refusal(built) or preprocess_refusal(built.preprocess) or tokenizer_refusal(built.tokenizer)
        if refusal is not None:
            instead = INSTEAD if source.model_cfg else INSTEAD.replace("open_clip, ", "")
            raise ModelError(f"{refusal}; {instead}")

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:
        """Write the modules."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Normalize

        is_whole = _whole_refusal(source.built) is None
        with TemporaryDirectory() as name, quiet():
            first, layers = _whole(source, Path(name), probe) if is_whole else _routes(source, Path(name))
            modules = [first, Normalize()]
            model = SentenceTransformer(modules=modules, similarity_fn_name="cosine", device="cpu")
            model.save_pretrained(str(folder), create_model_card=False)  # the card is another's to write
        for path in folder.rglob(CONFIG):
            content = json.loads(path.read_text(encoding="utf-8"))
            if "image" in content["modality_config"]:
                path.write_text(json.dumps({**content, "processor_kwargs": EXACT}, indent=2) + "\n", encoding="utf-8")
        notes = [note for note in preprocess_notes(source.built.preprocess) if "backend=" not in note]
        return Written(layers, [PIXELS, *notes, *([] if is_whole else [NO_SCALE])])

    def loading(self, folder: str) -> str:
        """Return how sentence-transformers loads it."""
        return f"""from sentence_transformers import SentenceTransformer
model = SentenceTransformer("{folder}")
image_features = model.encode([image], convert_to_tensor=True)
text_features = model.encode(["a photo of a cat"], convert_to_tensor=True)"""


def _refusal(built: Built) -> str | None:
    whole = _whole_refusal(built)
    if whole is None or _text_route(built) is None:
        return whole
    return dual.image_refusal(built)


def _whole_refusal(built: Built) -> str | None:
    """Return what stands in the way of one model of transformers."""
    try:
        kind_of(built)
    except ModelError as error:
        return str(error)
    return None


def _whole(source: Source, place: Path, probe: Probe) -> tuple[Any, dict[Tower, Layers]]:
    from sentence_transformers.base.modules import Transformer

    written = Transformers().write(source, place, probe)
    is_read_whole = kind_of(source.built).MODEL_TYPE == "siglip"  # its text tower reads its padding, all of it
    options = {"text": {"padding": "max_length", "return_attention_mask": False}} if is_read_whole else None
    module = Transformer(str(place), processor_kwargs=dict(EXACT), processing_kwargs=options)
    layers = {tower: [(a, f"0.model.{b}") for a, b in pairs] for tower, pairs in written.layers.items()}
    return module, layers


def _routes(source: Source, place: Path) -> tuple[Any, dict[Tower, Layers]]:
    """Return a router between the towers."""
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    built = source.built
    image, text, pooling, projection = image_part(built), text_part(built), *(_text_route(built) or ("", []))
    _write_tower(place / "image", built, image, "vision_model.")
    image_processor(built.preprocess).save_pretrained(place / "image")
    _write_tower(place / "text", built, text, "text_model.")
    write_tokenizer(built.tokenizer, place / "text")
    pooled = {"image": {"method": "forward", "method_output_name": "pooler_output"}}
    options = {"processor_kwargs": dict(EXACT), "modality_config": pooled, "module_output_name": "sentence_embedding"}
    tower = Transformer(str(place / "text"))
    routes = {
        "image": [Transformer(str(place / "image"), **options), *_dense(_image_projection(built))],
        "text": [tower, Pooling(text.config()["hidden_size"], pooling_mode=pooling), *_dense(projection)],
    }
    ways: Any = {(None, name): name for name in routes}
    layers: dict[Tower, Layers] = {"image": _named(image, "image"), "text": _named(text, "text")}
    return Router(sub_modules=routes, route_mappings=ways), layers


def _named(part: Part, route: str) -> Layers:
    inside = {"image": "vision_model.", "text": "text_model."}[route]
    return [(a, f"0.sub_modules.{route}.0.model.{b[len(inside) :]}") for a, b in part.layers if b.startswith(inside)]


def _write_tower(place: Path, built: Built, part: Part, prefix: str) -> None:
    """Write a tower of transformers without its projection."""
    described = dict(part.config())
    config = transformers.AutoConfig.for_model(described.pop("model_type"), **described)
    with torch.random.fork_rng(devices=[]):
        tower = transformers.AutoModel.from_config(config)
    pairs = [pair for pair in part.pairs if pair.their_names[0].startswith(prefix)]
    module: Any = built.model.inner if built.config.model_cfg else built.model
    state = module.state_dict()
    weights = to_theirs(pairs, {name: state[name].detach() for pair in pairs for name in pair.our_names})
    whole = {name: torch.zeros_like(value) for name, value in tower.state_dict().items() if name.startswith("pooler.")}
    whole.update({name.removeprefix(prefix): value for name, value in weights.items()})
    tower.load_state_dict(whole, strict=True)  # a pooler that ours has not is not read: zeros, not random numbers
    tower.save_pretrained(place, safe_serialization=True)


def _text_route(built: Built) -> tuple[str, Sequence[nn.Module]] | None:
    """Return how a text tower of transformers is pooled, and the layers of its projection; None for other towers."""
    model: Any = built.model
    if not built.config.model_cfg:
        if not isinstance(model.text, HuggingFaceText) or built.tokenizer.spec.name is None:
            return None
        return POOLINGS[model.text.pooling], [model.text_projection]
    text = built.config.model_cfg["text_cfg"]
    pooling = POOLERS.get(text.get("hf_pooler_type", "mean_pooler"))
    if not text.get("hf_model_name") or pooling is None:
        return None
    projection = model.inner.text.proj
    return pooling, [] if isinstance(projection, nn.Identity) else list(getattr(projection, "children", list)()) or [
        projection
    ]


def _image_projection(built: Built) -> Sequence[nn.Module]:
    model: Any = built.model
    if not built.config.model_cfg:
        return [model.image_projection]
    visual = model.inner.visual
    if not hasattr(visual, "head"):
        width, embed_dim = visual.proj.shape
        linear = nn.Linear(width, embed_dim, bias=False)
        linear.weight = nn.Parameter(visual.proj.detach().T.contiguous())
        return [linear]
    return [visual.head.proj] if hasattr(visual.head, "proj") else []


def _dense(layers: Sequence[nn.Module]) -> list[Any]:
    """Return linear layers, and the activations behind them, as modules of sentence-transformers."""
    from sentence_transformers.sentence_transformer.modules import Dense

    found = []
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            following = layers[number + 1] if number + 1 < len(layers) else None
            act = None if following is None or isinstance(following, nn.Linear) else following
            dense = Dense(layer.in_features, layer.out_features, bias=False, activation_function=act)
            dense.linear.weight = nn.Parameter(layer.weight.detach().clone())
            found.append(dense)
    return found

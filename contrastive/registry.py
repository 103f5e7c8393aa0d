"""Parts named in static tables, imported only when a run names them.

A part's spec is a mapping `{name: infonce, **options}`: `name` is a key of the table, or `"my_package.module:Class"`
from anywhere; the options are checked against the constructor's signature, which is their only schema. Adding a part
is one file and one line here; from outside the package it is no line at all.
"""

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union

from contrastive.errors import ConfigError

IMAGE_ENCODERS = {
    "cnn": "contrastive.encoders.cnn:CNN",
    "open_clip": "contrastive.encoders.open_clip:OpenClipImage",
    "timm": "contrastive.encoders.timm:TimmImage",
}
TEXT_ENCODERS = {
    "huggingface": "contrastive.encoders.huggingface:HuggingFaceText",
    "lstm": "contrastive.encoders.lstm:LSTM",
    "open_clip": "contrastive.encoders.open_clip:OpenClipText",
}
AUGMENTATIONS = {
    "photo": "contrastive.modalities.photo:Photo",
    "scribble": "contrastive.modalities.augment:Scribble",
}
LOSSES = {
    "distillation": "contrastive.losses.distillation:Distillation",
    "infonce": "contrastive.losses.infonce:InfoNCE",
    "sigmoid": "contrastive.losses.sigmoid:Sigmoid",
}
EVAL_FORMATS = {
    "clip_benchmark": "contrastive.eval.formats.clip_benchmark:ClipBenchmark",
    "coco": "contrastive.eval.formats.coco:Coco",
    "hugging_face": "contrastive.eval.formats.hugging_face:HuggingFace",
    "image_folder": "contrastive.eval.formats.image_folder:ImageFolder",
    "karpathy": "contrastive.eval.formats.karpathy:Karpathy",
    "shards": "contrastive.eval.formats.shards:Shards",
    "sugar_crepe": "contrastive.eval.formats.sugar_crepe:SugarCrepe",
    "table": "contrastive.eval.formats.table:Table",
    "winoground": "contrastive.eval.formats.winoground:Winoground",
}
EVALUATORS = {
    "calibration": "contrastive.eval.calibration:Calibration",
    "choice": "contrastive.eval.choice:Choosing",
    "few_shot": "contrastive.eval.few_shot:FewShot",
    "geometry": "contrastive.eval.geometry:Geometry",
    "knn": "contrastive.eval.knn:NearestNeighbours",
    "linear_probe": "contrastive.eval.linear_probe:LinearProbe",
    "multilabel": "contrastive.eval.multilabel:MultiLabel",
    "retrieval": "contrastive.eval.retrieval:Retrieval",
    "zeroshot": "contrastive.eval.zeroshot:ZeroShot",
}
EXPORTERS = {
    "onnx": "contrastive.export.onnx:Onnx",
    "onnx_int8": "contrastive.export.onnx_int8:OnnxInt8",
    "open_clip": "contrastive.export.open_clip:OpenClip",
    "safetensors": "contrastive.export.safetensors:Safetensors",
    "sentence_transformers": "contrastive.export.sentence_transformers:SentenceTransformers",
    "timm": "contrastive.export.timm:Timm",
    "torch_export": "contrastive.export.torch_export:TorchExport",
    "torchao_int8": "contrastive.export.torchao_int8:TorchaoInt8",
    "transformers": "contrastive.export.transformers:Transformers",
}
PACK_FORMS = {
    "coco": "contrastive.recipes.forms.coco:Coco",
    "flickr": "contrastive.recipes.forms.flickr:Flickr",
    "hugging_face": "contrastive.recipes.forms.hugging_face:HuggingFace",
    "image_folder": "contrastive.recipes.forms.image_folder:ImageFolder",
    "karpathy": "contrastive.recipes.forms.karpathy:Karpathy",
    "numpy": "contrastive.recipes.forms.arrays:Arrays",
    "shards": "contrastive.recipes.forms.shards:Shards",
    "table": "contrastive.recipes.forms.table:Table",
}
FILTERS = {
    "aspect": "contrastive.recipes.curation.image_filters:Aspect",
    "caption_length": "contrastive.recipes.curation.caption_filters:CaptionLength",
    "clip_score": "contrastive.recipes.curation.score_filters:ClipScore",
    "column": "contrastive.recipes.curation.score_filters:Column",
    "language": "contrastive.recipes.curation.caption_filters:Language",
    "resolution": "contrastive.recipes.curation.image_filters:Resolution",
    "text_overlap": "contrastive.recipes.curation.caption_filters:TextOverlap",
    "words": "contrastive.recipes.curation.caption_filters:Words",
}
ENGINES = {"local": "contrastive.recipes.engine:Local", "ray": "contrastive.recipes.ray_engine:Ray"}
TABLES: dict[str, dict[str, str]] = {
    "model.image": IMAGE_ENCODERS,
    "model.text": TEXT_ENCODERS,
    "data.augment": AUGMENTATIONS,
    "losses.*": LOSSES,
    "eval tasks": EVALUATORS,
    "eval format": EVAL_FORMATS,
    "export --to": EXPORTERS,
    "pack --from": PACK_FORMS,
    "filter": FILTERS,
    "data --engine": ENGINES,
}


def build(table: Mapping[str, str], spec: Mapping[str, Any], key: str, **given: Any) -> Any:
    """Return the part that `spec` describes. See `bind` for `given` and for what is refused.

    Raises:
        ConfigError: unknown part or option, wrong type, missing option, or the part itself refused its options.
    """
    part, options = bind(table, spec, key, **given)
    try:
        return part(**options)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(f"{key}: {spec['name']} refused its options: {error}") from error


def bind(
    table: Mapping[str, str], spec: Mapping[str, Any], key: str, **given: Any
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the part that `spec` names and its checked constructor arguments, without building it.

    `given` are values that the rest of the run decides (`embed_dim`, `vocab_size`): passed when the constructor asks
    for them, and not to be set in the spec. Errors name the key below `key`.
    """
    if "name" not in spec:
        raise ConfigError(f"{key}: give it a name; known: {', '.join(sorted(table))}, or package.module:Class")
    part = find(table, spec["name"], f"{key}.name")
    parameters = _parameters(part)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return part, {**{k: v for k, v in spec.items() if k != "name"}, **given}
    hints = typing.get_type_hints(part.__init__ if inspect.isclass(part) else part)
    options = {name: value for name, value in given.items() if name in parameters}
    for name, value in spec.items():
        if name == "name":
            continue
        if name in options:
            raise ConfigError(f"{key}.{name}: is decided by the rest of the run ({options[name]!r}); remove it")
        if name not in parameters:
            raise ConfigError(f"{key}.{name}: {spec['name']} has no such option{suggest(name, parameters)}")
        options[name] = convert(value, hints.get(name, Any), f"{key}.{name}")
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{key}.{name}: {spec['name']} needs it and it is not set")
    return part, options


def _parameters(part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    if inspect.isclass(part):
        owner = next(c for c in part.__mro__ if "__init__" in c.__dict__)
        if owner is object or owner.__module__.startswith("torch."):
            return {}  # nn.Module's own constructor takes anything and refuses it later, in other words
    return inspect.signature(part).parameters


def find(table: Mapping[str, str], name: str, key: str) -> Callable[..., Any]:
    """Import and return the class or function that a table entry or a `package.module:Class` path names."""
    path = table.get(name, name)
    if ":" not in path:
        known = ", ".join(sorted(table))
        raise ConfigError(f"{key}: {name!r} is not one of {known}, nor package.module:Class{suggest(name, table)}")
    module_name, _, attribute = path.partition(":")
    try:
        return typing.cast(Callable[..., Any], getattr(importlib.import_module(module_name), attribute))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}: {path!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise ConfigError(f"{key}: module {module_name} has no {attribute!r}") from error


def suggest(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the closest known name, or the known names when none is close.

    Dotted names are told apart by their last part, which may also be given by its initials (`lr`).
    """
    known = [k for k in known if k != "self"]
    last_parts = {k.rpartition(".")[2]: k for k in known}
    wanted = name.rpartition(".")[2]
    initials = [last for last in last_parts if "".join(word[:1] for word in last.split("_")) == wanted]
    close = [last_parts[last] for last in initials or difflib.get_close_matches(wanted, last_parts, n=1)]
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if known else ""


def convert(value: Any, annotation: Any, key: str) -> Any:
    """Return `value` as `annotation` asks (int to float, list to tuple), or raise ConfigError naming `key`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is inspect.Parameter.empty:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, annotation, key)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{key}: {value!r} is not one of {', '.join(map(repr, arguments))}")
    if origin in (list, tuple, typing.get_origin(typing.Sequence[int])):
        return _convert_items(value, origin, arguments, key)
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    plain = origin or annotation
    if not isinstance(plain, type) or (isinstance(value, plain) and not (plain is int and isinstance(value, bool))):
        return value
    raise ConfigError(f"{key}: {value!r} is not {_spell(annotation)}")


def _convert_union(value: Any, arguments: tuple[Any, ...], annotation: Any, key: str) -> Any:
    wanted = list if isinstance(value, (list, tuple)) else Literal
    closest = None  # what is wrong inside a list, or the words to choose from, says more than the types
    for argument in arguments:
        if argument is type(None) and value is None:
            return None
        try:
            return convert(value, argument, key)
        except ConfigError as error:
            closest = error if typing.get_origin(argument) is wanted else closest
    if closest is not None:
        raise closest
    raise ConfigError(f"{key}: {value!r} is not {_spell(annotation)}")


def _convert_items(value: Any, origin: Any, arguments: tuple[Any, ...], key: str) -> Any:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{key}: {value!r} is not a list")
    fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise ConfigError(f"{key}: {value!r} has {len(value)} items, not {len(arguments)}")
    kinds = arguments if fixed else (arguments[:1] or (Any,)) * len(value)
    items = [convert(v, kind, f"{key}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True))]
    return tuple(items) if origin is tuple else items


def _spell(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation).replace("NoneType", "None")

"""The text of a model card, section by section; each is a list of lines, empty where there is nothing to say."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from contrastive.export.card_facts import CardFacts, Change
from contrastive.export.card_training import training
from contrastive.export.exporter import Tolerance, Tower
from contrastive.export.markdown import escaped, on_one_line, place, table, without_paths
from contrastive.export.source import Source

PLAIN_NAME = re.compile(r"[\w.-]+")  # what may stand in a string of Python and in a block of code
RECORD = "export.json"
USES = (
    "**Meant for** comparing images with texts: search, grouping, zero-shot classification, and as a start for "
    "training on a task of your own. Measure it on your own data first.",
    "**Not meant for** surveillance, for recognising, identifying or judging people, or for decisions about them: "
    "nothing of the kind was tested.",
    "**A zero-shot label** is the most similar of the texts that were offered. There is always one, also where none "
    "fits; other wording or other candidates can change it; and the softmax over similarities is no probability of "
    "being right unless its calibration was measured.",
    "What it knows, and its errors and prejudices, are those of its training data.",
)
FEATURES = (
    "**Meant for** comparing images with each other, and as a start for training on a task of your own. Measure it on "
    "your own data first.",
    *USES[1:2],
    *USES[3:],
)


def of(about: CardFacts, base: str | None) -> Iterator[list[str]]:
    """Give the sections in their order. `base`: the hub's name of the model that this one comes from."""
    yield [f"# {escaped(about.name)}"]
    yield _summary(about)
    yield ["## How to load it"]
    yield _loading(about)
    yield _list([on_one_line(without_paths(note)) for note in about.claim.written.notes])
    yield ["## The model"]
    yield _model(about.claim.source, about.claim.exporter.towers, base)
    yield ["## Training"]
    yield training(about.config, about.environment, about.claim.source.info, base)
    yield ["## Evaluation"]
    yield _evaluation(about)
    yield from _changes(about.changes, about.format)
    yield ["## Intended use and limits"]
    yield _uses(about)
    yield ["## How the export was checked"]
    yield _parity(about)
    yield ["## Licence"]
    yield [_licence(about.licence, base)]


def _summary(about: CardFacts) -> list[str]:
    embed_dim = about.claim.source.built.model.embed_dim
    if len(about.claim.exporter.towers) > 1:
        space = f"one space of {embed_dim} dimensions"
        what = f"A model that puts images and texts into {space}, where what belongs together is near."
    else:
        what = f"The {about.claim.exporter.towers[0]} tower of a model of images and texts."
    return [f"{what} Written as {escaped(about.format)} by contrastive export."]


def _loading(about: CardFacts) -> list[str]:
    owner, _, name = about.name.rpartition("/")
    folder = name if PLAIN_NAME.fullmatch(name) else "FOLDER"
    is_on_hub = bool(PLAIN_NAME.fullmatch(owner)) and folder == name
    download = [f"`hf download {about.name} --local-dir {name}` gets it. Then:", ""] if is_on_hub else []
    lines = about.claim.exporter.loading(folder).strip().splitlines()
    block = ["```python", "from PIL import Image", 'image = Image.open("photo.jpg")', *lines, "```"]
    similarity = "The cosine of `image_features` and `text_features` says how well the image and the text fit."
    return [*download, *block, *(["", similarity] if len(about.claim.exporter.towers) > 1 else [])]


def _model(source: Source, towers: Sequence[Tower], base: str | None) -> list[str]:
    built, info = source.built, source.info
    preprocess = built.preprocess.to_dict()
    counts = {name: sum(value.numel() for value in values) for name, values in built.model.towers().items()}
    words = _towers(source)
    scale, bias = built.model.logit_scale.detach().double().exp().mean().item(), built.model.logit_bias
    added = f", then {_number(bias.detach().double().mean().item())} is added (logit_bias)" if bias is not None else ""
    then = "a sigmoid" if bias is not None else "a softmax"
    facts = {
        **{f"{name} tower": f"{words[name]}; {counts[name]:,} parameters" for name in towers},
        "shared space": f"{built.model.embed_dim} dimensions",
        "image": f"{preprocess['size']} × {preprocess['size']} pixels, "
        f"{preprocess['interpolation']}, {preprocess['resize_mode']}; mean {_numbers(preprocess['mean'])}, "
        f"standard deviation {_numbers(preprocess['std'])}",
        "temperature": f"cosines are multiplied by {_number(scale)} (logit_scale){added} before {then}",
        "weights": _weights(info),
        "comes from": base or place(source.form),
        "SHA-256 of weights, pixels and token ids": source.identity,
    }
    if "text" not in towers:
        facts.pop("temperature")
    return table(("", ""), [(name, value) for name, value in facts.items() if value])


def _weights(info: Mapping[str, Any]) -> str:
    kind = "a moving average of those in training" if info.get("weights") == "ema" else ""
    step, seen = info.get("step"), info.get("samples_seen")
    when = f"after step {step:,}" if isinstance(step, int) else ""
    many = f"{seen:,} samples seen" if isinstance(seen, int) else ""
    return ", ".join(part for part in (kind, when, many) if part)


def _towers(source: Source) -> dict[str, str]:
    """Return what each tower is, in words."""
    config, spec = source.built.config, source.built.tokenizer.spec
    vocabulary = "CLIP's byte pairs" if spec.name is None else "its own tokenizer"
    reads = f"up to {spec.context_length} tokens of {vocabulary}"
    if source.model_cfg is None:
        image, text = ({**part, "name": place(part.get("name", "?"))} for part in (config.image, config.text))
        return {"image": _part(image), "text": f"{_part(text)}; {reads}"}
    vision, text = source.model_cfg["vision_cfg"], source.model_cfg["text_cfg"]
    return {"image": _vision(vision), "text": f"{_text(text)}; {reads}"}


def _part(spec: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name} {place(value)}" for name, value in spec.items() if name not in ("name", "pretrained"))
    return f"{spec['name']} ({options})" if options else str(spec["name"])


def _vision(cfg: Mapping[str, Any]) -> str:
    if name := cfg.get("timm_model_name"):
        return f"{place(name)} of timm"
    layers, width = cfg.get("layers", 12), cfg.get("width", 768)  # open_clip's CLIPVisionCfg
    if isinstance(layers, list | tuple):
        return f"ResNet of CLIP, {'-'.join(map(str, layers))} blocks, width {width}"
    return f"Vision Transformer, {layers} layers, width {width}, patches of {cfg.get('patch_size', 16)} pixels"


def _text(cfg: Mapping[str, Any]) -> str:
    if name := cfg.get("hf_model_name"):
        return f"{place(name)} of transformers"
    layers, width, heads = cfg.get("layers", 12), cfg.get("width", 512), cfg.get("heads", 8)  # CLIPTextCfg
    return f"Transformer, {layers} layers, width {width}, {heads} heads"


def is_measured(about: CardFacts) -> bool:
    """Return whether figures of the original are figures of the export: it is exact, and has both towers."""
    exporter = about.claim.exporter
    return exporter.tolerance.distance is not None and len(exporter.towers) > 1


def _evaluation(about: CardFacts) -> list[str]:
    evaluation = about.evaluation
    if evaluation is None or not evaluation.rows:
        return ["It had not been evaluated when it was exported. Measure it before you rely on it."]
    rows = [cells for row in evaluation.rows for cells in _metrics(row)]
    headings = ("dataset", "task", "metric", "value", "95 % interval", "chance", "n")
    whose = "" if is_measured(about) else "These are figures of the whole model in float32 that this one comes from. "
    said = (
        f"{whose}Measured on {escaped(evaluation.created[:10])}, before the export. Intervals: percentile bootstrap of "
        "the images. Chance: a random order of the same answers. n: images. Shares are between 0 and 1."
    )
    return [*table(headings, rows), "", said]


def _metrics(row: Mapping[str, Any]) -> list[list[str]]:
    names = [str(row["dataset"]), str(row["task"])]
    if row.get("error"):
        return [[*names, "could not be measured", "", "", "", ""]]
    count = f"{row['n']:,}" if isinstance(row.get("n"), int) else ""
    shown = []
    for name, metric in row["metrics"].items():
        ends = metric.get("ci95")
        between = f"{_number(ends[0])} to {_number(ends[1])}" if ends else ""
        chance = _number(metric.get("chance")) if metric.get("chance") is not None else ""
        shown.append([*names, str(name), _number(metric.get("value")), between, chance, count])
    return shown


def _changes(changes: Sequence[Change], name: str) -> Iterator[list[str]]:
    if changes:
        yield ["## What the smaller numbers cost and gain"]
        rows = [
            (f"{one.what}, {one.unit}" if one.unit else one.what, _number(one.before), _number(one.after))
            for one in changes
        ]
        yield table(("", "float32", escaped(name)), rows)


def _uses(about: CardFacts) -> list[str]:
    said = list(USES if len(about.claim.exporter.towers) > 1 else FEATURES)
    if about.evaluation is not None and about.evaluation.rows:
        said.append("Beyond the datasets and languages of the table above nothing is known of it.")
    return _list(said)


def _parity(about: CardFacts) -> list[str]:
    parity, limit = about.parity, about.claim.exporter.tolerance
    others = {name: version for name, version in parity.read_with.items() if name != "torch"}
    libraries = [f"{name} {version}".strip() for name, version in (others or parity.read_with).items()]
    reader = f" with {escaped(', '.join(libraries))}" if libraries else ""
    rows = [
        (tower, found.inputs, f"{found.max_distance:.1e}", f"{found.min_cosine:.6f}")
        for tower, found in parity.towers.items()
    ]
    said = [
        f"The export was loaded by a fresh process{reader}, and its embeddings of held-out images and texts were "
        f"compared with those of the original. {_limit(limit)}",
        "",
        *table(("tower", "inputs", "largest distance of unit vectors", "least cosine"), rows),
        "",
    ]
    if parity.pixels is not None:
        differ = f"differ by at most {_number(parity.pixels)}" if parity.pixels else "are equal"
        said.append(f"Preprocessed pixels {differ}.")
    if parity.ids_equal is not None:
        said.append(f"Token ids agree for {100 * parity.ids_equal:g} % of plain texts.")
    return [*said, f"`{RECORD}` has all figures, and size and SHA-256 of every file."]


def _limit(limit: Tolerance) -> str:
    asked = [f"a distance of at most {limit.distance:.0e}"] if limit.distance is not None else []
    asked += [f"a cosine of at least {limit.cosine:g}"] if limit.cosine is not None else []
    asked += [f"zero-shot accuracy within {_points(limit.accuracy)}"] if limit.accuracy is not None else []
    return f"Asked for: {' and '.join(asked)}." if asked else ""


def _points(share: float) -> str:
    return f"{100 * share:g} point{'' if share == 0.01 else 's'}"


def _licence(licence: str | None, base: str | None) -> str:
    theirs = f" That of {escaped(base)} holds for what comes from it." if base else ""
    if licence is None:
        return f"None was given: ask whoever published this before you use it.{theirs}"
    return f"{escaped(licence)}.{theirs} The training data may have terms of their own."


def _list(items: Sequence[str]) -> list[str]:
    return [f"- {item}" for item in items]


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _number(value: Any) -> str:
    """Return a number with as many digits as say something; a dash where there is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e6 else f"{value:.2g}"

"""What a model card says of the training: data, objective and machine, from the run's own files."""

from collections.abc import Mapping
from typing import Any

from contrastive.export.markdown import place, shown, table
from contrastive.tracking.redaction import redacted

LIBRARIES = ("contrastive-pretrain", "torch", "open_clip_torch", "timm", "transformers")


def training(
    config: Mapping[str, Any] | None, environment: Mapping[str, Any] | None, info: Mapping[str, Any], base: str | None
) -> list[str]:
    """Return the lines: a table of facts, or what is known where the model comes from elsewhere."""
    if config is None:
        where = f"see {base}" if base else "ask those who trained it"
        return [f"It was not trained by a run of this toolkit; for its data and training {where}."]
    plain: Mapping[str, Any] = redacted(config)
    facts = {**_data(plain, environment or {}, info), **_objective(plain), **_machine(plain, environment or {})}
    rows = [(name, value) for name, value in facts.items() if value]
    return table(("", ""), rows)


def _data(config: Mapping[str, Any], environment: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, str]:
    data, pairs, seen = config.get("data") or {}, environment.get("samples"), info.get("samples_seen")
    sources = data.get("sources") or {}
    listed = "; ".join(_source(name, source) for name, source in sources.items())
    fingerprint = environment.get("data_fingerprint")
    counted = f"{pairs:,} pairs" if isinstance(pairs, int) else ""
    known = f"fingerprint {fingerprint}" if fingerprint else ""
    passes = f" ({seen / pairs:.3g} per pair)" if isinstance(seen, int) and isinstance(pairs, int) and pairs else ""
    return {
        "data": listed or place(data.get("train") or ""),
        "size of the data": ", ".join(part for part in (counted, known) if part),
        "captions": "" if sources and data.get("caption_key") == "txt" else shown(data.get("caption_key") or ""),
        "samples seen": f"{seen:,}{passes}" if isinstance(seen, int) else "",
        "augmentation": _part("", data.get("augment") or ""),
    }


def _source(name: str, source: Any) -> str:
    """Return one part of a mixture: its name, its shards and its share."""
    if not isinstance(source, Mapping):
        return f"{name} ({place(source)})"
    keys = [
        f"{key} {shown(source[key])}" for key in ("weight", "caption_key", "image_key") if source.get(key) is not None
    ]
    return f"{name} ({', '.join([place(source.get('shards') or '?'), *keys])})"


def _objective(config: Mapping[str, Any]) -> dict[str, str]:
    model, optim, train = (config.get(name) or {} for name in ("model", "optim", "train"))
    losses = config.get("losses") or {"contrastive": {"name": "infonce"}}
    start = " ".join(shown(model[key]) for key in ("name", "pretrained") if model.get(key))
    batch, total = (config.get("data") or {}).get("global_batch_size"), train.get("total_samples")
    decay = train.get("ema_decay")
    return {
        "started from": start or "random weights",
        "teacher": shown(model.get("teacher") or ""),
        "losses": "; ".join(_part(name, spec) for name, spec in losses.items() if spec),
        "global batch size": f"{batch:,}" if isinstance(batch, int) else "",
        "planned samples": f"{total:,}" if isinstance(total, int) else "",
        "optimizer": _optimizer(optim),
        "moving average of the weights": f"decay {decay}" if decay is not None else "",
        "seed": str(train.get("seed", "")),
    }


def _part(name: str, spec: Any) -> str:
    """Return a part with its options, behind the name it was given where that is another one."""
    if not isinstance(spec, Mapping):
        return shown(spec)
    options = {key: value for key, value in spec.items() if key != "name" and value is not None}
    kind = place(spec.get("name", name))
    title = kind if name in ("", kind) else f"{name}: {kind}"
    return f"{title} ({shown(options)})" if options else title


def _optimizer(optim: Mapping[str, Any]) -> str:
    named = {
        "learning rate": optim.get("learning_rate"),
        "at the end": optim.get("final_learning_rate"),
        "warmup samples": optim.get("warmup_samples"),
        "weight decay": optim.get("weight_decay"),
        "beta1": optim.get("beta1"),
        "beta2": optim.get("beta2"),
    }
    said = ", ".join(f"{name} {value:g}" for name, value in named.items() if isinstance(value, int | float))
    return f"AdamW, {said}" if said else ""


def _machine(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, str]:
    device = environment.get("accelerator") or environment.get("processor") or environment.get("device") or ""
    processes = environment.get("world_size")
    packages = environment.get("packages") or {}
    revision = environment.get("git_revision")
    changed = ", with changes" if environment.get("git_modified") else ""
    code = f"revision {revision}{changed}" if revision else environment.get("code")
    return {
        "precision": str(environment.get("precision") or (config.get("train") or {}).get("precision") or ""),
        "machine": f"{processes} × {device}" if processes and device else str(device),
        "software": ", ".join(f"{name} {packages[name]}" for name in LIBRARIES if packages.get(name)),
        "code": str(code or ""),
        "date": str(environment.get("started") or "")[:10],
    }

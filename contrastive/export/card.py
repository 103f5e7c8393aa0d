"""The model card of an export: README.md as the hub of Hugging Face reads it, written from what is known of the model.

https://huggingface.co/docs/hub/model-cards describes the form of its head.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from open_clip.pretrained import get_pretrained_cfg

from contrastive.export import card_sections as sections
from contrastive.export.card_facts import CardFacts, Evaluation
from contrastive.export.markdown import bare

CARD = "README.md"
ZERO_SHOT, IMAGE_FEATURES = "zero-shot-image-classification", "image-feature-extraction"
TASKS = {  # of the hub, which knows no task of the others; https://huggingface.co/tasks
    "zeroshot": (ZERO_SHOT, "Zero-shot image classification"),
    "retrieval": ("image-text-retrieval", "Image-text retrieval"),
    "linear_probe": ("image-classification", "Linear probe"),
}
METRICS = {"top1": "accuracy"}  # what the hub calls it: https://huggingface.co/metrics
LANGUAGES = {"cn": "zh", "jp": "ja"}  # as CLIP_benchmark spells them


@dataclass(frozen=True)
class Kind:
    """What the hub calls a format. `library` is None where it knows none for it."""

    library: str | None = None
    pipeline: str | None = None
    tags: Sequence[str] = field(default_factory=tuple)


# https://github.com/huggingface/huggingface.js/blob/main/packages/tasks/src/model-libraries.ts
KINDS = {
    "onnx": Kind(tags=("onnx",)),
    "onnx_int8": Kind(tags=("onnx", "int8")),
    "open_clip": Kind("open_clip"),
    "safetensors": Kind(tags=("safetensors",)),
    "sentence_transformers": Kind("sentence-transformers", "sentence-similarity"),
    "timm": Kind("timm", IMAGE_FEATURES),
    "torch_export": Kind(tags=("torch.export",)),
    "torchao_int8": Kind("transformers", tags=("torchao", "int8")),
    "transformers": Kind("transformers"),
}


def write_card(folder: Path, about: CardFacts) -> Path:
    """Write the model card into an export's folder and return its path.

    Nothing of it names a folder of this machine or holds a secret, and no name from elsewhere can break its form.
    """
    body = "\n\n".join(["\n".join(lines) for lines in sections.of(about, base_model(about)) if lines])
    card = ModelCard(f"---\n{metadata(about).to_yaml()}\n---\n\n{body}\n")
    card.save(folder / CARD)
    return folder / CARD


def metadata(about: CardFacts) -> ModelCardData:
    """Return the head of the card."""
    kind, base = KINDS.get(about.format, Kind()), base_model(about)
    both = len(about.claim.exporter.towers) > 1
    tags = [*kind.tags, *(["clip"] if both else []), "contrastive-learning", "contrastive-pretrain"]
    head = ModelCardData(
        library_name=kind.library,
        pipeline_tag=kind.pipeline or (ZERO_SHOT if both else IMAGE_FEATURES),
        license=about.licence,
        language=languages(about.evaluation) or None,
        tags=tags,
        base_model=base,
        model_name=bare(about.name),
        eval_results=(_results(about.evaluation) if sections.is_measured(about) else None) or None,
    )
    if base is not None and "int8" in kind.tags:
        head["base_model_relation"] = "quantized"
    return head


def base_model(about: CardFacts) -> str | None:
    """Return the hub's name of the model that this one comes from: that which was converted, or was trained further."""
    model = (about.config or {}).get("model") or {}
    if about.config is not None:
        name, tag = str(model.get("name") or ""), model.get("pretrained")
        return _on_hub(name) or (_of_tag(name, str(tag)) if tag else None)
    form = about.claim.source.form
    arch, at, tag = form.partition("@")
    return _on_hub(form) or (_of_tag(arch, tag) if at else None)


def languages(evaluation: Evaluation | None) -> list[str]:
    """Return the codes (ISO 639) of the languages that the model was evaluated in."""
    if evaluation is None:
        return []
    given = (evaluation.languages.get(str(row["dataset"]), "") for row in evaluation.rows if not row.get("error"))
    codes = {LANGUAGES.get(code, code) for code in given}
    return sorted(code for code in codes if re.fullmatch(r"[a-z]{2,3}", code))


def _on_hub(form: str) -> str | None:
    """Return ORG/NAME of hf-hub:ORG/NAME and of hf:ORG/NAME, which may also be a folder here."""
    scheme, _, name = form.partition(":")
    is_remote = scheme == "hf-hub" or (scheme == "hf" and not Path(name).exists())
    return name if is_remote and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) else None


def _of_tag(arch: str, tag: str) -> str | None:
    """Return where open_clip has the weights of one of its tags from, None for those of other places."""
    found: Mapping[str, Any] = get_pretrained_cfg(arch, tag) or {}
    return str(found.get("hf_hub") or "").strip("/") or None


def _results(evaluation: Evaluation | None) -> list[EvalResult]:
    found = []
    for row in evaluation.rows if evaluation is not None else ():
        if row.get("error"):
            continue
        dataset, task = bare(row["dataset"]), str(row["task"])
        kind, title = TASKS.get(task, (re.sub(r"[^a-z0-9]+", "-", task.lower()), bare(task.replace("_", " "))))
        for name, metric in row["metrics"].items():
            if metric.get("value") is None:
                continue
            result = EvalResult(
                task_type=kind,
                task_name=title,
                dataset_type=re.sub(r"[^A-Za-z0-9._-]+", "-", dataset) or "data",
                dataset_name=dataset,
                metric_type=METRICS.get(name, bare(name)),
                metric_name=bare(name),
                metric_value=round(float(metric["value"]), 6),
            )
            found.append(result)
    return found

"""What the model card of an export is written from: the run that trained it and the evaluation that measured it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contrastive.config import load
from contrastive.errors import DataError
from contrastive.eval.writing import RESULTS, read_results
from contrastive.export.card import write_card
from contrastive.export.card_facts import CardFacts, Change, Evaluation
from contrastive.export.parity import Claim, Parity
from contrastive.export.source import Source
from contrastive.report.metrics import headlines
from contrastive.runs.export_data import Accuracy
from contrastive.train import directory

# Where `eval_zeroshot.py --output` is told to write beside a run, and what training writes itself.
WEIGHTS = (".onnx", ".data", ".safetensors", ".pt2")
BESIDE = (f"zeroshot/{RESULTS}", f"evaluation/{RESULTS}", RESULTS, "evaluation.json")


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is exported; `config` and `environment` of a run of ours only."""

    config: Mapping[str, Any] | None
    environment: Mapping[str, Any] | None
    evaluation: Evaluation | None
    licence: str | None


def facts_of(source: Source, results: Path | None, licence: str | None) -> Facts:
    """Return what is known of a model; `results` None: the evaluation that lies in its run, if it is of these weights.

    Raises:
        DataError: `results` is no evaluation.
    """
    run = _run_of(source)
    config = environment = None
    if run is not None and (run / directory.CONFIG).is_file():
        config = asdict(load([str(run / directory.CONFIG)]))
    if run is not None and (run / directory.ENVIRONMENT).is_file():
        environment = json.loads((run / directory.ENVIRONMENT).read_text(encoding="utf-8"))
    path = results or (_newest_results(run, source) if run is not None else None)
    return Facts(config, environment, None if path is None else _evaluation(path), licence)


def write(facts: Facts, name: str, format_name: str, claim: Claim, parity: Parity, changes: Sequence[Change]) -> None:
    """Write the card of an export into its folder."""
    write_card(
        claim.folder,
        CardFacts(
            name=name,
            format=format_name,
            claim=claim,
            parity=parity,
            config=facts.config,
            environment=facts.environment,
            evaluation=facts.evaluation,
            changes=changes,
            licence=facts.licence,
        ),
    )


def changes_of(claim: Claim, parity: Parity, accuracy: Mapping[str, Accuracy]) -> list[Change]:
    """Return what became of size, speed and zero-shot accuracies in a format that is not exact."""
    if not parity.milliseconds:
        return []
    before = sum(value.numel() * value.element_size() for value in claim.source.weights.values())
    after = sum(path.stat().st_size for path in claim.folder.rglob("*") if path.suffix in WEIGHTS)
    times = [Change(f"{what}, eager PyTorch before", *pair, "ms") for what, pair in parity.milliseconds.items()]
    found = [Change(f"zero-shot top-1, {name}", one.before, one.after) for name, one in accuracy.items()]
    return [Change("weights", before / 1e6, after / 1e6, "MB"), *times, *found]


def _run_of(source: Source) -> Path | None:
    """Return the directory of the run whose checkpoint was opened."""
    path = source.info.get("path")
    return Path(path).resolve().parent.parent if path is not None else None


def _newest_results(run: Path, source: Source) -> Path | None:
    """Return the evaluation of a run that is of these very weights: of the step, and trained or averaged alike."""
    for name in BESIDE:
        if (run / name).is_file() and _is_of(run / name, run, source):
            return run / name
    return None


def _is_of(path: Path, run: Path, source: Source) -> bool:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        model = content.get("model", {})
        return (model.get("step"), model.get("weights")) == (source.info.get("step"), source.info.get("weights"))
    finished = run / directory.FINISHED  # what training wrote is of its end
    wanted = load([str(run / directory.CONFIG)]).eval.weights if (run / directory.CONFIG).is_file() else "trained"
    is_last = finished.is_file() and json.loads(finished.read_text()).get("step") == source.info.get("step")
    return is_last and source.info.get("weights") == wanted


def _evaluation(path: Path) -> Evaluation:
    rows = [row for row in read_results(path) if row["metrics"]]
    if not rows:
        raise DataError(f"{path}: holds no figure; evaluate the model again, or leave --results out")
    content = json.loads(path.read_text(encoding="utf-8"))
    created = content.get("created") if isinstance(content, dict) else None
    day = str(created or time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime)))[:10]
    languages = content.get("languages", {}) if isinstance(content, dict) else {}
    chosen = [{**row, "metrics": {name: row["metrics"][name] for name in headlines(row["metrics"])}} for row in rows]
    return Evaluation(chosen, day, languages)

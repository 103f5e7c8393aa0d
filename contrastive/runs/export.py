"""`contrastive export`: a model in one or several formats, each proved before it is kept."""

import importlib.metadata
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contrastive.errors import ConfigError, ModelError, UserError
from contrastive.eval.datasets import EvalDataset
from contrastive.export import folder, hub
from contrastive.export.exporter import Exporter
from contrastive.export.markdown import place as place_of
from contrastive.export.parity import Claim, Parity, verify
from contrastive.export.probe import Probe
from contrastive.export.source import Source, open_source
from contrastive.models import forms
from contrastive.models.checkpoint import Weights
from contrastive.registry import EXPORTERS, build
from contrastive.runs import export_card, machine
from contrastive.runs.export_data import Accuracy, accuracies, held_data, probe_of

log = logging.getLogger("contrastive")
ALL = "all"
PACKAGES = (
    *("contrastive-pretrain", "torch", "open_clip_torch", "timm", "transformers", "onnx", "onnxruntime", "onnxscript"),
    *("torchao", "sentence-transformers", "safetensors"),
)


@dataclass(frozen=True)
class Request:
    """What is to be exported and where to; see `contrastive export --help`.

    `formats`: names of the table, package.module:Class, or `all`. `options` are of the one format. `results`: the
    evaluation that the card shows; None: that of the run.
    """

    model: str
    formats: Sequence[str]
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights = "trained"
    data: Sequence[str] = ()
    root: str = "."
    results: Path | None = None
    license: str | None = None
    push: str | None = None
    private: bool = False


@dataclass(frozen=True)
class Exported:
    """An export that is on disk, or the reason why it is not."""

    name: str
    place: Path
    parity: Parity | None = None
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    error: UserError | None = None


def export(request: Request) -> list[Exported]:
    """Export, show and push what was asked for; return what came of each format.

    A format that fails does not cost the others: they are written before its error is raised.

    Raises:
        UserError: the model, an option or a dataset cannot be used, or an export is not what its source is.
    """
    exporters = _exporters(request)
    places = {name: request.out / name if len(exporters) > 1 else request.out for name in exporters}
    folder.check_output(request.out)
    if request.push is not None:
        if len(exporters) > 1:
            raise ConfigError("--push: one format goes into a repository; export the formats one by one")
        hub.check_push(request.push)
    machine.set_threads(None)
    datasets, absent = held_data(request.data, request.root, request.model)
    source = open_source(request.model, request.weights)
    refused = _refused(exporters, source, is_free=ALL in request.formats)
    facts = export_card.facts_of(source, request.results, request.license)
    session = _Session(request, source, datasets, facts)
    if absent is not None:
        log.info("compared on built-in images and captions alone: %s", absent)
    done = [refused.get(name) or session.write(name, exporter, places[name]) for name, exporter in exporters.items()]
    _show(request, done)
    failed = [one.error for one in done if one.error is not None and one.name not in refused]
    if failed:
        raise failed[0]
    if request.push is not None:
        pushed = hub.push(request.out, request.push, request.private, f"Export to {request.formats[0]}")
        told = {"replaced": pushed.replaced, "still there": pushed.left}
        log.info("; ".join([f"pushed: {pushed.url}", *(f"{k}: {', '.join(v)}" for k, v in told.items() if v)]))
    return done


class _Session:
    """One model on its way into several formats."""

    def __init__(self, request: Request, source: Source, datasets: list[EvalDataset], facts: export_card.Facts) -> None:
        self.request, self.source, self.datasets, self.facts = request, source, datasets, facts

    @cached_property
    def probe(self) -> Probe:
        """What is compared."""
        return probe_of(self.datasets)

    @cached_property
    def before(self) -> Mapping[str, tuple[float, int]]:
        """Zero-shot accuracies of the source."""
        built = self.source.built
        return accuracies(built.model, built.preprocess.evaluation_transform(), built.tokenizer, self.datasets)

    def write(self, name: str, exporter: Exporter, place: Path) -> Exported:
        """Write, prove and seal one export; its error is kept for the end."""
        log.info("%s: writing %s", name, place)
        try:
            with folder.writing(place) as scratch:
                claim = Claim(
                    self.source, exporter, exporter.write(self.source, scratch, self.probe), scratch, self.probe
                )
                parity = verify(claim)
                record = self._record(name, exporter, parity)
                folder.seal(scratch, record)  # what evaluates it reads it
                accuracy = self._accuracy(exporter, scratch)
                record["accuracy"] = {dataset: asdict(one) for dataset, one in accuracy.items()}
                title = self.request.push or place.name
                export_card.write(
                    self.facts, title, name, claim, parity, export_card.changes_of(claim, parity, accuracy)
                )
                folder.seal(scratch, record)
        except UserError as error:
            return Exported(name, place, error=type(error)(f"--to {name}: {error}; nothing was written"))
        return Exported(name, place, parity, accuracy)

    def _record(self, name: str, exporter: Exporter, parity: Parity) -> dict[str, Any]:
        info = {key: self.source.info[key] for key in ("step", "samples_seen", "weights") if key in self.source.info}
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "format": name,
            "options": dict(self.request.options),
            "source": {"name": place_of(self.source.form), "identity": self.source.identity, **info},
            "tolerance": asdict(exporter.tolerance),
            "parity": parity.to_dict(),
            "packages": {package: _version(package) for package in PACKAGES},
        }

    def _accuracy(self, exporter: Exporter, place: Path) -> dict[str, Accuracy]:
        """Return zero-shot top-1 before and after, of a format that is held to it.

        Raises:
            ModelError: it changed by more than the format's tolerance.
        """
        limit = exporter.tolerance.accuracy
        if limit is None or not self.before:
            return {}
        loaded = forms.open_model(str(place))
        after = accuracies(loaded.model, loaded.transform, loaded.tokenizer, self.datasets)
        found = {name: Accuracy(before, after[name][0], n) for name, (before, n) in self.before.items()}
        for name, one in found.items():
            if abs(one.after - one.before) > limit:
                said = f"zero-shot top-1 of {name} goes from {one.before:.4f} to {one.after:.4f}"
                raise ModelError(f"{said}, by more than {100 * limit:g} point(s)")
        return found


def _exporters(request: Request) -> dict[str, Exporter]:
    """Return the exporters by name; of `all` those whose libraries are installed.

    Raises:
        ConfigError: an unknown format or option, or libraries that are not installed.
    """
    is_free = ALL in request.formats
    names = sorted(EXPORTERS) if is_free else list(dict.fromkeys(request.formats))
    found: dict[str, Exporter] = {}
    for name in names:
        options = request.options if not is_free else {}
        exporter = build(EXPORTERS, {"name": name, **options}, f"--to {name}")
        try:
            folder.check_requirements(name, exporter)
        except ConfigError as error:
            if not is_free:
                raise
            log.info("%s; left out", error)
            continue
        found[name] = exporter
    return found


def _refused(exporters: Mapping[str, Exporter], source: Source, is_free: bool) -> dict[str, Exported]:
    """Return, where all formats were asked for, those that cannot hold the model.

    Raises:
        ModelError: a format that was asked for by name cannot.
    """
    refused: dict[str, Exported] = {}
    for name, exporter in exporters.items():
        try:
            exporter.check(source)
        except ModelError as error:
            if not is_free:
                raise ModelError(f"--to {name}: {error}") from error
            refused[name] = Exported(name, Path(), error=error)
    return refused


def _show(request: Request, done: Sequence[Exported]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=150)
    grid = Table(title=f"Exports of {request.model}")
    grid.add_column("format")
    for heading in ("MB", "image", "text", "pixels", "tokens", "zero-shot"):
        grid.add_column(heading, justify="right")
    grid.add_column("where", overflow="fold")
    for one in done:
        if one.parity is None:
            grid.add_row(one.name, *[""] * 6, f"not written: {one.error}")
            continue
        size = sum(path.stat().st_size for path in one.place.rglob("*") if path.is_file()) / 1e6
        towers = [_agreed(one.parity, tower) for tower in ("image", "text")]
        pixels = "" if one.parity.pixels is None else f"{one.parity.pixels:.0e}" if one.parity.pixels else "equal"
        ids = "" if one.parity.ids_equal is None else f"{one.parity.ids_equal:.0%} equal"
        accuracy = ", ".join(f"{a.before:.3f} → {a.after:.3f}" for a in one.accuracy.values())
        grid.add_row(one.name, f"{size:.1f}", *towers, pixels, ids, accuracy, str(one.place))
    grid.caption = (
        "image, text: largest distance of unit vectors from the source's, and least cosine, in a fresh process"
    )
    console.print(grid)


def _agreed(parity: Parity, tower: Any) -> str:
    found = parity.towers.get(tower)
    return "" if found is None else f"{found.max_distance:.0e} ({found.min_cosine:.5f})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

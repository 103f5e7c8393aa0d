"""`eval_zeroshot.py`: a model, or all checkpoints of a run, on datasets; shown, written and held to limits."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console

from contrastive import distributed
from contrastive.data.storage import cache_home
from contrastive.errors import Preempted, UserError
from contrastive.eval import showing, suite
from contrastive.eval.bootstrap import Sampling
from contrastive.eval.cache import EmbeddingCache
from contrastive.eval.datasets import EvalDataset
from contrastive.eval.embed import Embeddings, Pass, Precision, Progress, embed
from contrastive.eval.plan import plan
from contrastive.eval.result import EvalResult
from contrastive.eval.writing import write_json, write_results
from contrastive.models import checkpoint, forms
from contrastive.report import write_evaluation_report
from contrastive.report.metrics import headlines
from contrastive.runs import machine
from contrastive.runs.eval_data import all_checkpoints, datasets_of
from contrastive.runs.limits import Limit, LimitError, broken, parse_limit, significantly_worse
from contrastive.tracking import environment
from contrastive.train.signals import StopRequest

STOP = "stop"


@dataclass(frozen=True)
class Request:
    """What is to be evaluated and how; see `eval_zeroshot.py --help`.

    `data` are YAMLs or folders, `suites` files that list YAMLs; neither: the datasets of the run. `baseline` is a model
    to compare with. `cache` None: nothing is kept. `output` is a folder, or a .json file.
    """

    model: str
    data: Sequence[str] = ()
    suites: Sequence[str] = ()
    root: str = "."
    weights: checkpoint.Weights = "trained"
    all_checkpoints: bool = False
    baseline: str | None = None
    fail_if_worse: bool = False
    fail_under: Sequence[str] = ()
    batch_size: int = 256
    workers: int = 0
    precision: Precision = "fp32"
    device: str | None = None
    cache: Path | None = None
    resamples: int = 2000
    dry_run: bool = False
    output: str | None = None


def default_cache() -> Path:
    """Return where embeddings are kept unless the user says otherwise."""
    return cache_home() / "embeddings"


def evaluate(request: Request) -> list[EvalResult]:
    """Evaluate, show and write what was asked for; return the results of the model (of the newest checkpoint).

    A dataset that fails does not cost the others their results: they are shown and written before its error is raised.

    Raises:
        UserError: the model or a dataset cannot be used, or a limit is not held.
    """
    limits = [parse_limit(text) for text in request.fail_under]
    models = _forms(request)
    datasets = datasets_of(request.data, request.suites, request.root, models[-1])
    suite.check(datasets)
    process = PartialState(cpu=request.device == "cpu" or not torch.accelerator.is_available())
    device = torch.device(request.device) if request.device else process.device
    machine.set_threads(None)
    how = Pass(device, request.batch_size, request.workers, request.precision)
    session = _Session(request, datasets, how, process.is_main_process)
    loaded = forms.open_model(models[-1], device, request.weights)
    session.show_plan(loaded)
    if request.dry_run:
        return []
    baseline = session.embeddings_of(request.baseline) if request.baseline is not None else None
    earlier = [session.measure(forms.open_model(model, device, request.weights)) for model in models[:-1]]
    final = session.measure(loaded, baseline)
    if process.is_main_process:
        session.show(final, earlier)
        if request.output is not None:
            session.write(Path(request.output), final, earlier)
    if final.errors:
        raise final.errors[0]  # the rows of the others say why they are empty
    _judge(request, limits, final.results)
    return final.results


@dataclass(frozen=True)
class _Measured:
    """The results of one model, and the errors of the datasets that have none."""

    name: str
    info: dict[str, Any]
    results: list[EvalResult]
    errors: list[UserError]


class _Session:
    """The datasets of one request, and how they are evaluated."""

    def __init__(self, request: Request, datasets: list[EvalDataset], how: Pass, is_main: bool) -> None:
        self.request, self.datasets, self.how, self.is_main = request, datasets, how, is_main
        # A file or a pipe has no width of its own.
        self.console = Console() if sys.stdout.isatty() else Console(width=150)
        self.sampling = Sampling(resamples=request.resamples) if request.resamples else None

    def show_plan(self, loaded: checkpoint.Loaded) -> None:
        """Say what will be done and how long it is expected to take."""
        planned = plan(loaded.model, loaded.transform, loaded.tokenizer, self.datasets, self.how)
        if self.is_main:
            self.console.print(showing.plan_table(planned, f"What will be evaluated: {_name(loaded)}"))

    def embeddings_of(self, form: str) -> dict[str, Embeddings]:
        """Return another model's embeddings of all datasets, by name."""
        loaded = forms.open_model(form, self.how.device, "trained")
        with self._progress() as progress:
            return {one.spec.name: self._embed(loaded, one, progress) for one in self.datasets}

    def measure(self, loaded: checkpoint.Loaded, baseline: dict[str, Embeddings] | None = None) -> _Measured:
        """Return the results of a model on all datasets."""
        results: list[EvalResult] = []
        errors: list[UserError] = []
        with self._progress() as progress:
            for dataset in self.datasets:
                name = dataset.spec.name
                try:
                    embeddings = self._embed(loaded, dataset, progress)
                    results += suite.score(embeddings, self.sampling, baseline[name] if baseline else None, progress)
                except UserError as error:
                    if not error.is_everywhere:
                        raise
                    errors.append(error)
                    results += suite.failed(dataset, error)
        return _Measured(_name(loaded), loaded.info, results, errors)

    def show(self, final: _Measured, earlier: Sequence[_Measured]) -> None:
        """Print the table of results, and that of the checkpoints where there are several."""
        title = f"{final.name} on {distributed.world_size()} process(es)"
        self.console.print(showing.table(final.results, title, self.request.baseline, headlines))
        if self.request.output is None and any(headlines(one.metrics) != list(one.metrics) for one in final.results):
            self.console.print("Not all metrics are shown: --output DIR writes them, the pictures and a page.")
        if earlier:
            course = [(one.name, one.results) for one in (*earlier, final)]
            self.console.print(showing.course(course, f"{self.request.model}: all checkpoints"))

    def write(self, output: Path, final: _Measured, earlier: Sequence[_Measured]) -> None:
        """Write a folder with everything and its page; a path that ends in .json gets the results alone."""
        request = self.request
        about = {
            **final.info,
            **_named(final.name),
            "form": request.model,
            "weights": request.weights,
            "baseline": request.baseline,
            "environment": environment(distributed.world_size(), str(self.how.device), request.precision),
            "languages": {one.spec.name: one.spec.language for one in self.datasets},
        }
        course = [{"name": one.name, "step": one.info.get("step"), "results": one.results} for one in (*earlier, final)]
        results = suite.illustrated(final.results, self.datasets)
        if output.suffix == ".json":
            write_json(output, results, about, course if earlier else ())
            return
        write_results(output, results, about, course if earlier else ())
        page = write_evaluation_report(output)
        self.console.print(f"written: {page}")

    def _embed(self, loaded: checkpoint.Loaded, dataset: EvalDataset, progress: Progress) -> Embeddings:
        folder = self.request.cache
        cache = None if folder is None else EmbeddingCache(folder, loaded.identity, model=_name(loaded))
        how = replace(self.how, progress=progress, cache=cache)
        return embed(loaded.model, loaded.transform, loaded.tokenizer, dataset, how)

    @contextmanager
    def _progress(self) -> Iterator[Progress]:
        """Show progress on rank 0, and leave the pass where any rank was asked to end; the cache keeps what is done."""
        with StopRequest() as stop, showing.progress_lines(Console(stderr=True, quiet=not self.is_main)) as show:

            def progress(what: str, done: int, total: int) -> None:
                show(what, done, total)
                if stop.signal is not None:
                    distributed.tell_everyone(STOP)
                if stop.signal is not None or distributed.was_told(STOP):
                    raise Preempted(stop.signal or signal.SIGTERM)

            yield progress


def _named(name: str) -> dict[str, str]:
    """Return an open_clip ARCH@TAG in its two parts, as CLIP_benchmark's tables have them."""
    arch, at, tag = name.partition("@")
    return {"name": arch, "pretrained": tag} if at and not Path(tag).is_file() else {"name": name}


def _name(loaded: checkpoint.Loaded) -> str:
    """Return what the model is called in tables and files."""
    return str(loaded.info.get("path", loaded.info.get("form", "model")))


def _forms(request: Request) -> list[str]:
    """Return the models to evaluate, the one that was asked for last: itself, or all checkpoints of the run."""
    if not request.all_checkpoints:
        return [request.model]
    return all_checkpoints(request.model)


def _judge(request: Request, limits: Sequence[Limit], results: Sequence[EvalResult]) -> None:
    problems = broken(limits, results)
    if request.fail_if_worse:
        problems += significantly_worse(results)
    if problems:
        raise LimitError("; ".join(problems))

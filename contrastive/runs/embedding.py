"""`contrastive data embed`: a pool through a model, by all processes of a launch; a killed one is gone on with."""

import logging
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from contrastive import distributed
from contrastive.data.pool import Pool, storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import ConfigError, DataError, ModelError, RunError
from contrastive.models import forms
from contrastive.models.checkpoint import Loaded
from contrastive.processes import end_with_launcher
from contrastive.recipes.embedding import (
    DESCRIPTION,
    FOLDER,
    FORMAT,
    Layout,
    describe,
    description,
    require_same,
)
from contrastive.recipes.embedding_model import Embedder
from contrastive.recipes.embedding_report import report, write_scores
from contrastive.recipes.step import Step
from contrastive.runs import machine
from contrastive.runs.embedding_launch import Launch, Request
from contrastive.runs.lifesigns import LifeSigns
from contrastive.runs.lock import RunLock
from contrastive.runs.opening import open_shards
from contrastive.runs.starting import PATIENCE_SECONDS, require_one_dataset
from contrastive.runs.steps import command_line, conclude, new_folder
from contrastive.settings import Config

__all__ = ["Request", "embed"]
log = logging.getLogger("contrastive")


def embed(config: Config, request: Request) -> None:
    """Embed what is missing of the samples of a configuration, write all scores and report them.

    What is done stays done, whatever ends this: the same command goes on, on any number of processes.

    Raises:
        UserError: the model, the samples or the folder cannot be used.
        Preempted: a process was asked to end.
    """
    end_with_launcher()
    pool = open_shards(config)
    process = PartialState(cpu=request.device == "cpu" or not torch.accelerator.is_available())
    device = torch.device(request.device) if request.device else process.device
    machine.set_threads(None)
    require_one_dataset(pool)
    loaded = forms.open_model(request.model, device, request.weights)
    embedder = Embedder(loaded, device, request.batch_size, request.precision)
    width = embedder.width()
    about = _about(pool, loaded, request, width)
    _require_one_model(loaded)
    layout = Layout(request.out, len(pool), width, request.chunk)
    reader = Reader(pool, Storage(storage_options(config.data)), "substitute")
    started = time.monotonic()
    with LifeSigns(distributed.gather_objects(socket.gethostname())) as signs, ExitStack() as held:
        missing = distributed.on_main(lambda: _begin(layout, about, held))
        _require_shared(layout.folder / DESCRIPTION)
        with Launch(signs) as launch:
            own = missing[distributed.rank() :: distributed.world_size()]
            launch.run(embedder, layout, reader, request, own)
        if process.is_main_process:  # nobody waits for it: of many samples it takes longer than ranks wait
            _finish(layout, reader, about, time.monotonic() - started, len(missing))


def _about(pool: Pool, loaded: Loaded, request: Request, width: int) -> dict[str, Any]:
    """Return what embed.json says: what decides the features first, see `recipes.embedding.IDENTITY`."""
    return {
        "format": FORMAT,
        "form": request.model,
        "weights": request.weights,
        "identity": loaded.identity,
        "fingerprint": pool.fingerprint,
        "samples": len(pool),
        "captions": request.captions,
        "caption_keys": [list(spec.captions.keys) for spec in pool.specs],
        "image_keys": [list(spec.image) for spec in pool.specs],
        "precision": request.precision,
        "width": width,
        "chunk": request.chunk,
        "finished": False,
        "seconds": 0.0,  # of the launches that came to their end
    }


def _begin(layout: Layout, about: dict[str, Any], held: ExitStack) -> list[int]:
    """Claim the folder until `held` is left; return the chunks that are missing, in order.

    Raises:
        DataError: the folder holds something else, or another job works in it.
    """
    folder = layout.folder
    try:
        held.enter_context(RunLock(folder))
    except RunError as error:
        raise DataError(str(error).replace("run.directory:", "--out:")) from None
    found = description(folder)
    new_folder(folder, is_refreshed=found is not None)
    if found is not None:
        require_same(folder, found, about)
        about["seconds"] = found["seconds"]
    (folder / FOLDER).mkdir(exist_ok=True)
    for half_written in (folder / FOLDER).glob(".*"):  # of a process that was killed
        half_written.unlink()
    missing = layout.missing()
    describe(folder, about)
    if len(missing) < layout.chunks:
        there = layout.chunks - len(missing)
        log.info("%s: %s of %s chunks are there already", folder, f"{there:,}", f"{layout.chunks:,}")
    return missing


def _finish(layout: Layout, reader: Reader, about: dict[str, Any], seconds: float, embedded: int) -> None:
    """Write the scores of all samples, the report, and last that all is there."""
    said = {name: value for name, value in about.items() if name not in ("finished", "seconds")}
    scored = write_scores(layout, reader.pool, said)
    step = Step(f"Embedding by {about['form']}", command_line(), provenance=said)
    step.figures = {"embed_dim": layout.width, "chunks": layout.chunks, "chunks embedded now": embedded}
    step.figures["processes"] = distributed.world_size()
    step.figures["seconds"] = round(seconds, 1)
    conclude(report(layout, reader, scored, step), layout.folder)
    describe(layout.folder, {**about, "finished": True, "seconds": round(about["seconds"] + seconds, 1)})


def _require_one_model(loaded: Loaded) -> None:
    """Refuse ranks that have opened other weights under one name.

    Raises:
        ModelError: there are some.
    """
    for rank, identity in enumerate(found := distributed.gather_objects(loaded.identity)):
        if identity != found[0]:
            said = f"rank {rank} has another model than rank 0 ({identity[:8]}, {found[0][:8]})"
            raise ModelError(f"--model: {said}; give all machines the same copy").everywhere()


def _require_shared(path: Path) -> None:
    """Refuse ranks that cannot see what rank 0 has written.

    Raises:
        ConfigError: there are some.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)
    for rank, (host, sees) in enumerate(distributed.gather_objects((socket.gethostname(), path.exists()))):
        if not sees:
            rule = "name a folder on a file system that all machines share"
            raise ConfigError(f"--out: rank {rank} on {host} does not see {path}; {rule}").everywhere()

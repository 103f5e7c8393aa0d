"""Command lines: argv in, exit status out. A user's mistake is one line and status 2."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from contrastive import config, distributed, registry
from contrastive.cli import data as shards
from contrastive.cli import evaluation, exports, imports
from contrastive.errors import Preempted, UserError

log = logging.getLogger("contrastive")
PATIENCE_SECONDS = 20.0
USAGE = """usage: pretrain.py [FILE.yaml …] [key=value …]

Train a contrastive image-text model. Files and overrides are merged in the order given; without a file,
configs/glyphs.yaml is taken. RUN/config.yaml of an earlier run is a valid file.

  python pretrain.py configs/glyphs.yaml data.global_batch_size=512 run.directory=runs/mine
  accelerate launch --config_file configs/launch/cpu2.yaml pretrain.py configs/glyphs.yaml train.world_size=2
"""
COMMANDS = """usage: contrastive COMMAND …

  pretrain      train an image-text model: the same as pretrain.py
  eval          evaluate a run, a checkpoint or another's model: the same as eval_zeroshot.py
  export        write a model in another library's format, and prove it: open_clip, transformers, timm, ONNX, …
  import        make anybody's model our checkpoint, to train it further or to evaluate it
  import-flags  write the settings that an open_clip training command means
  data          pack, filter, dedup, balance, … doctor: shards of anything, and what is in them

contrastive COMMAND --help says more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `contrastive COMMAND …`; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "pretrain": pretrain,
        "eval": evaluate,
        "export": lambda words: _guard(lambda: exports.run(words)),
        "import": lambda words: _guard(lambda: imports.run(words)),
        "import-flags": lambda words: _guard(lambda: imports.run_flags(words)),
        "data": data,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(COMMANDS)
        return 0 if arguments else 2
    if arguments[0] not in commands:
        sys.stderr.write(f"error: {arguments[0]}: no such command; there are {', '.join(commands)}\n")
        return 2
    return commands[arguments[0]](arguments[1:])


def data(arguments: Sequence[str] | None = None) -> int:
    """Run `contrastive data …`; return the exit status."""
    return _guard(lambda: shards.run(sys.argv[1:] if arguments is None else arguments))


def pretrain(arguments: Sequence[str] | None = None) -> int:
    """Run `pretrain.py`; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(arguments):
        return _help()
    return _guard(lambda: _pretrain(arguments))


def _pretrain(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"{argument}: there are no flags; settings are key=value (see --help)")
    files = [a for a in arguments if "=" not in a] or ["configs/glyphs.yaml"]
    from contrastive.runs import pretrain as run  # heavy: torch, open_clip, transformers; not for --help

    prepared = run.prepare(files, [a for a in arguments if "=" in a])
    if prepared is None:
        log.info("already finished; nothing to do")
        return
    run.pretrain(prepared)


def evaluate(arguments: Sequence[str] | None = None) -> int:
    """Run `eval_zeroshot.py`; return the exit status."""
    return _guard(lambda: evaluation.run(sys.argv[1:] if arguments is None else arguments))


def _guard(run: Callable[[], int | None]) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Lines()])
    log.setLevel(logging.INFO if distributed.rank() == 0 else logging.WARNING)
    try:
        return run() or 0
    except Preempted as asked:
        return 128 + asked.signal  # as a shell reports it: what follows with && does not begin
    except UserError as error:
        if error.is_everywhere and distributed.rank() != 0:
            return error.status  # rank 0 says it
        if distributed.rank() != 0 and not distributed.is_initialized():
            # Every process meets the same mistake at the door: the first one says it and the launcher ends the others.
            # A process that is still here after that had a mistake of its own.
            time.sleep(PATIENCE_SECONDS)
        where = f"[rank {distributed.rank()}] " if distributed.world_size() > 1 else ""
        sys.stderr.write(f"{where}error: {' '.join(str(error).split())}\n")
        return error.status
    except KeyboardInterrupt:
        return 130


class _Lines(logging.StreamHandler[TextIO]):
    """Log lines on whatever sys.stderr is now: a progress bar puts itself in its place while it is drawn."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the base class has an attribute
        """Where lines go."""
        return sys.stderr


def _help() -> int:
    console = Console(highlight=False)
    console.print(Text(USAGE))
    section = ""
    for key, default, meaning in config.describe():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            console.print(Text(f"\n{section}", style="bold"))
        shown = "unset" if default in (None, "", {}, []) else default
        console.print(
            Text.assemble((f"  {key}", "cyan"), f" = {shown}"), Text(f"      {meaning}", style="dim"), sep="\n"
        )
    console.print(Text("\nparts (or package.module:Class of your own)", style="bold"))
    for key, table in registry.TABLES.items():
        console.print(Text(f"  {key}: {', '.join(sorted(table))}"))
    return 0

"""Examine shards before a big run: what would stop it, what wastes time, and what to do, in order of gain.

Every shard's index is opened, some samples are decoded, the loader is timed for a few seconds, and what the run needs
is put beside what this machine has. Exit status 1 if something would stop the run.
"""

import argparse
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli.words import add_engine, add_shards, configuration, number, parsed, positive

EPILOG = """The model in a run's file decides the size of its input and the tokenizer; without one they are --size
pixels and CLIP's. What a GPU takes cannot be known here: with the seconds of a step, measured there, the command says
which of data and model limits, and how many workers keep the model busy.

  contrastive data doctor /data/shards
  contrastive data doctor configs/my-run.yaml --out examined
  contrastive data doctor configs/my-run.yaml --step-seconds 0.42 --ranks 8 data.workers=12
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data doctor WORDS`; return the exit status: 1 if something would stop the run."""
    options, settings = parsed(_parser(), words)
    config = configuration(options["shards"], settings)
    from contrastive.runs.doctor import Request, doctor  # heavy: torch; not for --help

    named = [*options.pop("shards"), *(setting for setting in settings if setting.startswith("data."))]
    processes, engine = options.pop("processes"), options.pop("engine")
    asked = Request(shards=" ".join(map(shlex.quote, named)), **options)
    return doctor(config, asked, processes=processes, engine=engine)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data doctor",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    parser.add_argument("--samples", type=positive, default=2000, metavar="N", help="to decode, evenly spread (2,000)")
    parser.add_argument("--seconds", type=_seconds, default=5.0, help="of each part of the timing (5); 0 for none")
    parser.add_argument(
        "--size", type=positive, default=224, metavar="PIXELS", help="of the input without a model (224)"
    )
    parser.add_argument(
        "--ranks", type=positive, metavar="N", help="processes of the run, here (train.world_size, or 1)"
    )
    parser.add_argument("--step-seconds", type=_step, metavar="S", help="of a step of the model alone, as measured")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder for report.json and report.html")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and findings here")
    add_engine(parser)
    return parser


def _seconds(text: str) -> float:
    value = number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be finite, and not negative")
    return value


def _step(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value

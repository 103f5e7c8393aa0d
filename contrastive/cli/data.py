"""`contrastive data …`: shards from anything, their curation, and what is known about them before training."""

import argparse
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from contrastive.cli.words import count, positive

EPILOG = """shards: a path, directory, glob, brace pattern or URL of webdataset tars; or a YAML file of a run, whose
data.* then counts. Settings may follow as data.KEY=value, e.g. data.caption_key=json.caption (all: pretrain.py --help).

  contrastive data index /data/shards
  contrastive data verify '/data/{00000..00999}.tar' --quarantine bad.jsonl
  contrastive data index /data/shards --quarantine bad.jsonl
  contrastive data stats configs/my-run.yaml --picture stats.png
"""
SETTING = re.compile(r"[A-Za-z_]+(\.[A-Za-z_]+)+=")
# Each is a module of contrastive.cli.data_commands, with `run(words)`.
RECIPES = ("pack", "embed", "filter", "dedup", "balance", "subset", "reshard", "merge", "add-captions", "doctor")


def run(arguments: Sequence[str]) -> int:
    """Run `contrastive data ARGUMENTS`; return the exit status: 1 when `verify` finds bad samples."""
    if arguments and arguments[0] in RECIPES:
        return int(recipe(arguments[0]).run(arguments[1:]))
    settings = [word for word in arguments if SETTING.match(word)]
    options = vars(_parser().parse_args([word for word in arguments if not SETTING.match(word)]))
    command, words = options.pop("command"), options.pop("shards")
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    from contrastive.runs import inspection, opening, reading  # heavy: torch; not for --help

    config = opening.configuration(files, settings, [word for word in words if word not in files])
    commands: dict[str, Callable[..., int]] = {
        "index": inspection.index,
        "verify": inspection.verify,
        "stats": inspection.stats,
        "shuffle-report": reading.shuffle_report,
        "bench": reading.bench,
    }
    return commands[command](config, **options)


def recipe(name: str) -> Any:
    """Return the module of a command that makes or changes shards."""
    return import_module(f"contrastive.cli.data_commands.{name.replace('-', '_')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in RECIPES:
        commands.add_parser(name, help=recipe(name).__doc__.splitlines()[0].rstrip("."), add_help=False)
    index = _command(commands, "index", "read every header once, and keep what is found beside the shards")
    index.add_argument("--refresh", action="store_true", help="read shards again that are known")
    index.add_argument("--quarantine", type=Path, action="append", default=[], metavar="FILE", help=QUARANTINE_IN)
    index.add_argument("--forget-quarantine", action="store_true", help="count again what was left out before")
    verify = _command(
        commands, "verify", "decode every sample; a table of failures, and exit status 1 if there are any"
    )
    verify.add_argument("--min-side", type=positive, metavar="PIXELS", help="of the shorter side; fewer is a failure")
    verify.add_argument("--max-aspect", type=float, metavar="RATIO", help="of the longer side to the shorter")
    verify.add_argument("--max-caption-bytes", type=positive, metavar="BYTES")
    verify.add_argument("--quarantine", type=Path, metavar="FILE", help="write the samples that fail into a new file")
    stats = _command(commands, "stats", "sizes, shapes, caption lengths, duplicates")
    stats.add_argument("--picture", type=Path, metavar="FILE", help="draw them: .png, .svg or .pdf")
    for command, most in ((verify, None), (stats, 1_000_000)):
        default = "all" if most is None else f"{most:,}, 0 for all"
        command.add_argument(
            "--sample", type=count, default=most, metavar="N", help=f"look at N samples, evenly spread ({default})"
        )
    for command in (index, verify, stats):
        command.add_argument("--processes", type=positive, metavar="N", help="default: one for each core")
    report = _command(commands, "shuffle-report", "how well batches mix, beside a fair draw and open_clip's order")
    report.add_argument("--batch-size", type=positive, metavar="B", help="default: data.global_batch_size")
    report.add_argument("--seed", type=int, metavar="N", help="default: train.seed")
    report.add_argument("--ranks", type=positive, default=8, help="of open_clip (default 8)")
    report.add_argument("--workers", type=positive, default=4, help="of each of its ranks (default 4)")
    bench = _command(commands, "bench", "samples a second and core, by stage, and what limits")
    bench.add_argument("--seconds", type=float, default=5.0, help="of each part (default 5)")
    bench.add_argument("--size", type=positive, default=224, metavar="PIXELS", help="of the model's input (224)")
    bench.add_argument("--workers", type=count, metavar="N", help="default: data.workers; 0 times one core only")
    return parser


QUARANTINE_IN = "leave out from now on what verify or a run wrote down; may be given several times"


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("shards", nargs="*", help="tars, or the YAML file of a run; data.KEY=value may follow")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return command

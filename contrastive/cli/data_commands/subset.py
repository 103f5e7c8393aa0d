"""Choose samples by lists: ids, verdicts of other steps, DataComp's uids; as a list, a skip list or new shards."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli.data_commands.reshard import add_restart
from contrastive.cli.words import add_engine, add_shards, configuration, parsed, positive
from contrastive.errors import ConfigError

EPILOG = """A list is a verdicts.parquet of filter, dedup or balance; a .parquet, .csv or .jsonl with a column key (uid)
and maybe kept, shard and row; keys, one a line; or DataComp's .npy of "u8,u8". Of several, what all keep is kept.

  contrastive data subset shards --list clean/verdicts.parquet --list unique/verdicts.parquet --out small
  contrastive data subset shards --list clean/verdicts.parquet --out small --skip
  contrastive data subset pool --uids datacomp.npy --rewrite datacomp-shards --shard-size 10000
  contrastive data subset shards --exclude leaks.txt --sample 0.1 --seed 1 --out tenth --uids-out tenth.npy

--skip writes what is left out to DIR/skip.jsonl and quarantines it, as `contrastive data index --quarantine` does:
training on the same shards then reads the subset alone. `contrastive data index SHARDS --forget-quarantine` undoes it,
and takes back what was quarantined before too.
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data subset WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    from contrastive.runs.subsets import Choice, Use, subset  # heavy: torch; not for --help

    if options["skip"] and options["rewrite"]:
        raise ConfigError(
            "--skip: is for the shards as they are; new ones hold the subset alone, leave one of both away"
        )
    choice = Choice(
        options["list"], options["uids"], options["exclude"], options["sample"], options["seed"], options["missing"]
    )
    out = options["rewrite"] or options["out"]
    is_new = options["rewrite"] is not None
    use = Use(out, options["skip"], is_new, options["shard_size"], options["uids_out"], options["restart"])
    config = configuration(options["shards"], settings)
    return subset(config, choice, use, processes=options["processes"], engine=options["engine"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data subset",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    for name, what in (
        ("--list", "keep what it keeps; may be given several times, as the next two"),
        ("--uids", "keep what has these uids in its json member"),
        ("--exclude", "leave out what it keeps, or lists"),
    ):
        parser.add_argument(name, type=Path, action="append", default=[], metavar="FILE", help=what)
    parser.add_argument(
        "--sample", type=_amount, metavar="N|SHARE", help="of what is left: 1000, or a share with a dot: 0.1"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of --sample, and of the order of --rewrite (0)"
    )
    parser.add_argument(
        "--missing",
        choices=("refuse", "drop", "keep"),
        default="refuse",
        help="samples of which a list with a column kept does not speak (refuse)",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="DIR", help="write verdicts.parquet and a report into this folder")
    where.add_argument("--rewrite", type=Path, metavar="DIR", help="write new shards there, with the report")
    parser.add_argument("--skip", action="store_true", help="with --out: leave the others out of the shards' index")
    parser.add_argument("--shard-size", type=positive, default=10_000, metavar="N", help="with --rewrite (10000)")
    parser.add_argument("--uids-out", type=Path, metavar="FILE", help="write the uids as DataComp does, .npy")
    add_restart(parser)
    add_engine(parser)
    return parser


def _amount(text: str) -> int | float:
    try:
        value = float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if value <= 0 or (isinstance(value, float) and value > 1):
        raise argparse.ArgumentTypeError(f"{text} must be a number of samples, or a share above 0 and at most 1.0")
    return value

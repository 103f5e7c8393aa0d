"""Write shards again in equal ones, mixed as a whole: for sources that are sorted, or in pieces of all sizes."""

import argparse
from collections.abc import Sequence

from contrastive.cli.words import add_engine, add_out, add_shards, configuration, parsed, positive
from contrastive.errors import ConfigError

EPILOG = """Members stay byte for byte, and keys as they are; a key that stands twice gets its shard's name before it
(renamed.jsonl says which). All samples are mixed: shards that were written class by class are mixed for any reader.
Rows that are quarantined, or lack an image or a caption, are left out.

  contrastive data reshard sorted-shards --out shards
  contrastive data reshard shards --out by-thousand --shard-size 1000 --keep-order
  contrastive data reshard shards --out split --split val=0.01 test=0.01
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data reshard WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    from contrastive.runs.rewriting import Rewriting, reshard  # heavy: torch; not for --help

    seed = None if options["keep_order"] else options["seed"]
    how = Rewriting(options["out"], options["shard_size"], seed, shares(options["split"]), restart=options["restart"])
    config = configuration(options["shards"], settings)
    return reshard(config, how, processes=options["processes"], engine=options["engine"])


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Declare how shards are written again."""
    add_out(parser, "the new shards, their index and a report")
    parser.add_argument("--shard-size", type=positive, default=10_000, metavar="N", help="samples, at most (10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order (0)")
    parser.add_argument("--keep-order", action="store_true", help="do not mix")
    parser.add_argument(
        "--split", nargs="+", action="extend", default=[], metavar="NAME=SHARE", help="folders, by a hash of the key"
    )
    add_restart(parser)
    add_engine(parser)


def add_restart(parser: argparse.ArgumentParser) -> None:
    """Declare whether unfinished work is thrown away."""
    parser.add_argument("--restart", action="store_true", help="throw away what was begun there in another way")


def shares(words: Sequence[str]) -> dict[str, float]:
    """Return the splits that words like val=0.01 name.

    Raises:
        ConfigError: a word is none.
    """
    found = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            raise ConfigError(f"--split {word}: must be a name and a share, like val=0.01") from None
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data reshard",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    add_writing(parser)
    return parser

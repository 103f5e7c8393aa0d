"""Draw samples so that captions spread over a list of entries (MetaCLIP).

A sample is kept if any of the entries that stand in its captions draws it, each with probability min(1, t / samples of
the entry); rare entries keep all, frequent ones about t. Balance last, after filters and duplicates.
DIR/verdicts.parquet says of every sample whether it is kept, DIR/entries.csv how many samples each entry has before
and after.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli.words import add_engine, add_out, add_shards, configuration, count, parsed, positive, share

EPILOG = """  contrastive data balance /data/shards --entries entries.json --t 20000 --out balanced
  contrastive data balance /data/shards --entries words.txt --tail-share 0.06 --keep-unmatched --out balanced
  contrastive data balance /data/shards --entries-from-captions 50000 --t 500 --seed 1 --out balanced
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data balance WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    from contrastive.runs.balancing import Balancing, balance_shards  # heavy: torch; not for --help

    how = Balancing(**{name: options[name] for name in Balancing._fields})
    return balance_shards(
        configuration(options["shards"], settings),
        how,
        options["out"],
        processes=options["processes"],
        engine=options["engine"],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data balance",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    add_out(parser, "a new folder for verdicts, entries and report")
    entries = parser.add_mutually_exclusive_group(required=True)
    entries.add_argument(
        "--entries", type=Path, metavar="FILE", help="a JSON list of texts, or a text, one on each line"
    )
    entries.add_argument(
        "--entries-from-captions", type=positive, metavar="N", help="the N most frequent words and pairs of words"
    )
    most = parser.add_mutually_exclusive_group(required=True)
    most.add_argument("--t", type=positive, metavar="N", help="samples that an entry should keep (20,000 of 400 M)")
    most.add_argument(
        "--tail-share", type=share, metavar="SHARE", help="choose t by the share of matches in the tail, as 0.06"
    )
    parser.add_argument("--seed", type=count, default=0, metavar="N", help="another seed draws other samples (0)")
    parser.add_argument("--keep-unmatched", action="store_true", help="keep samples without an entry")
    add_engine(parser)
    return parser

"""Find duplicates, equal or near, and images of evaluation sets.

Of a group of duplicates one stays; every other is near that one. DIR/verdicts.parquet says of every sample whether it
is kept, DIR/groups.parquet what each dropped one is near to, DIR/report.html shows pairs side by side.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli.words import add_engine, add_out, add_shards, configuration, count, number, parsed

METHODS = """exact: equal bytes, or what --of names
perceptual (default): images that look the same, whatever their file, size and brightness
embedding: a cosine of --features of at least --threshold
both: near by hash or by features, and looking the same"""
AGAINST = """drop what shows an image of an evaluation set, of shards or of a folder; a YAML, a name of
configs/eval, tars or a folder; may be given several times"""
EPILOG = """  contrastive data dedup /data/shards --out dedup
  contrastive data dedup /data/shards --against coco_karpathy --against /data/my-test --out clean
  contrastive data dedup /data/shards --method exact --of pair --keep largest --out exact
  contrastive data dedup /data/shards --method both --features scores/b32 \\
      --keep score --score scores/b32/scores.parquet:clip_score --out dedup
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data dedup WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    config = configuration(options.pop("shards"), settings)
    from contrastive.recipes.curation.perceptual import Rule
    from contrastive.runs.deduplication import Request, deduplicate  # heavy: torch; not for --help

    rule = Rule(options.pop("distance"), options.pop("likeness"))
    return deduplicate(config, Request(rule=rule, **options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data dedup",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    add_out(parser, "a new folder for verdicts, groups and report; that of a killed run goes on")
    parser.add_argument(
        "--method", choices=("exact", "perceptual", "embedding", "both"), default="perceptual", help=METHODS
    )
    parser.add_argument(
        "--of", choices=("image", "pixels", "pair", "caption"), default="image", help="what is equal, of exact (image)"
    )
    parser.add_argument("--distance", type=_bits, default=12, metavar="BITS", help="of two hashes, at most (12 of 64)")
    parser.add_argument(
        "--likeness", type=_part, default=0.95, metavar="L", help="of two photographs, at least (0.95; drawings: 0.98)"
    )
    parser.add_argument("--threshold", type=_part, default=0.95, metavar="C", help="cosine, at least (0.95)")
    parser.add_argument("--features", type=Path, metavar="DIR", help="of contrastive data embed, on the same shards")
    parser.add_argument(
        "--keep", choices=("first", "largest", "score"), default="first", help="which of a group stays (first)"
    )
    parser.add_argument(
        "--score", metavar="FILE:COLUMN", help="Parquet of a step; the highest stays, with --keep score"
    )
    parser.add_argument("--against", action="append", default=[], metavar="SET", help=AGAINST)
    add_engine(parser)
    return parser


def _bits(text: str) -> int:
    value = count(text)
    if value > MOST_BITS:
        raise argparse.ArgumentTypeError(f"{text} must be at most {MOST_BITS}: half of the bits differ by chance")
    return value


def _part(text: str) -> float:
    """Return a number above 0, up to 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must lie above 0, and be at most 1")
    return value


MOST_BITS = 20

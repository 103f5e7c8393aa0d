"""Write shards again with new captions by key: a field of the json member, or a member of its own."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from contrastive.cli.data_commands.reshard import add_restart
from contrastive.cli.words import add_engine, add_out, add_shards, configuration, parsed

EPILOG = """The table has a row for each caption, or a list of captions in a row; rows of one key are several captions.
All other members stay byte for byte, and shards keep their names. Samples without a new caption stay as they are;
captions whose key no sample has stand in rejected.jsonl. A killed program goes on where it was when it is called again.

  contrastive data add-captions shards --captions recaptions.parquet --out recaptioned
  contrastive data add-captions shards --captions a.csv --key-column id --caption-column text --field short --out b
  contrastive data add-captions images --captions a.jsonl --field txt --as member --out b

Then train with data.caption_key={txt: 0.3, json.recaption: 0.7}, or recaption where it is a member.
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data add-captions WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    from contrastive.recipes.curation.captioning import How
    from contrastive.runs.captioning import Source, add_captions  # heavy: torch; not for --help

    source = Source(options["captions"], options["key_column"], options["caption_column"])
    how = How(options["field"], options["as"], options["replace"])
    config = configuration(options["shards"], settings)
    work = {name: options[name] for name in ("restart", "processes", "engine")}
    return add_captions(config, source, options["out"], how, **work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data add-captions",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    parser.add_argument("--captions", type=Path, required=True, metavar="FILE", help=".parquet, .jsonl, .csv or .tsv")
    parser.add_argument("--key-column", default="key", metavar="NAME", help="that holds the samples' keys (key)")
    parser.add_argument("--caption-column", default="caption", metavar="NAME", help="that holds captions (caption)")
    parser.add_argument("--field", default="recaption", metavar="NAME", help="what to call them (recaption)")
    parser.add_argument(
        "--as", choices=("json", "member"), default="json", help="a field of the json member (json), or a file KEY.NAME"
    )
    parser.add_argument("--replace", action="store_true", help="overwrite captions of that name")
    add_out(parser, "the new shards, their index and a report")
    add_restart(parser)
    add_engine(parser)
    return parser

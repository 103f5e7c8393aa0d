"""Make one set of shards of several sources: mixed, equal, every key there once."""

import argparse
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from contrastive.cli.data_commands.reshard import add_writing, shares
from contrastive.cli.words import configuration, parsed
from contrastive.errors import ConfigError

EPILOG = """Members stay byte for byte. A key that stands in several sources gets the name of its source before it;
renamed.jsonl says which. Weights are not applied: every sample is written once. To see a source more often, or to keep
sources apart, train on data.sources instead.

  contrastive data merge cc3m=/data/cc3m coco=/data/coco-{000..059}.tar --out shards
  contrastive data merge /data/cc3m /data/coco --prefix always --out shards
  contrastive data merge mixture.yaml --out shards      (its data.sources)
"""
NAMED = re.compile(r"([\w-]+)=(.+)")
PATTERN = re.compile(r"[*?\[{]")


def run(words: Sequence[str]) -> int:
    """Run `contrastive data merge WORDS`; return the exit status."""
    options, settings = parsed(_parser(), words)
    from contrastive.runs.rewriting import Rewriting, merge, with_sources  # heavy: torch; not for --help

    given = [word for word in options["sources"] if not word.endswith((".yaml", ".yml"))]
    files = [word for word in options["sources"] if word not in given]
    config: Any = configuration([*files, *given], settings)
    if given:
        config = with_sources(config, sources_of(given))
    seed = None if options["keep_order"] else options["seed"]
    split, prefix = shares(options["split"]), options["prefix"]
    how = Rewriting(options["out"], options["shard_size"], seed, split, prefix, options["restart"])
    return merge(config, how, processes=options["processes"], engine=options["engine"])


def sources_of(words: Sequence[str]) -> dict[str, str]:
    """Return shards by the name of their source; one without a name is called as its folder.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for word in words:
        named = NAMED.fullmatch(word)
        name, shards = (named[1], named[2]) if named else (_folder(word), word)
        if name in found:
            rule = f"name them, like a={found[name]} b={shards}"
            raise ConfigError(f"merge: {found[name]} and {shards} are both called {name!r}; {rule}")
        found[name] = shards
    return found


def _folder(shards: str) -> str:
    parts = [part for part in PurePosixPath(shards).parts if not PATTERN.search(part)]
    folders = [part for part in parts if not part.endswith((".tar", ".tar.gz", ".tgz"))] or parts or ["shards"]
    return re.sub(r"[^\w-]+", "-", folders[-1]).strip("-") or "shards"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data merge",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="[NAME=]SHARDS",
        help="of each source; or the YAML file of a run with data.sources",
    )
    parser.add_argument(
        "--prefix",
        choices=("auto", "always"),
        default="auto",
        help="put the source's name before keys that stand in several (auto), or before all",
    )
    add_writing(parser)
    return parser

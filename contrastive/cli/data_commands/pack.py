"""Make shards of any source: images, tables, COCO, datasets, arrays, other shards.

SOURCE is read once, rows that cannot be used are counted and written down, the others become equal tars in a random
order, with their index. The same source gives the same bytes; a command that was killed goes on when it is given again.
"""

import argparse
import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive.cli.words import add_engine, add_out, positive, share
from contrastive.errors import ConfigError
from contrastive.registry import PACK_FORMS

SPLIT = re.compile(r"(?P<name>[^=\s]+)=(?P<share>\d*\.?\d+(e-?\d+)?)")
OPTION = re.compile(r"[A-Za-z_]\w*=")
OWN = "source"  # the word for splits that the source gives
EXAMPLES = """
  contrastive data pack photos --out shards caption=folder "template=a photo of a {}"
  contrastive data pack pairs.csv --out shards image=path caption=title,alt root=/photos id=uid --split val=0.01
  contrastive data pack annotations/captions_train2017.json --out coco --size 256 --format jpg
  contrastive data pack '/data/cc3m/{00000..00331}.tar' --out mixed --shard-size 5000 --seed 1

Re-encoding turns images as their EXIF says, unless --as-stored; without --size, --format or --upright every
byte is kept. Exit status: 0 done (also with rejected rows: see DIR/rejected.jsonl), 2 something cannot be used.
"""


def run(words: Sequence[str]) -> int:
    """Run `contrastive data pack WORDS`; return the exit status."""
    rest, splits = _split_words(words)
    parser = _parser({"-h", "--help"} & set(words) != set())
    options = vars(parser.parse_intermixed_args(rest))
    source, form = _source_and_options([options["source"], *options["settings"]])
    from contrastive.recipes.packing.pack import Packing  # heavy: torch; not for a wrong word
    from contrastive.runs.packing import Request, pack_source

    how = Packing(
        shard_size=options["shard_size"],
        seed=None if options["keep_order"] else options["seed"],
        splits=_shares(splits),
        split_by=options["split_by"],
        own_splits=splits == [OWN],
        encoding=_encoding(options),
        check=options["check"],
        clean_html=options["clean_html"],
        max_rejected=options["max_rejected"],
    )
    same = {name: options[name] for name in ("out", "form", "engine", "processes", "restart", "json")}
    return pack_source(Request(source, how=how, options=form, **same))


def _source_and_options(words: list[str]) -> tuple[str, dict[str, str]]:
    """Return the one word that is no option of a form, and those that are."""
    # A source may look like an option.
    source = next((word for word in words if not OPTION.match(word) or Path(word).exists()), words[0])
    words.remove(source)
    more = next((word for word in words if not OPTION.match(word)), None)
    if more is not None:
        raise ConfigError(f"{more}: options of a form are KEY=VALUE, and there is one SOURCE (see --help)")
    return source, {key: value for key, _, value in (word.partition("=") for word in words)}


def _split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words without --split and its own, and these: those of a form's options look like them."""
    rest: list[str] = []
    found: list[str] = []
    is_split = False
    for word in words:
        if word.startswith("--split="):
            found.append(word.partition("=")[2])
        elif word == "--split":
            is_split = True
            continue
        elif is_split and (SPLIT.fullmatch(word) or word == OWN):
            found.append(word)
            continue
        else:
            if is_split and not found:
                given = "" if word.startswith("-") else f" {word}"
                raise ConfigError(f"--split{given}: give NAME=SHARE, such as val=0.01, or {OWN}")
            rest.append(word)
        is_split = False
    if is_split and not found:
        raise ConfigError(f"--split: give NAME=SHARE, such as val=0.01, or {OWN}")
    return rest, found


def _shares(words: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        match = SPLIT.fullmatch(word)
        if match is None:
            if words == [OWN]:
                return {}
            raise ConfigError(f"--split {word}: give NAME=SHARE, such as val=0.01; or {OWN} alone")
        if match["name"] in found:
            raise ConfigError(f"--split {word}: {match['name']} stands twice")
        found[match["name"]] = float(match["share"])
    return found


def _encoding(options: dict[str, Any]) -> Any:
    """Return how images are encoded anew; None where nothing asks for it."""
    names = ("size", "fit", "format", "quality", "only_larger", "orientation")
    given = {name: options[name] for name in names if options[name] is not None}
    if options["size"] is None and options["format"] is None and options["orientation"] != "upright":
        if given:
            name = {"only_larger": "upscale", "orientation": "as-stored"}.get(name := next(iter(given)), name)
            raise ConfigError(f"--{name}: says how images are encoded anew, and nothing is; give --size or --format")
        return None
    from contrastive.recipes.packing.encoding import Encoding

    return Encoding(**given)


def _parser(is_asked: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data pack",
        description=__doc__,
        epilog=f"{_forms()}\n{EXAMPLES}" if is_asked else None,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, file, glob or address; hf:NAME of datasets")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="options of its form, see below")
    add_out(parser, "a new or empty folder for the shards; it appears when all of them are there")
    parser.add_argument("--from", dest="form", metavar="FORM", help="what SOURCE is (default: as it looks), see below")
    tars = parser.add_argument_group("shards")
    tars.add_argument("--shard-size", type=positive, default=10_000, metavar="N", help="samples at most (10,000)")
    tars.add_argument("--seed", type=int, default=0, metavar="N", help="of the random order (0)")
    tars.add_argument("--keep-order", action="store_true", help="the source's, instead of a random one")
    text = (
        "parts by a hash of the key, e.g. val=0.01 test=0.01\n(the rest: train); or the word source, where rows say it"
    )
    tars.add_argument("--split", nargs="+", metavar="NAME=SHARE", help=text)
    tars.add_argument("--split-by", metavar="FIELD", help="hash this field, so that equal values stay in one part")
    images = parser.add_argument_group("images")
    images.add_argument("--check", choices=("none", "header", "decode"), default="header", help="(header)")
    images.add_argument("--size", type=positive, metavar="PIXELS", help="make them smaller")
    images.add_argument("--fit", choices=("shortest", "longest", "crop", "squash"), help="what has --size (shortest)")
    images.add_argument("--format", choices=("keep", "jpg", "png", "webp"), help="(keep)")
    images.add_argument("--quality", type=positive, metavar="N", help="of JPEG and WebP, 1 to 100 (95)")
    images.add_argument("--upscale", dest="only_larger", action="store_const", const=False, help="small ones too")
    images.add_argument("--only-larger", action="store_const", const=True, help="small ones stay (default)")
    images.add_argument(
        "--upright", dest="orientation", action="store_const", const="upright", help="turn as EXIF says, drop the tag"
    )
    text = "keep pixels and tag as they are stored, also of what is encoded anew"
    images.add_argument("--as-stored", dest="orientation", action="store_const", const="stored", help=text)
    rows = parser.add_argument_group("rows")
    rows.add_argument("--clean-html", action="store_true", help="drop tags from captions, and read &amp; as &")
    text = "refuse a source of which more cannot be used (0.5)"
    rows.add_argument("--max-rejected", type=share, default=0.5, metavar="SHARE", help=text)
    parser.add_argument("--restart", action="store_true", help="throw away what another command left unfinished")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    add_engine(parser)
    return parser


def _forms() -> str:
    """Return the forms of sources with their options, as their constructors have them."""
    from contrastive import registry  # and with it the forms, for who asks

    lines = ["forms (--from) and their options:"]
    for name in PACK_FORMS:
        part = registry.find(PACK_FORMS, name, "--from")
        parameters = [one for key, one in inspect.signature(part).parameters.items() if key != "source"]
        options = " ".join(_option(one) for one in parameters) or "(none)"
        text = " ".join(inspect.getdoc(part).split())  # type: ignore[union-attr]
        lines += ["", f"  {name}: {options}", textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)


def _option(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return f"{parameter.name}=…"
    value = parameter.default
    return f"{parameter.name}={'' if value is None else str(value).lower() if isinstance(value, bool) else value}"

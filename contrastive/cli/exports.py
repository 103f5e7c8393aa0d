"""`contrastive export`: its options."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from contrastive.errors import ConfigError
from contrastive.registry import EXPORTERS

DESCRIPTION = "Write a checkpoint in another library's format, and prove that it computes the same before it is kept."
EPILOG = """models: RUN (its newest checkpoint), RUN/checkpoints/best, RUN/checkpoints/step-…; ARCH@TAG or ARCH@FILE of
open_clip; local-dir:FOLDER and hf-hub:ORG/NAME in open_clip's form; hf:ORG/NAME or a folder of transformers

  contrastive export runs/glyphs_vit --to transformers exports/glyphs
  contrastive export runs/glyphs_vit --to open_clip,timm,onnx exports/glyphs     # a folder for each in exports/glyphs
  contrastive export runs/glyphs_vit --to all exports/glyphs                     # every format that can hold it
  contrastive export runs/glyphs_vit --to onnx_int8 exports/int8 calibration=static --data configs/eval/digits.yaml
  contrastive export runs/glyphs_vit --to transformers exports/glyphs --push my-name/glyphs --license apache-2.0

options: of onnx opset=18 (to 23); of onnx_int8 calibration=static (convolutions too; give it --data) and
reduce_range=true (processors without VNNI or AMX); of torchao_int8 reduce_range=true

exit status: 0 done, 2 something given cannot be used, or an export differs from its source: it is not kept
"""


def run(arguments: Sequence[str]) -> None:
    """Parse and export.

    Raises:
        UserError: an option or the model cannot be used, or no format holds it.
    """
    options = _parser().parse_intermixed_args(arguments)
    settings = {}
    for word in options.settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word}: options of a format are KEY=VALUE (see --help)")
        settings[key] = yaml.safe_load(value)
    formats = options.to.split(",")
    for name in formats:
        if name not in EXPORTERS and name != "all" and ":" not in name:
            raise ConfigError(f"--to {name}: is no format; there are {', '.join(sorted(EXPORTERS))}, and all")
    if settings and len(formats) > 1:
        raise ConfigError(f"{next(iter(settings))}: options are of one format; export the formats one by one")
    from contrastive.runs import export  # heavy: torch, open_clip, transformers; not for --help

    export.export(
        export.Request(
            model=options.checkpoint,
            formats=formats,
            out=options.out,
            options=settings,
            weights=options.weights,
            data=options.data,
            root=options.root,
            results=options.results,
            license=options.license,
            push=options.push,
            private=options.private,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive export",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="what to export, see below")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; it must not exist yet")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="options of the format")
    formats = ", ".join(sorted(EXPORTERS))
    parser.add_argument(
        "--to", required=True, metavar="FORMAT", help=f"one, or several joined by commas: {formats}; or all"
    )
    parser.add_argument("--weights", choices=("trained", "ema"), default="trained", help="of a run, or their average")
    held = parser.add_argument_group("held against")
    held.add_argument(
        "--data", nargs="+", default=[], metavar="YAML", help="evaluation datasets (default: those of the run)"
    )
    held.add_argument("--root", default=".", metavar="DIR", help="where datasets with a relative root are")
    card = parser.add_argument_group("model card")
    card.add_argument("--results", type=Path, metavar="JSON", help="of an evaluation (default: those of the run)")
    card.add_argument("--license", metavar="ID", help="of the weights, such as apache-2.0 or cc-by-nc-4.0")
    hub = parser.add_argument_group("hub")
    hub.add_argument("--push", metavar="ORG/NAME", help="upload it to this repository of the Hugging Face hub")
    hub.add_argument(
        "--private", action="store_true", help="make that repository a private one (default: as your account has it)"
    )
    return parser

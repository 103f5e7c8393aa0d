"""`contrastive import` and `contrastive import-flags`: their options."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = (
    "Make any model a checkpoint folder of ours, to train further or to evaluate; it is proved before it is kept."
)
EPILOG = """models: RUN (its newest checkpoint), RUN/checkpoints/best, RUN/checkpoints/step-…; ARCH@TAG or ARCH@FILE of
open_clip, where FILE is one of its trainer, plain weights or OpenAI's archive; local-dir:FOLDER and hf-hub:ORG/NAME in
open_clip's form; hf:ORG/NAME or a folder of transformers

  contrastive import ViT-B-32@logs/run/checkpoints/epoch_32.pt models/mine
  contrastive import hf:openai/clip-vit-base-patch32 models/openai
  contrastive import runs/glyphs models/averaged --weights ema
  python pretrain.py my.yaml model.checkpoint=models/mine
"""
FLAGS_DESCRIPTION = "Write the settings that an open_clip training command means, and name what has no equivalent."
FLAGS_EPILOG = """for example

  contrastive import-flags "torchrun --nproc_per_node 8 -m open_clip_train.main --train-data …" -o run.yaml
  contrastive import-flags "$(cat job.sbatch)" -o run.yaml
  python pretrain.py run.yaml
"""


def run(arguments: Sequence[str]) -> int:
    """Run `contrastive import ARGUMENTS`; return the exit status.

    Raises:
        UserError: there is no such model, it cannot be rebuilt, or the folder cannot be written.
    """
    parser = _parser("import", DESCRIPTION, EPILOG)
    parser.add_argument("model", metavar="MODEL", help="what to import, see below")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist")
    parser.add_argument("--weights", choices=("trained", "ema"), default="trained", help="of a run, or their average")
    options = parser.parse_args(arguments)
    from contrastive.runs.imports import import_model  # heavy: torch, open_clip, transformers; not for --help

    imported = import_model(options.model, options.out, options.weights)
    sys.stdout.write("\n".join(imported.lines()) + "\n")
    return 0


def run_flags(arguments: Sequence[str]) -> int:
    """Run `contrastive import-flags ARGUMENTS`; return the exit status.

    Raises:
        UserError: it is no such command line, or the file cannot be written.
    """
    parser = _parser("import-flags", FLAGS_DESCRIPTION, FLAGS_EPILOG)
    parser.add_argument("command_line", metavar="COMMAND", help="all of it, in quotes; or its flags alone")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.yaml", help="default: standard output")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="of the training, where the launcher's words are not there"
    )
    options = parser.parse_args(arguments)
    from contrastive.runs.open_clip_flags import translate, write  # open_clip's parser; not for --help

    translated = translate(options.command_line, options.processes)
    if options.output is None:
        sys.stdout.write(translated.yaml())
        return 0
    write(translated, options.output)
    sys.stdout.write(f"{options.output}: {len(translated.lines)} settings\n{translated.remarks()}")
    return 0


def _parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"contrastive {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

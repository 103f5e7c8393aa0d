"""Embed every sample with a model: features for deduplication, and a CLIP score of every pair.

One process, or many under accelerate launch; a run that was killed goes on where it was, on any number of processes.
"""

import argparse
from collections.abc import Sequence

from contrastive.cli.words import add_out, add_shards, configuration, count, parsed, positive

MODEL = "a run of ours, RUN/checkpoints/best, ARCH@TAG or ARCH@FILE, local-dir:…, hf-hub:…, hf:…, or an export"
EPILOG = """writes DIR/features/ (float16, by chunks of samples), DIR/scores.parquet (clip_score and clip_score_mean of
every sample), DIR/embed.json (what made them), DIR/report.html

  contrastive data embed /data/shards --model runs/glyphs --out scores/mine
  contrastive data embed '/data/{00000..00999}.tar' --model ViT-B-32@laion2b_s34b_b79k --precision bf16 --out scores/b32
  accelerate launch --multi_gpu -m contrastive data embed /data/shards --model ViT-L-14@FILE.pt --out /shared/l14
  contrastive data filter /data/shards --scores scores/mine/scores.parquet …
"""


def run(words: Sequence[str]) -> int:
    """Parse and embed; return the exit status.

    Raises:
        UserError: an option, the model or the shards cannot be used.
    """
    options, settings = parsed(_parser(), words)
    config = configuration(options.pop("shards"), settings)
    from contrastive.runs.embedding import Request, embed  # heavy: torch, open_clip, transformers; not for --help

    embed(config, Request(**options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive data embed",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_shards(parser)
    parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL)
    parser.add_argument("--weights", choices=("trained", "ema"), default="trained", help="of a run, or their average")
    add_out(parser, "a new folder, or that of a run to go on with; all machines must see it")
    parser.add_argument("--batch-size", type=positive, default=256, metavar="B", help="per process (default 256)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the towers; scores are fp32 (default fp32)"
    )
    parser.add_argument(
        "--workers", type=count, metavar="N", help="that read, per process (default: 0 on a CPU, else its cores, <= 8)"
    )
    parser.add_argument(
        "--captions", choices=("all", "first"), default="all", help="of a sample with several (default all)"
    )
    parser.add_argument(
        "--chunk",
        type=positive,
        default=4096,
        metavar="N",
        help="samples of a file; at most so many are embedded twice",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the best there is)")
    return parser

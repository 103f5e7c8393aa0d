"""`eval_zeroshot.py`: its options."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from contrastive.errors import ConfigError

DESCRIPTION = (
    "Evaluate an image-text model: zero-shot classification, retrieval, probes and what else its datasets ask for."
)
EPILOG = """models: RUN (its newest checkpoint), RUN/checkpoints/best, RUN/checkpoints/step-…; ARCH@TAG or ARCH@FILE of
open_clip; local-dir:FOLDER and hf-hub:ORG/NAME in open_clip's form; hf:ORG/NAME or a folder of transformers; the
folder of an export

  python eval_zeroshot.py --model runs/glyphs
  python eval_zeroshot.py --model runs/glyphs --all-checkpoints --output results/glyphs
  python eval_zeroshot.py --model ViT-B-32@laion2b_s34b_b79k --suite configs/suites/retrieval.yaml --root /data
  python eval_zeroshot.py --model runs/a --compare runs/b --data configs/eval/digits.yaml --fail-under digits/top1=0.6
  accelerate launch --config_file configs/launch/cpu2.yaml eval_zeroshot.py --model runs/glyphs

exit status: 0 done, 2 something given cannot be used, 3 under a limit or significantly worse, 4 embeddings mean nothing
"""


def run(arguments: Sequence[str]) -> None:
    """Parse and evaluate.

    Raises:
        UserError: an option, the model or a dataset cannot be used, or a limit is not held.
    """
    options = _parser().parse_args(arguments)
    for name, least in (("batch_size", 1), ("workers", 0), ("resamples", 0)):
        if getattr(options, name) < least:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag}: {getattr(options, name)} must be a number of at least {least}")
    if options.fail_if_worse and options.compare is None:
        raise ConfigError("--fail-if-worse: needs --compare MODEL")
    from contrastive.runs import evaluate  # heavy: torch, open_clip, transformers; not for --help

    cache = Path(options.cache) if options.cache else evaluate.default_cache()
    evaluate.evaluate(
        evaluate.Request(
            model=options.model,
            data=options.data,
            suites=options.suite,
            root=options.root,
            weights=options.weights,
            all_checkpoints=options.all_checkpoints,
            baseline=options.compare,
            fail_if_worse=options.fail_if_worse,
            fail_under=options.fail_under,
            batch_size=options.batch_size,
            workers=options.workers,
            precision=options.precision,
            device=options.device,
            cache=None if options.no_cache else cache,
            resamples=options.resamples,
            dry_run=options.dry_run,
            output=options.output,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval_zeroshot.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what")
    what.add_argument("--model", required=True, metavar="MODEL", help="what to evaluate, see below")
    what.add_argument("--weights", choices=("trained", "ema"), default="trained", help="of a run, or their average")
    what.add_argument("--all-checkpoints", action="store_true", help="every checkpoint of the run")
    what.add_argument(
        "--data", nargs="+", default=[], metavar="YAML", help="datasets, or folders as CLIP_benchmark has them"
    )
    what.add_argument("--suite", nargs="+", default=[], metavar="YAML", help="lists of datasets: configs/suites/")
    what.add_argument("--root", default=".", metavar="DIR", help="where datasets with a relative root are")
    what.add_argument("--dry-run", action="store_true", help="show the plan and the expected time, and stop")
    held = parser.add_argument_group("against what")
    held.add_argument("--compare", metavar="MODEL", help="another model: differences with intervals and p-values")
    held.add_argument("--fail-if-worse", action="store_true", help="status 3 where a first metric is, with p < 0.05")
    held.add_argument(
        "--fail-under", nargs="+", default=[], metavar="METRIC=VALUE", help="status 3; also DATASET/METRIC=VALUE"
    )
    held.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default 2000; 0: no intervals)")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=int, default=256, help="samples per process (default 256)")
    how.add_argument("--workers", type=int, default=0, help="loader processes per process (default 0)")
    how.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the towers; scores are fp32")
    how.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the best there is)")
    how.add_argument("--cache", metavar="DIR", help="where embeddings are kept (default: the user's cache folder)")
    how.add_argument("--no-cache", action="store_true", help="keep none, and take none")
    how.add_argument("--output", metavar="PATH", help="folder for all results and report.html; or a .json file")
    return parser

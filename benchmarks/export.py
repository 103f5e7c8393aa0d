"""Size, latency and throughput of every export format beside eager PyTorch, on the CPU.

    python benchmarks/export.py --quick
    python benchmarks/export.py --json benchmarks/results/export-MACHINE.json --plot export-MACHINE.png

A process for each format loads the export with the target's library alone; eager is our own model in float32. All stay
loaded and take turns, so that a ratio compares neighbours in time; the median over rounds is quoted. Preprocessing and
tokenising are left out: they are the same. ViT-B-32 with random weights, which take as long as others; `--model` for
one of yours. Sizes are those of weights and graphs. Exit status 1: a goal was missed; times of int8 are judged where
the processor has instructions for it. Status 2: the benchmark itself failed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from export_report import figures, flags, plot, record, table, verdicts
from export_turns import EAGER, SIDES, TOWERS, Plan, measure, require_known
from rich.console import Console
from trainers import BenchmarkError

from contrastive.errors import UserError
from contrastive.export.probe import Probe, built_in_probe
from contrastive.export.source import Source, open_source
from contrastive.models.build import build
from contrastive.models.checkpoint import ready
from contrastive.settings import ModelConfig

FULL = "ViT-B-32"
SMALL: dict[str, Any] = {  # as configs/glyphs_vit.yaml, with CLIP's own vocabulary
    "embed_dim": 128,
    "vision_cfg": {"image_size": 32, "patch_size": 4, "width": 128, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
CALLS, FEW_CALLS = {1: 20, 32: 4}, {1: 8, 32: 2}  # of a batch in a turn
SLOWLY_WRITTEN = ("onnx_int8_static",)  # not in a quick run, unless it is named
WIDTH = 150  # of a table that no terminal shows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    options = parse(arguments)
    console = Console(stderr=True)
    try:
        require_known(options.formats)
        source = model(options)
        plan = Plan(
            options.formats, FEW_CALLS if options.quick else CALLS, options.rounds, options.threads, options.timeout
        )
        with tempfile.TemporaryDirectory() as scratch:
            rows = measure(source, probe(options), plan, Path(scratch), console)
    except (BenchmarkError, UserError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    found = figures(rows)
    verdict = verdicts(found, options.quick, flags())
    out = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for tower in TOWERS:
        out.print(table(rows, tower, options.threads))
    for row in rows:
        if row.reason:
            out.print(f"{row.side}: {row.reason}", markup=False, soft_wrap=True)
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items() if name not in ("json", "plot")}
        options.json.write_text(json.dumps(record(rows, found, verdict, settings), indent=1) + "\n")
    if options.plot:
        plot(rows, options.plot, f"{source.form} on {options.threads} threads")
    for name in verdict[1]:
        console.print(f"goal not judged: {name}", style="yellow")
    for name in verdict[0]:
        console.print(f"goal missed: {name}", style="red")
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()))
    return 1 if verdict[0] else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, two rounds, not all formats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the latencies into this PNG")
    parser.add_argument("--model", help=f"any model of contrastive export; {FULL} with random weights by default")
    parser.add_argument("--formats", nargs="+", help=", ".join(SIDES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one answer of a process")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 2
    named = options.formats or [side for side in SIDES if not (options.quick and side in SLOWLY_WRITTEN)]
    options.formats = [EAGER, *(side for side in named if side != EAGER)]
    return options


def model(options: argparse.Namespace) -> Source:
    """Return the model that is exported.

    Raises:
        UserError: there is no such model.
    """
    if options.model:
        return open_source(options.model)
    torch.manual_seed(0)
    built = build(ModelConfig(model_cfg=SMALL) if options.quick else ModelConfig(name=FULL))
    loaded = ready(built, {}, "cpu")
    built.model.requires_grad_(False)
    return Source(built, "a small ViT" if options.quick else FULL, {}, loaded.identity)


def probe(options: argparse.Namespace) -> Probe:
    """Return what is embedded, and what int8 is calibrated with."""
    whole = built_in_probe()
    few = slice(8) if options.quick else slice(None)
    return Probe(whole.images, whole.texts, whole.calibration_images[few], whole.calibration_texts[few])


if __name__ == "__main__":
    sys.exit(main())

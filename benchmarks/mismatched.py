"""Planted fault: 20 % of the glyphs get the captions of other glyphs; the CLIP score of `data embed` must find them.

    python benchmarks/mismatched.py                       # trains two models on 200,000 samples each: 10 to 30 minutes
    python benchmarks/mismatched.py --model runs/glyphs   # the clean one is there already
    python benchmarks/mismatched.py --quick               # an eighth of the names, and a noisy model of some seconds

Captions are dealt out anew among a fifth of the training pairs, so that no picture keeps its name. Found by two models:
- `noisy`: trained on these very pairs, a fifth of them wrong, which it saw as often as the others: the real case;
- `clean`: trained on the right pairs of the same pictures: what a good model from elsewhere can do at best.

ROC AUC: how likely a mismatched pair scores below a right one; 0.5 is chance. The last line is `name=value` figures.
Exit status 1: the AUC of the noisy model (and of the clean one, where there is one) is below 0.9.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from contrastive.hashing import mix
from contrastive.recipes.verdicts import column

ROOT = Path(__file__).parents[1]
CONFIG = "configs/glyphs.yaml"
SHARE, GOAL = 0.2, 0.9
QUICK_SAMPLES, QUICK_PART = 10_000, 8  # samples to train on, of a fewer names: one in so many
CAPTIONS = "data.caption_key=json.captions"
Members = dict[str, bytes]  # of a sample, by extension


def main() -> int:
    """Return the exit status."""
    options = _parser().parse_args()
    started, work = time.monotonic(), options.runs
    data = options.data
    contrastive("data_recipes/glyphs.py", "--out", str(data))
    wrong = plant(data / "train", work / "mismatched", SHARE, QUICK_PART if options.quick else 1)
    noisy = options.noisy or train(work / "noisy", work / "mismatched", data, options.quick)
    models = {"noisy": noisy}
    if options.model is not None or not options.quick:
        models["clean"] = options.model or train(work / "clean", data / "train", data)
    figures = {"mismatched_share": SHARE}
    for name, model in models.items():
        figures[f"auc_{name}"], figures["samples"] = auc(model, work / "mismatched", work / f"scores-{name}", wrong)
    figures["seconds"] = round(time.monotonic() - started, 1)
    show(figures)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))
    return 0 if all(figures[f"auc_{name}"] >= GOAL for name in models) else 1


def plant(source: Path, out: Path, share: float, part: int = 1) -> set[str]:
    """Write copies of shards in which a share of the samples has the captions of others; return their keys.

    Of every `part` names one is kept.
    """
    found = {path.name: read(path) for path in sorted(source.glob("*.tar"))}
    shards = {name: {k: one for k, one in shard.items() if is_kept(one, part)} for name, shard in found.items()}
    samples = {key: members for shard in shards.values() for key, members in shard.items()}
    donors = exchanged({key: members["txt"].decode() for key, members in samples.items()}, share)
    out.mkdir(parents=True, exist_ok=True)
    for name, shard in shards.items():
        with tarfile.open(out / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in shard.items():
                donor = samples[donors.get(key, key)]
                for extension, content in {**members, "txt": donor["txt"], "json": donor["json"]}.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return set(donors)


def is_kept(members: Members, part: int) -> bool:
    """Whether a sample's name is among the one of every `part` that are kept."""
    return int(mix("part", members["txt"].decode())) % part == 0


def exchanged(captions: Mapping[str, str], share: float, seed: int = 0) -> dict[str, str]:
    """Return by key whose caption a share of the samples gets; everyone gives one away, and gets one of other words."""
    order = sorted(captions, key=lambda key: int(mix("mismatched", seed, key)))
    chosen = order[: round(share * len(order))]
    # Equal captions stand together, and the shift is as long as the longest row of them: none comes back to its own.
    chosen.sort(key=lambda key: (int(mix("caption", seed, captions[key])), captions[key]))
    shift = max(Counter(captions[key] for key in chosen).values())
    assert 2 * shift <= len(chosen), "too many equal captions"
    return dict(zip(chosen, chosen[shift:] + chosen[:shift], strict=True))


def read(path: Path) -> dict[str, Members]:
    """Return the members of a shard's samples, by key."""
    found: dict[str, Members] = {}
    with tarfile.open(path) as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            file = tar.extractfile(info)
            assert file is not None, "shards hold files"
            found.setdefault(key, {})[extension] = file.read()
    return found


def train(run: Path, shards: Path, data: Path, quick: bool = False) -> Path:
    """Train the built-in run on these shards; return the run. A finished one is left as it is."""
    given = [f"data.train={shards}", f"model.tokenizer.name={data / 'tokenizer'}", f"run.directory={run}"]
    short = [f"train.total_samples={QUICK_SAMPLES}", f"optim.warmup_samples={QUICK_SAMPLES // 10}"] if quick else []
    contrastive("pretrain.py", CONFIG, *given, *short, "eval.datasets=[]", "tracking.tensorboard=false")
    return run


def auc(model: Path, shards: Path, out: Path, wrong: set[str]) -> tuple[float, int]:
    """Return how well the scores of `data embed` tell wrong pairs from right ones, and of how many samples."""
    contrastive("-m", "contrastive", "data", "embed", str(shards), CAPTIONS, "--model", str(model), "--out", str(out))
    scores = column(out / "scores.parquet", "clip_score")
    is_wrong = np.array([key in wrong for key in column(out / "scores.parquet", "key")])
    return float(roc_auc_score(is_wrong, -scores)), len(scores)


def contrastive(*words: str) -> None:
    """Run one of the project's programs."""
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def show(figures: Mapping[str, float]) -> None:
    """Print the figures as a table."""
    grid = Table(title=f"{figures['samples']:,} glyphs, {SHARE:.0%} of them with another's captions")
    for heading in ("found by a model trained on", "ROC AUC", "goal"):
        grid.add_column(heading, justify="left" if heading.startswith("found") else "right")
    for name, what in (("noisy", "these very pairs"), ("clean", "the right pairs of the same pictures")):
        if f"auc_{name}" in figures:
            grid.add_row(what, f"{figures[f'auc_{name}']:.4f}", f">= {GOAL}")
    Console(width=100).print(grid)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="train for seconds, score a part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--model", type=Path, metavar="RUN", help="a model of the clean glyphs (default: train one)")
    parser.add_argument("--noisy", type=Path, metavar="RUN", help="a model of the mismatched ones (default: train one)")
    parser.add_argument("--data", type=Path, default=Path("data/glyphs"), help="where the glyphs are, or will be")
    parser.add_argument("--runs", type=Path, default=Path("runs/mismatched"), help="where all else is written")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What false negatives cost: the same training with duplicates as negatives (CLIP), as positives, and left out.

    python benchmarks/duplicates.py            # three trainings' data, three treatments, three seeds: about ten minutes
    python benchmarks/duplicates.py --quick    # one dataset, two treatments, one seed: under a minute

The data: 300 characters, each drawn by eight of matplotlib's faces, so that in a batch of 600 most samples show a
character that the batch shows again. The test: the same characters in the four faces that the glyphs
recipe holds out by hash, and their plain names as queries. Three ways to learn from the same pictures:

- `names`: captioned with the character's name, so that each caption occurs exactly eight times; duplicates by caption.
- `dropout`: the same captions, and a text tower of two layers with dropout, which gives equal captions other features.
- `styles`: the name within words about the face ("bold latin small letter a in serif"), so that no text tells which
  captions are of one character; duplicates by label (data.label_key).

All runs of a seed share weights, order of data, steps and every setting but `duplicates`; nothing is tuned for one.
Where equal captions have equal features, as in `names`, equal shares for all positives and plain InfoNCE have the same
value and the same gradient (see benchmarks/README.md), so `names` shows by how much equal runs differ. Judged are the
others: exit status 1 where a median of image to text recall@1 (of `styles` text to image too; it has but 300 queries)
with positives is not above that of plain InfoNCE. Status 2: a run failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml
from quickstart import machine
from rich.console import Console
from rich.table import Table
from trainers import ROOT, BenchmarkError

sys.path.append(str(ROOT / "data_recipes"))
import glyphs

from contrastive.hashing import mix
from contrastive.recipes.fonts import Glyph, draw_face, find_faces
from contrastive.recipes.vocabulary import write_tokenizer
from contrastive.recipes.writing import Sample, write_lines, write_retrieval, write_shards

COPIES, SIZE = 8, 32
TREATMENTS = ("negatives", "positives", "masked")
# What duplicates are equal in, how the samples are read, and what the text tower has that is not in MODEL.
DATASETS: dict[str, tuple[str, dict[str, str], dict[str, float]]] = {
    "names": ("caption", {"caption_key": "txt"}, {}),
    "dropout": ("caption", {"caption_key": "txt"}, {"layers": 2, "dropout": 0.7}),
    "styles": ("label", {"caption_key": "json.style", "label_key": "json.character"}, {}),
}
FIGURES = {
    "i2t_r1": "image_to_text_recall@1",
    "i2t_r5": "image_to_text_recall@5",
    "t2i_r1": "text_to_image_recall@1",
    "t2i_r5": "text_to_image_recall@5",
}
JUDGED = ("dropout_{}_i2t_r1", "styles_{}_i2t_r1", "styles_{}_t2i_r1")
MODEL: dict[str, Any] = {
    "image": {"name": "cnn", "widths": [16, 32, 64, 128]},
    "text": {"name": "lstm", "width": 128},
    "embed_dim": 64,
    "image_size": SIZE,
    "preprocess": {"mean": [0.9, 0.9, 0.9], "std": [0.25, 0.25, 0.25]},
}


@dataclass(frozen=True)
class Job:
    """One training."""

    dataset: str
    duplicates: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a training reached on the faces held out, and the share of its samples that their batch repeats."""

    recalls: Mapping[str, float]
    duplicate_rate: float | None  # None where plain InfoNCE looks at no ids
    seconds: float


def split(drawn: Sequence[Glyph], held_out: set[str], count: int) -> tuple[list[Glyph], list[Glyph]]:
    """Return the glyphs to train on, `COPIES` of each of `count` characters, and those of the faces held out.

    Characters and faces are chosen by hash, among characters that no other looks like.
    """
    alike = glyphs.lookalikes(drawn)
    by_name: dict[str, list[Glyph]] = defaultdict(list)
    for glyph in drawn:
        by_name[glyph.name].append(glyph)
    train, test = [], []
    for name in sorted(by_name, key=lambda name: int(mix("duplicates name", name))):
        seen = [glyph for glyph in by_name[name] if glyph.face.name not in held_out]
        unseen = [glyph for glyph in by_name[name] if glyph.face.name in held_out]
        if name in alike or len(seen) < COPIES or not unseen:
            continue
        train += sorted(seen, key=lambda glyph: int(mix("duplicates face", glyphs.key_of(glyph))))[:COPIES]
        test += unseen
        if len(train) == count * COPIES:
            return train, test
    raise BenchmarkError(f"--characters: {count} is more than the {len(train) // COPIES} that enough faces draw")


def sample(glyph: Glyph) -> Sample:
    """Return a training sample that serves both datasets."""
    about = {"style": glyphs.captions(glyph)[-1], "character": glyph.character}
    return {**glyphs.test_sample(glyph), "json": json.dumps(about)}


def build(folder: Path, count: int) -> None:
    """Draw and write the shards, the held-out faces and the tokenizer."""
    faces = find_faces(glyphs.FAMILIES)
    drawn = [glyph for face in faces for glyph in draw_face(face, SIZE, glyphs.is_wanted)]
    train, test = split(drawn, glyphs.held_out_faces(faces), count)
    write_shards(folder / "train", [sample(glyph) for glyph in train], shards=2)
    write_retrieval(folder / "faces", [glyphs.test_sample(glyph) for glyph in test])
    write_tokenizer(folder / "tokenizer", [caption for glyph in train for caption in glyphs.captions(glyph)])
    write_lines(folder / "names.txt", sorted({glyph.name for glyph in train}))
    evaluation = {"name": "faces", "root": folder / "faces", "candidates": folder / "names.txt", "recall_k": [1, 5]}
    (folder / "faces.yaml").write_text(json.dumps(evaluation, default=str))  # JSON is YAML


def config(job: Job, data: Path, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the run's configuration; jobs of one dataset and seed differ in `duplicates` alone."""
    by, reading, more = DATASETS[job.dataset]
    loss = {"name": "infonce", "duplicates": job.duplicates, "duplicates_by": by}
    batch_size = options.batch_size
    return {
        "model": {
            **MODEL,
            "text": {**MODEL["text"], **more},
            "tokenizer": {"name": str(data / "tokenizer"), "context_length": 20},
        },
        "data": {"train": str(data / "train"), "global_batch_size": batch_size, "workers": 0, **reading},
        "losses": {"contrastive": loss},
        "optim": {"learning_rate": 2e-3, "warmup_samples": 20 * batch_size, "weight_decay": 0.1, "epsilon": 1e-8},
        "train": {"total_samples": options.steps * batch_size, "seed": job.seed, "precision": "fp32", "threads": 1},
        "eval": {"datasets": [str(data / "faces.yaml")]},
        "tracking": {"tensorboard": False},
        "run": {"directory": str(run)},
    }


def train(job: Job, folder: Path, options: argparse.Namespace) -> Outcome:
    """Run pretrain.py as a user does, and read what it wrote."""
    run = folder / "runs" / f"{job.dataset}-{job.duplicates}-{job.seed}"
    file = folder / f"{run.name}.yaml"
    file.write_text(yaml.safe_dump(config(job, folder / "data", run, options)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "pretrain.py"), str(file)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{run.name} ended with status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
    return read(run)


def read(run: Path) -> Outcome:
    """Return a finished run's outcome."""
    result = next(one for one in json.loads((run / "evaluation.json").read_text()) if one["task"] == "retrieval")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [row["contrastive/duplicates"] for row in rows if "contrastive/duplicates" in row]
    recalls = {name: result["metrics"][metric] for name, metric in FIGURES.items()}
    return Outcome(recalls, mean(rates) if rates else None, json.loads((run / "finished.json").read_text())["seconds"])


def medians(outcomes: Mapping[Job, Outcome]) -> dict[str, float]:
    """Return the median over seeds of every figure, as dataset_duplicates_figure, and the duplicate rate."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for job, outcome in outcomes.items():
        groups[f"{job.dataset}_{job.duplicates}"].append(outcome)
    found = {
        f"{key}_{name}": median(o.recalls[name] for o in group) for key, group in groups.items() for name in FIGURES
    }
    return {
        **found,
        "duplicate_rate": mean(o.duplicate_rate for o in outcomes.values() if o.duplicate_rate is not None),
    }


def is_higher(found: Mapping[str, float]) -> bool:
    """Tell whether positives beat plain InfoNCE wherever the two differ and were run."""
    pairs = [
        (found[key.format("positives")], found[key.format("negatives")])
        for key in JUDGED
        if key.format("positives") in found
    ]
    return all(positives > negatives for positives, negatives in pairs)


def table(outcomes: Mapping[Job, Outcome], options: argparse.Namespace) -> Table:
    """Return every run's image to text recall@1, and the medians of all figures."""
    found = medians(outcomes)
    what = f"{options.characters} characters x {COPIES} faces, {options.steps} steps of {options.batch_size}"
    rate = f"{found['duplicate_rate']:.0%} of a batch's samples are duplicates"
    grid = Table(
        caption="recall on faces never trained on: i2t_r1 of each seed, then the medians over seeds",
        title=f"{what}; {rate}\n{time.strftime('%Y-%m-%d')}, {machine()}",
    )
    for heading in ("captions", "duplicates are"):
        grid.add_column(heading)
    for heading in (*(f"seed {seed}" for seed in options.seeds), *FIGURES):
        grid.add_column(heading, justify="right")
    for dataset, duplicates in dict.fromkeys((job.dataset, job.duplicates) for job in outcomes):
        singles = [outcomes[Job(dataset, duplicates, seed)].recalls["i2t_r1"] for seed in options.seeds]
        middles = [found[f"{dataset}_{duplicates}_{name}"] for name in FIGURES]
        grid.add_row(dataset, duplicates, *(f"{value:.3f}" for value in (*singles, *middles)))
    return grid


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="styles alone, negatives and positives, seed 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run's figures here")
    parser.add_argument("--seeds", type=int, nargs="+", help="(default: 0 1 2)")
    parser.add_argument("--steps", type=int, help="(default: 80; 60 with --quick)")
    parser.add_argument("--batch-size", type=int, default=600)
    parser.add_argument("--characters", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, of one thread each")
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = 60 if options.quick else 80
    for name in ("steps", "batch_size", "characters", "jobs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: {getattr(options, name)} must be at least 1")
    if options.characters * COPIES < options.batch_size:
        parser.error(f"--batch-size: {options.batch_size} is more than the {options.characters * COPIES} samples")
    options.seeds = list(dict.fromkeys(options.seeds or ([0] if options.quick else [0, 1, 2])))
    return options


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Return the trainings; those to be compared stand together, so that a busy machine meets them alike."""
    datasets, treatments = (["styles"], TREATMENTS[:2]) if options.quick else (list(DATASETS), TREATMENTS)
    return [Job(*job, seed) for seed in options.seeds for job in ((d, t) for d in datasets for t in treatments)]


def record(outcomes: Mapping[Job, Outcome], options: argparse.Namespace) -> dict[str, Any]:
    """Return what --json keeps."""
    settings = {name: getattr(options, name) for name in ("steps", "batch_size", "characters", "seeds")}
    runs = [
        {**vars(job), **o.recalls, "duplicate_rate": o.duplicate_rate, "seconds": o.seconds}
        for job, o in outcomes.items()
    ]
    about = {"settings": settings, "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    return {**medians(outcomes), "runs": runs, **about}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    options = parse(arguments)
    console = Console(width=120)
    jobs = jobs_of(options)
    try:
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
            build(Path(name) / "data", options.characters)
            console.print(f"{len(jobs)} trainings, {options.jobs} at a time")
            outcomes = dict(zip(jobs, pool.map(lambda job: train(job, Path(name), options), jobs), strict=True))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(table(outcomes, options))
    found = medians(outcomes)
    if options.json is not None:
        options.json.write_text(json.dumps(record(outcomes, options), indent=1) + "\n")
    print(" ".join(f"{name}={value:.4g}" for name, value in found.items()))
    return 0 if is_higher(found) else 1


if __name__ == "__main__":
    sys.exit(main())

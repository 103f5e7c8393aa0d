"""Make golden/clip_benchmark.json again: what CLIP_benchmark 1.6.2 says of the toy model on the toy datasets.

    .venv/bin/python tests/parity/regenerate.py            # its environment is made in .cache/benchmarks, once
    .venv/bin/python tests/parity/regenerate.py --train    # a new model first: a minute of one core
    .venv/bin/python tests/parity/regenerate.py --check    # exit status 1: it says something else than what is in git

Winoground comes from the hub in CLIP_benchmark's own command, so there its metric is called with our pictures.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from evaluate_peer import PACKAGES, command, environment, variables  # noqa: E402  (found by the line above)
from rich.console import Console  # noqa: E402

from tests.parity.toy_model import FOLDER, train  # noqa: E402
from tests.parity.toy_world import write_all  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "clip_benchmark.json"
RUNS = {
    "classification": ("wds/classification", "zeroshot_classification", {}),
    "multilabel": ("wds/multilabel", "zeroshot_classification", {}),
    "retrieval": ("wds/retrieval", "zeroshot_retrieval", {"recall_k": (1, 5, 10)}),
    "sugar_crepe": ("sugar_crepe/swap_att", "image_caption_selection", {}),
}
WINOGROUND = """
import json, sys
from pathlib import Path
import open_clip, torch
from PIL import Image
from clip_benchmark.metrics.image_caption_selection import evaluate
name, root = sys.argv[1], Path(sys.argv[2])
model, _, transform = open_clip.create_model_and_transforms(name)
examples = [json.loads(line) for line in (root / "examples.jsonl").read_text().splitlines()]
def images(one):
    return torch.stack([transform(Image.open(root / "images" / (one[f"image_{side}"] + ".png"))) for side in (0, 1)])
batches = [(images(one)[None], [[one["caption_0"], one["caption_1"]]]) for one in examples]
print(json.dumps(evaluate(model.eval(), batches, open_clip.get_tokenizer(name), "cpu", amp=False)))
"""


def main() -> int:
    """Write or check the golden file; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train the model again before")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    console = Console(stderr=True)
    if options.train:
        console.print(f"trained to a loss of {train(FOLDER):.3f}")
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), environment(console))
    if options.check:
        same = found == json.loads(GOLDEN.read_text())["metrics"]
        console.print("the same" if same else f"differs:\n{json.dumps(found, indent=1)}")
        return 0 if same else 1
    GOLDEN.parent.mkdir(exist_ok=True)
    made_with = {name: version(name) for name in ("torch", "open_clip_torch", "pillow", "webdataset")}
    content = {"made_with": {**made_with, "packages": PACKAGES}, "metrics": found}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def measure(scratch: Path, packages: Path) -> dict[str, dict[str, float]]:
    """Return CLIP_benchmark's metrics of every dataset."""
    data, model, found = write_all(scratch / "data"), f"local-dir:{FOLDER}", {}
    for name, (dataset, task, more) in RUNS.items():
        output = scratch / f"{name}.json"
        options = {"task": task, "batch_size": 16, "num_workers": 0, **more}
        call(command(model, dataset, data / name, output, options), packages)
        found[name] = json.loads(output.read_text())["metrics"]
    said = call([sys.executable, "-c", WINOGROUND, model, str(data / "winoground")], packages)
    return {**found, "winoground": json.loads(said.splitlines()[-1])}


def call(words: list[str], packages: Path) -> str:
    """Return what a process of the peer's environment prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables(packages), timeout=600)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:8])} … failed:\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

import json
from pathlib import Path

import pytest

from contrastive.errors import UserError
from contrastive.runs.evaluate import evaluate
from contrastive.runs.pretrain import prepare, pretrain
from tests import toys

OPTIONS = {"batch_size": 4, "workers": 0, "precision": "fp32", "device": "cpu"}


@pytest.fixture
def run(shards: Path, tmp_path: Path) -> Path:
    prepared = prepare([], toys.overrides(shards, tmp_path / "run"))
    assert prepared is not None
    return pretrain(prepared)


def test_a_checkpoint_and_its_run_give_the_same_numbers(run: Path, classes: Path, tmp_path: Path):
    output = tmp_path / "out.json"
    (of_run,) = evaluate(str(run), [str(classes)], output=str(output), **OPTIONS)
    (of_checkpoint,) = evaluate(str(run / "checkpoints" / "step-00000006"), [str(classes)], output=None, **OPTIONS)
    assert of_run.metrics == of_checkpoint.metrics
    (written,) = json.loads(output.read_text())
    assert written["metrics"] == dict(of_run.metrics)
    assert written["n"] == 6


def test_a_run_without_datasets_says_what_to_add(run: Path):
    with pytest.raises(UserError, match=r"no dataset is named; add --data configs/eval/NAME\.yaml"):
        evaluate(str(run), [], output=None, **OPTIONS)

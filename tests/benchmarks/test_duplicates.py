"""The data, the judgement and the figures of the experiment; the trainings themselves are a benchmark, not a test."""

import argparse
import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import duplicates
import trainers

from contrastive.losses.infonce import InfoNCE
from contrastive.recipes.fonts import Face, Glyph


def options(*arguments: str) -> argparse.Namespace:
    return duplicates.parse(list(arguments))


def outcomes(negatives: list[float], positives: list[float]) -> dict[duplicates.Job, duplicates.Outcome]:
    found = {}
    for treatment, recalls in (("negatives", negatives), ("positives", positives)):
        rate = None if treatment == "negatives" else 0.5
        for seed, recall in enumerate(recalls):
            outcome = duplicates.Outcome(dict.fromkeys(duplicates.FIGURES, recall), rate, 1.0)
            found[duplicates.Job("styles", treatment, seed)] = outcome
    return found


def drawn(faces: int, characters: str) -> list[Glyph]:
    random = np.random.default_rng(0)
    family = [Face(Path(f"F{number:02d}.ttf"), "DejaVu Sans", "bold", "upright") for number in range(faces)]
    return [Glyph(face, c, random.integers(0, 256, (8, 8), dtype=np.uint8)) for face in family for c in characters]


def test_each_caption_stands_eight_times_and_no_held_out_face_is_trained_on():
    train, test = duplicates.split(drawn(12, "abcde"), {"F03", "F07"}, 4)
    assert list(Counter(glyph.name for glyph in train).values()) == [8] * 4
    assert {glyph.face.name for glyph in test} == {"F03", "F07"}
    assert not {glyph.face.name for glyph in train} & {"F03", "F07"}
    assert {glyph.name for glyph in test} == {glyph.name for glyph in train}


def test_more_characters_than_there_are_is_refused():
    with pytest.raises(trainers.BenchmarkError, match="--characters: 6 is more than the 5"):
        duplicates.split(drawn(12, "abcde"), {"F03"}, 6)


def test_a_sample_has_its_name_its_style_and_its_label():
    sample = duplicates.sample(drawn(1, "a")[0])
    assert sample["txt"] == "latin small letter a"
    assert json.loads(sample["json"]) == {"style": "bold latin small letter a in sans-serif", "character": "a"}


def test_runs_to_be_compared_differ_in_nothing_but_what_duplicates_are():
    full = options()
    for dataset in duplicates.DATASETS:
        configs = []
        for treatment in duplicates.TREATMENTS:
            made = duplicates.config(duplicates.Job(dataset, treatment, 1), Path("data"), Path("run"), full)
            assert made["losses"]["contrastive"].pop("duplicates") == treatment
            configs.append(made)
        assert configs[0] == configs[1] == configs[2]


def test_quick_is_one_seed_of_two_treatments():
    assert len(duplicates.jobs_of(options("--quick"))) == 2
    assert len(duplicates.jobs_of(options())) == 27


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--jobs", "x"], ["--characters", "10", "--batch-size", "256"]]
)
def test_wrong_arguments_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        options(*arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("positives", "higher"), [([0.9, 0.4, 0.1], True), ([0.9, 0.3, 0.3], False)])
def test_the_medians_of_the_seeds_are_judged(positives: list[float], higher: bool):
    found = duplicates.medians(outcomes([0.2, 0.3, 0.8], positives))
    assert found["styles_negatives_i2t_r1"] == 0.3
    assert found["duplicate_rate"] == 0.5
    assert duplicates.is_higher(found) == higher


def test_the_table_and_the_record_hold_every_run():
    found, full = outcomes([0.123, 0.2, 0.3], [0.4, 0.5, 0.678]), options()
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(duplicates.table(found, full))
    text = console.export_text()
    assert "0.123" in text
    assert "0.678" in text
    record = json.loads(json.dumps(duplicates.record(found, full)))
    assert len(record["runs"]) == 6
    assert record["settings"]["steps"] == 80


def test_a_run_that_fails_is_reported_with_its_last_lines(tmp_path: Path):
    with pytest.raises(trainers.BenchmarkError, match=r"names-masked-0 ended with status 2:\n.*no such file"):
        duplicates.train(duplicates.Job("names", "masked", 0), tmp_path, options())


def test_equal_captions_of_equal_features_make_plain_and_multi_positive_infonce_one_function():
    """Why the benchmark does not judge `names`: for softmax the sums over a group of equal texts are the same."""
    caption = torch.tensor([0, 1, 0, 2, 2, 0])
    gradients, values = [], []
    for treatment in ("negatives", "positives"):
        torch.manual_seed(0)
        image, words = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (6, 3))
        scale = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
        features = {"image_features": torch.nn.functional.normalize(image, dim=1), "logit_scale": scale}
        features["text_features"] = torch.nn.functional.normalize(words, dim=1)[caption]
        loss = InfoNCE(treatment)(features, {"caption_id": caption})["loss"]
        gradients.append(torch.autograd.grad(loss, [image, words, scale]))
        values.append(loss.detach())
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])

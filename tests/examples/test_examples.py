"""The fine-tuning examples, on random models and few digits: that they run, and that their figures are right."""

import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import digits
import finetune_transformers
import linear_probe_timm
import lora_peft

from tests.export.toys import exporter, small_probe, source

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--learned", "60", "--tested", "40"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports of one random model, by format."""
    place, found = {}, source("vit", tmp_path_factory.mktemp("files"))
    for form in ("timm", "transformers"):
        place[form] = tmp_path_factory.mktemp(form)
        exporter(form).write(found, place[form], small_probe())
    return place


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what a script may do to its own process, and other tests must not see."""
    monkeypatch.setattr(digits, "be_quiet", lambda: None)
    with torch.random.fork_rng(devices=[]):
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    last = capsys.readouterr().out.strip().splitlines()[-1]
    return {name: float(value) for name, value in (pair.split("=") for pair in last.split())}


def check(code: int, found: dict[str, float]) -> None:
    """The exit status and the difference follow from the two accuracies, and those are shares of 40."""
    before, after = found["zeroshot_accuracy"], found["accuracy"]
    assert found["difference_points"] == pytest.approx(100 * (after - before), abs=0.02)
    assert code == (0 if after > before else 1)
    assert all((40 * share) == pytest.approx(round(40 * share), abs=0.01) for share in (before, after))


def test_digits_are_drawn_as_the_recipe_draws_them():
    spec = importlib.util.spec_from_file_location("glyphs_recipe", ROOT / "data_recipes" / "glyphs.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    samples = recipe.digit_samples(digits.SIZE)
    (learned, labels), (held, more) = digits.learned(), digits.held_out()
    assert len(learned) + len(held) == len(samples) == 1797
    assert [int(sample["cls"]) for sample in samples] == labels + more
    for sample, image in list(zip(samples, learned + held, strict=True))[::100]:
        drawn = Image.open(io.BytesIO(sample["png"])).convert("RGB")
        assert np.array_equal(np.asarray(drawn), np.asarray(image))
    assert recipe.CLASSNAMES == digits.NAMES
    assert [template.format(c="{}") for template in recipe.TEMPLATES] == digits.TEMPLATES


def test_zero_shot_answers_as_our_model_does(folders: dict[str, Path], tmp_path: Path):
    images, _ = digits.held_out(40)
    ours = source("vit", tmp_path)
    pixels = torch.stack([ours.built.preprocess.evaluation_transform()(image) for image in images])
    names = [[template.format(name) for template in digits.TEMPLATES] for name in digits.NAMES]
    classes = torch.stack([ours.embed(None, ours.built.tokenizer(prompts))["text"].mean(0) for prompts in names])
    expected = (ours.embed(pixels, None)["image"] @ F.normalize(classes, dim=-1).T).argmax(-1)
    assert digits.zero_shot(folders["transformers"], images) == expected.tolist()


@pytest.mark.parametrize(("predicted", "code", "points"), [([1, 2, 3, 0], 0, 25.0), ([1, 2, 0, 0], 1, 0.0)])
def test_only_what_beats_zero_shot_succeeds(
    predicted: list[int], code: int, points: float, capsys: pytest.CaptureFixture[str]
):
    assert digits.report("guess", predicted, [1, 2, 9, 9], [1, 2, 3, 4]) == code
    assert figures(capsys) == {
        "zeroshot_accuracy": 0.5,
        "accuracy": 0.5 + points / 100,
        "difference_points": points,
    }


def test_the_trainer_fine_tunes_an_export(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "tuned"
    code = finetune_transformers.main([str(folders["transformers"]), *FEW, "--epochs", "1", "--out", str(out)])
    check(code, figures(capsys))
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (folders["transformers"], out))
    assert not torch.equal(before, after)
    assert AutoModelForImageClassification.from_pretrained(out).config.id2label[7] == "digit seven"


def test_timms_features_are_probed(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    code = linear_probe_timm.main([str(folders["timm"]), "--zeroshot", str(folders["transformers"]), *FEW])
    check(code, figures(capsys))
    assert code == 0  # a random tower's features are enough for that, its text tower's are not


def test_an_adapter_is_trained_saved_and_loaded(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "adapter"
    code = lora_peft.main([str(folders["transformers"]), *FEW, "--epochs", "1", "--rank", "2", "--out", str(out)])
    check(code, figures(capsys))
    state = load_file(out / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in state if "lora_B" in name} == {"q_proj", "k_proj", "v_proj"}
    assert all(value.abs().sum() > 0 for name, value in state.items() if "lora_B" in name)  # they begin at zero


@pytest.mark.parametrize("script", [finetune_transformers, lora_peft])
def test_a_folder_that_is_no_export_is_refused_in_one_line(
    script, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert script.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"{tmp_path}: is no export for transformers (config.json and model.safetensors); "
        f"write one with: contrastive export RUN --to transformers {tmp_path}\n"
    )
    assert script.main([str(folders["timm"])]) == 2
    assert "is an export for timm, not for transformers" in capsys.readouterr().err


def test_the_probe_refuses_folders_that_were_mixed_up(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    swapped = [str(folders["transformers"]), "--zeroshot", str(folders["timm"])]
    assert linear_probe_timm.main(swapped) == 2
    assert "is an export for transformers, not for timm" in capsys.readouterr().err


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vision-text-dual-encoder"}))
    (tmp_path / "model.safetensors").touch()
    assert lora_peft.main([str(tmp_path)]) == 2
    assert "holds a vision-text-dual-encoder model; this example needs clip or siglip" in capsys.readouterr().err

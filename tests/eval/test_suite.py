import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from contrastive.errors import ConfigError
from contrastive.eval.bootstrap import Mean, Sampling
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.embed import Embeddings, Pass, embed
from contrastive.eval.result import Result
from contrastive.eval.showing import progress_lines, table
from contrastive.eval.spec import DatasetSpec
from contrastive.eval.suite import evaluate, failed, illustrated, score
from tests.eval.toys import ToyModel, to_tensor, tokenize, write_classes, write_folder


@pytest.fixture
def dataset(tmp_path: Path) -> EvalDataset:
    annotations = [{"cls": str(i % 3), "txt": f"caption {i}\nimage {i}"} for i in range(12)]
    root = write_classes(write_folder(tmp_path / "data", annotations), ["zero", "one", "two"])
    return open_dataset(DatasetSpec("toy", str(root), tasks=("zeroshot", "retrieval")))


class CountingModel(ToyModel):
    rows = 0

    def encode_image(self, image):
        self.rows += len(image)
        return super().encode_image(image)


class ClassCount:
    """A task from outside the package."""

    def __call__(self, embeddings: Embeddings) -> Result:
        return Result({"classes": float(len(embeddings.dataset.classnames))}, {"classes": 0.0})


def test_one_pass_serves_every_task(dataset: EvalDataset) -> None:
    model = CountingModel()
    results = evaluate(model, to_tensor, tokenize, [dataset])
    assert [(result.dataset, result.task, result.n) for result in results] == [
        ("toy", "zeroshot", 12),
        ("toy", "retrieval", 12),
    ]
    assert model.rows == 12
    assert all(result.chance.keys() <= result.metrics.keys() for result in results)


def test_results_are_json(dataset: EvalDataset) -> None:
    for result in evaluate(ToyModel(), to_tensor, tokenize, [dataset]):
        content = json.loads(json.dumps(result.as_dict(), allow_nan=False))
        assert content["timing"].keys() == {"embed_seconds", "score_seconds"}
        assert "gallery" in content["details"]
        assert "details" not in result.as_dict(details=False)


def test_pictures_of_the_gallery_are_images(dataset: EvalDataset) -> None:
    results = illustrated(evaluate(ToyModel(), to_tensor, tokenize, [dataset]), [dataset])
    by_image = results[0].details["gallery"][0]
    by_text = next(e for e in results[1].details["gallery"] if e["direction"] == "text_to_image")
    for content in (by_image["image"], by_text["answers"][0]["image"]):
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (6, 6)


def test_table_shows_value_chance_and_sizes(dataset: EvalDataset) -> None:
    results = evaluate(ToyModel(), to_tensor, tokenize, [dataset])
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table(results))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if "mean_per_class_recall" in line)
    assert f"{results[0].metrics['mean_per_class_recall']:.4f}" in row
    assert "0.3333" in row
    row = next(line for line in lines if "image_to_text_recall@1 " in line)
    assert [cell.strip() for cell in row.split("│")][5:8] == ["0.0833", "12", "24"]


def test_task_from_outside_needs_no_line_here(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": "0"}, {"cls": "1"}]), ["zero", "one"])
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=({"name": f"{__name__}:ClassCount"},)))
    assert evaluate(ToyModel(), to_tensor, tokenize, [dataset])[0].metrics == {"classes": 2.0}


def test_unknown_task_is_refused_before_the_model_runs(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": "0"}, {"cls": "1"}]), ["zero", "one"])
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=("zeroshott",)))
    model = CountingModel()
    with pytest.raises(ConfigError, match=r"dataset toy: tasks.*'zeroshott'.*did you mean zeroshot\?"):
        evaluate(model, to_tensor, tokenize, [dataset])
    assert model.rows == 0


def test_progress_lines_accept_the_reports_of_a_pass(dataset: EvalDataset) -> None:
    with progress_lines(Console(file=io.StringIO())) as progress:
        assert evaluate(ToyModel(), to_tensor, tokenize, [dataset], Pass(progress=progress))


def test_two_datasets_of_one_name_are_refused(dataset: EvalDataset) -> None:
    with pytest.raises(ConfigError, match="2 datasets are named 'toy'"):
        evaluate(ToyModel(), to_tensor, tokenize, [dataset, dataset])


def test_a_task_may_not_stand_twice(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": "0"}, {"cls": "1"}]), ["zero", "one"])
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=("zeroshot", {"name": "zeroshot"})))
    with pytest.raises(ConfigError, match="dataset toy: tasks: zeroshot stands twice"):
        evaluate(ToyModel(), to_tensor, tokenize, [dataset])


class Brightness:
    """A task whose figure is the mean of one number an image."""

    def __call__(self, embeddings: Embeddings) -> Result:
        mean = Mean(embeddings.image_features[:, 0])
        value = float(embeddings.image_features[:, 0].double().mean())
        return Result({"first": value}, {}, estimates={"first": mean}, clusters=len(embeddings.dataset))


def test_intervals_hold_the_value_and_are_made_on_request(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": "0"}] * 30), ["zero"])
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=(f"{__name__}:Brightness",)))
    (plain,) = evaluate(ToyModel(), to_tensor, tokenize, [dataset])
    (result,) = evaluate(ToyModel(), to_tensor, tokenize, [dataset], sampling=Sampling(resamples=200))
    low, high = result.intervals["first"]
    assert low < result.metrics["first"] < high
    assert plain.metrics == result.metrics
    assert plain.intervals == {}


def test_two_models_are_compared_on_the_same_images(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": "0"}] * 30), ["zero"])
    dataset = open_dataset(DatasetSpec("toy", str(root), tasks=(f"{__name__}:Brightness",)))
    ours, theirs = (embed(ToyModel(width), to_tensor, tokenize, dataset) for width in (16, 8))
    (result,) = score(ours, Sampling(resamples=200), theirs)
    (other,) = score(theirs)
    found = result.comparison["first"]
    assert found["baseline"] == other.metrics["first"]
    assert found["delta"] == pytest.approx(result.metrics["first"] - other.metrics["first"])
    assert found["ci95"][0] <= found["delta"] <= found["ci95"][1]


def test_what_failed_has_a_row_a_task_and_no_figure(dataset: EvalDataset) -> None:
    results = failed(dataset, ConfigError("too dark"))
    assert [(result.task, result.metrics, result.error) for result in results] == [
        ("zeroshot", {}, "too dark"),
        ("retrieval", {}, "too dark"),
    ]
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table(results))
    assert "toy zeroshot: too dark" in console.export_text()

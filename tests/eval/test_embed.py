import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.errors import DataError, ModelError
from contrastive.eval.datasets import DatasetSpec, EvalDataset, open_dataset
from contrastive.eval.embed import embed
from tests.eval.toys import ToyModel, png, to_tensor, tokenize, write_classes, write_folder, write_tar


@pytest.fixture
def dataset(tmp_path: Path) -> EvalDataset:
    root = write_folder(tmp_path / "data", [{"cls": str(i % 3)} for i in range(23)])
    return open_dataset(DatasetSpec("toy", str(write_classes(root, ["zero", "one", "two"]))))


class Broken(ToyModel):
    """Encodes as its parent does, and then sets some values of each image's features."""

    def __init__(self, value: float, columns: slice, rows: slice = slice(None)) -> None:
        super().__init__()
        self.value, self.columns, self.rows = value, columns, rows

    def encode_image(self, image: Tensor) -> Tensor:
        features = super().encode_image(image)
        features[self.rows, self.columns] = self.value
        return features


def test_row_i_is_image_i(dataset: EvalDataset) -> None:
    model = ToyModel().eval()
    found = embed(model, to_tensor, tokenize, dataset, batch_size=4)
    with torch.no_grad():
        for index in range(len(dataset)):
            expected = model.encode_image(to_tensor(dataset.image(index))[None])[0]
            torch.testing.assert_close(found.image_features[index], expected)
        torch.testing.assert_close(found.text_features, model.encode_text(tokenize(list(dataset.texts))))
    assert found.image_features.dtype == torch.float32
    assert not found.image_features.requires_grad


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (100, 0), (4, 2)])
def test_batch_size_and_workers_do_not_matter(dataset: EvalDataset, batch_size: int, workers: int) -> None:
    expected = embed(ToyModel(), to_tensor, tokenize, dataset, batch_size=5)
    found = embed(ToyModel(), to_tensor, tokenize, dataset, batch_size=batch_size, workers=workers)
    torch.testing.assert_close(found.image_features, expected.image_features, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.text_features, expected.text_features, atol=1e-6, rtol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_modes_and_random_states_are_as_before(dataset: EvalDataset, workers: int) -> None:
    model = ToyModel()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    embed(model, to_tensor, tokenize, dataset, workers=workers)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)


def test_modes_return_after_an_error(dataset: EvalDataset) -> None:
    model = ToyModel()
    with pytest.raises(RuntimeError, match="tokenizer"):
        embed(model, to_tensor, _fails, dataset)
    assert model.training


def _fails(texts: list[str]) -> Tensor:
    raise RuntimeError("tokenizer")


def test_float32_ignores_an_outer_autocast_and_bfloat16_does_not_score_in_it(dataset: EvalDataset) -> None:
    expected = embed(ToyModel(), to_tensor, tokenize, dataset)
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(ToyModel(), to_tensor, tokenize, dataset)
    assert torch.equal(found.image_features, expected.image_features)
    half = embed(ToyModel(), to_tensor, tokenize, dataset, precision="bf16").image_features
    assert half.dtype == torch.float32
    assert not torch.equal(half, expected.image_features)
    torch.testing.assert_close(half.norm(dim=1), torch.ones(len(half)))


def test_progress_reaches_the_total(dataset: EvalDataset) -> None:
    seen: list[tuple[str, int, int]] = []
    embed(ToyModel(), to_tensor, tokenize, dataset, batch_size=10, progress=lambda *state: seen.append(state))
    assert seen[:3] == [("toy images", 10, 23), ("toy images", 20, 23), ("toy images", 23, 23)]
    assert seen[-1] == ("toy texts", 6, 6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Broken(float("nan"), slice(None)), "image features of 23 of 23 rows are not finite"),
        (
            Broken(float("inf"), slice(2, 3), slice(0, 1)),
            "image features of 6 of 23 rows are not finite, .*'0.tar: s0000000'",
        ),
        (Broken(0.0, slice(None)), "23 of 23 rows are zero"),
        (Broken(1.0, slice(None)), "image features: all 23 rows are the same"),
    ],
)
def test_features_without_meaning_are_refused(dataset: EvalDataset, model: Broken, message: str) -> None:
    with pytest.raises(ModelError, match=f"dataset toy: .*{message}"):
        embed(model, to_tensor, tokenize, dataset, batch_size=4)


def test_nearly_equal_features_are_warned_of(dataset: EvalDataset) -> None:
    found = embed(Broken(9.0, slice(0, 12)), to_tensor, tokenize, dataset)
    assert [warning for warning in found.warnings if "image features hardly differ: mean cosine 0.99" in warning]


def test_encoders_of_different_width_are_refused(dataset: EvalDataset) -> None:
    model = ToyModel()
    model.text = torch.nn.Parameter(torch.randn(256, 5))
    with pytest.raises(ModelError, match="16 dimensions and text features 5"):
        embed(model, to_tensor, tokenize, dataset)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_one_line_with_tar_and_key(tmp_path: Path, workers: int) -> None:
    root = write_folder(tmp_path / "data", [{"txt": "x"}], shards=1, kind="retrieval")
    write_tar(root / "test/0.tar", {"a.png": png(0), "a.txt": b"x", "b.png": b"no image", "b.txt": b"y"})
    with pytest.raises(DataError, match=r"^\S*0\.tar: the image of key 'b' cannot be read [^\n]*$"):
        embed(ToyModel(), to_tensor, tokenize, open_dataset(DatasetSpec("toy", str(root))), workers=workers)


def test_processes_without_a_group_are_refused(dataset: EvalDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Exception, match="2 processes were launched, but no process group"):
        embed(ToyModel(), to_tensor, tokenize, dataset)

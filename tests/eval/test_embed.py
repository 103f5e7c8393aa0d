import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contrastive.errors import DataError, MeaninglessError, ModelError, Preempted
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.embed import Pass, embed
from contrastive.eval.spec import DatasetSpec
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
    found = embed(model, to_tensor, tokenize, dataset, Pass(batch_size=4))
    with torch.no_grad():
        for index in range(len(dataset)):
            expected = model.encode_image(to_tensor(dataset.image(index))[None])[0]
            torch.testing.assert_close(found.image_features[index], expected)
        torch.testing.assert_close(found.text_features, model.encode_text(tokenize(list(dataset.texts))))
    assert found.image_features.dtype == torch.float32
    assert not found.image_features.requires_grad


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (100, 0), (4, 2)])
def test_batch_size_and_workers_do_not_matter(dataset: EvalDataset, batch_size: int, workers: int) -> None:
    expected = embed(ToyModel(), to_tensor, tokenize, dataset, Pass(batch_size=5))
    found = embed(ToyModel(), to_tensor, tokenize, dataset, Pass(batch_size=batch_size, workers=workers))
    torch.testing.assert_close(found.image_features, expected.image_features, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.text_features, expected.text_features, atol=1e-6, rtol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_modes_and_random_states_are_as_before(dataset: EvalDataset, workers: int) -> None:
    model = ToyModel()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    embed(model, to_tensor, tokenize, dataset, Pass(workers=workers))
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
    half = embed(ToyModel(), to_tensor, tokenize, dataset, Pass(precision="bf16")).image_features
    assert half.dtype == torch.float32
    assert not torch.equal(half, expected.image_features)
    torch.testing.assert_close(half.norm(dim=1), torch.ones(len(half)))


def test_progress_reaches_the_total(dataset: EvalDataset) -> None:
    seen: list[tuple[str, int, int]] = []
    embed(ToyModel(), to_tensor, tokenize, dataset, Pass(batch_size=10, progress=lambda *state: seen.append(state)))
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
    with pytest.raises(MeaninglessError, match=f"dataset toy: .*{message}"):
        embed(model, to_tensor, tokenize, dataset, Pass(batch_size=4))


def test_nearly_equal_features_are_warned_of(dataset: EvalDataset) -> None:
    found = embed(Broken(9.0, slice(0, 12)), to_tensor, tokenize, dataset)
    assert [warning for warning in found.warnings if "image features hardly differ: mean cosine 0.99" in warning]


def test_encoders_of_different_width_are_refused(dataset: EvalDataset) -> None:
    model = ToyModel()
    model.text = torch.nn.Parameter(torch.randn(256, 5))
    with pytest.raises(ModelError, match="16 dimensions and text features 5"):
        embed(model, to_tensor, tokenize, dataset)


def damaged(root: Path, count: int, broken: set[int]) -> Path:
    """Write a folder of which the images `broken` are no images."""
    write_classes(write_folder(root, [{"cls": "0"}], shards=1), ["zero", "one"])
    members = {}
    for index in range(count):
        members[f"{index}.png"] = b"no image" if index in broken else png(index)
        members[f"{index}.cls"] = str(index % 2).encode()
    write_tar(root / "test/0.tar", members)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_one_line_with_count_name_reason_and_remedy(tmp_path: Path, workers: int) -> None:
    dataset = open_dataset(DatasetSpec("toy", str(damaged(tmp_path / "data", 8, {2, 5}))))
    how_many = r"dataset toy: 2 of 8 images \(25.00%\) cannot be read: 0.tar: 2, 0.tar: 5; "
    reason = (
        r"\S*0\.tar: key '2': the image cannot be read \([^\n]*\); replace it, or set max_unreadable, now 0, [^\n]*"
    )
    with pytest.raises(DataError, match=f"^{how_many}{reason}$") as raised:
        embed(ToyModel(), to_tensor, tokenize, dataset, Pass(workers=workers))
    assert raised.value.is_everywhere


def test_a_pass_ends_as_soon_as_too_many_images_are_unreadable(tmp_path: Path) -> None:
    spec = DatasetSpec("toy", str(damaged(tmp_path / "data", 40, {3, 9, 11, 39})), max_unreadable=0.05)
    seen: list[int] = []
    how = Pass(batch_size=4, progress=lambda what, done, total: seen.append(done))
    with pytest.raises(DataError, match=r"at least 3 of 40 images \(7.50%\) cannot be read: .* now 0.05,"):
        embed(ToyModel(), to_tensor, tokenize, open_dataset(spec), how)
    assert seen == [4, 8, 12]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_within_the_rate_are_left_out_and_named(tmp_path: Path, workers: int) -> None:
    broken = {2, 5}
    folders = damaged(tmp_path / "some", 12, broken), damaged(tmp_path / "all", 12, set())
    some, every = (open_dataset(DatasetSpec("toy", str(folder), max_unreadable=0.2)) for folder in folders)
    found = embed(ToyModel(), to_tensor, tokenize, some, Pass(batch_size=5, workers=workers))
    expected = embed(ToyModel(), to_tensor, tokenize, every)
    kept = [index for index in range(12) if index not in broken]
    torch.testing.assert_close(found.image_features, expected.image_features[kept], atol=1e-6, rtol=0)
    assert torch.equal(found.text_features, expected.text_features)
    assert found.dataset.labels == tuple(index % 2 for index in kept)
    assert found.unreadable == ("0.tar: 2", "0.tar: 5")
    assert [note for note in found.warnings if "2 of 12 images (16.67%) cannot be read and are left out" in note]


def test_an_image_that_the_transform_refuses_is_unreadable(dataset: EvalDataset) -> None:
    def refuses(image: Image.Image) -> Tensor:
        raise ValueError("bad mode")

    with pytest.raises(DataError, match=r"0.tar: s0000000: the image cannot be transformed \(bad mode\)"):
        embed(ToyModel(), refuses, tokenize, dataset)


def test_splits_for_probes_are_embedded_too(dataset: EvalDataset) -> None:
    whole = embed(ToyModel(), to_tensor, tokenize, dataset)
    first, last = dataset.without(range(10, 23)), dataset.without(range(20))
    seen: set[str] = set()
    how = Pass(progress=lambda what, done, total: seen.add(what))
    found = embed(ToyModel(), to_tensor, tokenize, replace(dataset, train=first, val=last), how)
    assert found.train is not None
    assert found.val is not None
    torch.testing.assert_close(found.train.image_features, whole.image_features[:10], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.val.image_features, whole.image_features[20:], atol=1e-6, rtol=0)
    assert found.train.dataset.labels == first.labels
    assert torch.equal(found.image_features, whole.image_features)
    assert seen == {"toy images", "toy texts", "toy training images", "toy validation images"}


def test_temperature_and_bias_of_the_model_are_told(dataset: EvalDataset) -> None:
    model = ToyModel()
    model.logit_scale = torch.nn.Parameter(torch.ones(1) * 2.5)
    model.logit_bias = torch.nn.Parameter(torch.tensor(-2.0))
    found = embed(model, to_tensor, tokenize, dataset)
    assert found.logit_scale == pytest.approx(math.exp(2.5))
    assert found.logit_bias == -2.0


def test_a_dataset_without_texts_has_none(dataset: EvalDataset) -> None:
    found = embed(ToyModel(), to_tensor, tokenize, replace(dataset, texts=(), prompts=()))
    assert found.text_features.shape[0] == 0


def test_a_signal_ends_a_pass(dataset: EvalDataset) -> None:
    def asked(what: str, done: int, total: int) -> None:
        raise Preempted(15)

    with pytest.raises(Preempted) as raised:
        embed(ToyModel(), to_tensor, tokenize, dataset, Pass(progress=asked))
    assert raised.value.signal == 15


def test_captions_are_cut_where_the_model_does_not_read_padding(dataset: EvalDataset) -> None:
    """The toy weighs its tokens by position and sums them, padding included: cut captions would change its features."""

    class Cutting(ToyModel):
        reads_padding = False

        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.text[0] = 0  # so that padding cannot be read
            self.widths: list[int] = []

        def encode_text(self, text: Tensor) -> Tensor:
            self.widths.append(text.shape[1])
            return super().encode_text(text)

    class Padding:
        pad_id = 0

        def __call__(self, texts: list[str]) -> Tensor:
            return tokenize(texts)

    texts = tuple(f"{index} {'x' * (index % 29)}" for index in range(50))
    dataset = replace(dataset, texts=texts, prompts=())
    model = Cutting()
    found = embed(model, to_tensor, Padding(), dataset, Pass(batch_size=10))
    assert model.widths == sorted(model.widths, reverse=True)
    assert min(model.widths) < 32
    model.reads_padding = True
    torch.testing.assert_close(
        found.text_features, embed(model, to_tensor, tokenize, dataset).text_features, atol=1e-6, rtol=0
    )


def test_processes_without_a_group_are_refused(dataset: EvalDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Exception, match="2 processes were launched, but no process group"):
        embed(ToyModel(), to_tensor, tokenize, dataset)

"""Features and CLIP scores of chunks, beside evaluation's own pass and a loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import MeaninglessError, ModelError
from contrastive.eval.datasets import open_dataset
from contrastive.eval.embed import Pass, embed
from contrastive.eval.spec import DatasetSpec
from contrastive.models.checkpoint import Loaded
from contrastive.recipes import embedding_model
from contrastive.recipes.embedding_model import Embedder
from contrastive.recipes.samples import Sample
from tests import toys
from tests.recipes.embedding_toys import CPU, embedded, loaded, model, pool_of, spoilt, varied

SAMPLES = 11


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(model(tmp_path_factory.mktemp("model") / "step-1"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    varied(tmp_path / "data" / "test", SAMPLES)
    return tmp_path / "data"


def test_features_are_those_of_evaluation(root: Path, tiny: Loaded):
    wds = {"name": "shards", "caption_key": "json.captions"}
    dataset = open_dataset(DatasetSpec("toy", str(root), format=wds, tasks=("retrieval",)))
    expected = embed(tiny.model, tiny.transform, tiny.tokenizer, dataset, Pass(batch_size=4))
    (chunk,) = embedded(pool_of(root / "test"), tiny)
    assert np.allclose(chunk.image, expected.image_features.numpy(), atol=1e-6)
    for number, texts in enumerate(dataset.captions):
        text = expected.text_features[texts[chunk.best[number]]]
        assert np.allclose(chunk.text[number], text.numpy(), atol=1e-6)


def test_scores_are_those_of_a_loop(root: Path, tiny: Loaded):
    pool = pool_of(root / "test")
    chunk = embedded(pool, tiny)[0]
    reader = Reader(pool, Storage())
    for number in range(SAMPLES):
        sample = Sample(reader, number)
        with torch.no_grad():
            image = tiny.model.encode_image(tiny.transform(sample.image)[None])
            cosines = [float(image @ tiny.model.encode_text(tiny.tokenizer([text])).T) for text in sample.captions]
        assert chunk.scores[number] == pytest.approx([max(cosines), sum(cosines) / len(cosines)], abs=1e-6)
        assert cosines[chunk.best[number]] == pytest.approx(max(cosines), abs=1e-6)
        assert float(chunk.image[number] @ chunk.text[number]) == pytest.approx(chunk.scores[number][0], abs=1e-6)
    assert chunk.reasons == ("",) * SAMPLES
    assert len(set(chunk.best.tolist())) > 1


def test_of_captions_that_fit_equally_the_first_is_taken(tmp_path: Path, tiny: Loaded):
    # Longer than the context of twelve tokens: what differs is cut off.
    same = " ".join(["word"] * 20)
    captions = f'{{"captions": ["{same} one", "{same} two"]}}'.encode()
    toys.write_tar(tmp_path / "s" / "0.tar", [("a.png", toys.encode(toys.image(1))), ("a.json", captions)])
    chunk = embedded(pool_of(tmp_path / "s"), tiny)[0]
    assert chunk.best.tolist() == [0]


@pytest.mark.parametrize(("batch_size", "workers"), [(4, 2), (1, 0), (100, 0)])
def test_batches_and_readers_do_not_move_the_features(root: Path, tiny: Loaded, batch_size: int, workers: int):
    pool = pool_of(root / "test")
    (expected,) = embedded(pool, tiny)
    (found,) = embedded(pool, tiny, batch_size=batch_size, workers=workers)
    tolerance = 0.0 if batch_size == 4 else 1e-6
    for name in ("image", "text", "scores"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=tolerance), name


def test_captions_that_are_scored_in_pieces_score_the_same(root: Path, tiny: Loaded, monkeypatch: pytest.MonkeyPatch):
    pool = pool_of(root / "test")
    (expected,) = embedded(pool, tiny, batch_size=2)
    monkeypatch.setattr(embedding_model, "MOST_CAPTIONS", 9)
    (found,) = embedded(pool, tiny, batch_size=2)
    assert np.allclose(found.scores, expected.scores, rtol=0, atol=1e-6)
    assert np.array_equal(found.best, expected.best)


def test_what_cannot_be_embedded_has_neither_features_nor_a_score(tmp_path: Path, tiny: Loaded):
    pool = pool_of(spoilt(tmp_path / "shards"), "txt")
    (chunk,) = embedded(pool, tiny)
    assert [bool(reason) for reason in chunk.reasons] == [False, True, True, False, True, False]
    assert np.isfinite(chunk.scores).all(1).tolist() == [True, False, False, True, False, True]
    assert np.isfinite(chunk.image).all(1).tolist() == [True, False, True, True, False, True]
    assert np.isfinite(chunk.text).all(1).tolist() == [True, False, False, True, False, True]
    assert chunk.best.tolist() == [0, -1, -1, 0, -1, 0]
    assert np.allclose(chunk.scores[0], chunk.scores[5], rtol=0, atol=1e-6)


def test_features_that_are_not_finite_are_a_reason(root: Path, tiny: Loaded):
    def transform(image: Image.Image) -> torch.Tensor:
        pixels = tiny.transform(image)
        return pixels / 0 if np.array_equal(np.asarray(image), toys.image(5)) else pixels

    (chunk,) = embedded(pool_of(root / "test"), replace(tiny, transform=transform))
    assert [number for number, reason in enumerate(chunk.reasons) if reason] == [5]
    assert chunk.reasons[5] == "features: not finite"
    assert np.isnan(chunk.scores[5]).all()


def test_bf16_gives_nearly_the_same_scores_in_float32(root: Path, tiny: Loaded):
    pool = pool_of(root / "test")
    (expected,) = embedded(pool, tiny)
    (found,) = embedded(pool, tiny, precision="bf16")
    assert np.allclose(found.scores, expected.scores, rtol=0, atol=0.02)
    assert not np.array_equal(found.scores, expected.scores)
    assert np.allclose(np.linalg.norm(found.image, axis=1), 1, atol=1e-6)


class Broken(torch.nn.Module):
    reads_padding = True

    def __init__(self, image: list[float], text: list[float]) -> None:
        super().__init__()
        self.image, self.text = torch.tensor([image]), torch.tensor([text])

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.image

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        return self.text


def test_a_model_that_means_nothing_is_refused_at_the_door(tiny: Loaded):
    with pytest.raises(ModelError, match="image features have 2 dimensions and text features 3; they must be equal"):
        Embedder(replace(tiny, model=Broken([1, 2], [1, 2, 3])), CPU).width()
    for features in ([float("nan"), 1.0], [0.0, 0.0]):
        with pytest.raises(MeaninglessError, match="not finite, or zero; the model has diverged or is damaged"):
            Embedder(replace(tiny, model=Broken([1, 2], features)), CPU).width()

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from contrastive.errors import DataError
from contrastive.eval.batches import image_batches, probe, text_batches
from contrastive.models.build import build
from contrastive.settings import ModelConfig
from tests.eval.toys import tokenize


class Coloured:
    """An image whose every pixel is its number; 3 cannot be read."""

    def __init__(self, number: int) -> None:
        self.name, self.stamp, self.number = str(number), "1", number

    def decode(self) -> Image.Image:
        if self.number == 3:
            raise DataError("3: the image cannot be read")
        return Image.new("RGB", (2, 2), (self.number,) * 3)


def number_of(image: Image.Image) -> Tensor:
    return torch.tensor(image.getpixel((0, 0)))  # type: ignore[arg-type]


IMAGES = [Coloured(number) for number in range(10)]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_in_the_order_of_their_ids_and_broken_ones_as_words(workers: int) -> None:
    found = list(image_batches(IMAGES, [7, 3, 1, 9, 8], number_of, batch_size=2, workers=workers))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert torch.cat([batch.ids for batch in found]).tolist() == [7, 1, 9, 8]
    assert torch.cat([batch.inputs for batch in found])[:, 0].tolist() == [7, 1, 9, 8]
    assert [batch.broken for batch in found] == [{3: "3: the image cannot be read"}, {}, {}]


def test_a_batch_of_broken_images_has_no_inputs() -> None:
    (found,) = image_batches(IMAGES, [3], number_of, batch_size=2)
    assert found.inputs is None
    assert len(found.ids) == 0


def test_no_ids_make_no_batch() -> None:
    assert list(image_batches(IMAGES, [], number_of, batch_size=2, workers=2)) == []
    assert list(text_batches(["a"], [], tokenize, batch_size=2)) == []


def test_texts_keep_their_order_where_padding_is_read() -> None:
    texts = ["aaa", "b", "cc"]
    found = list(text_batches(texts, [2, 0, 1], tokenize, batch_size=2))
    assert [batch.ids.tolist() for batch in found] == [[2, 0], [1]]
    assert torch.equal(torch.cat([batch.inputs for batch in found]), tokenize(["cc", "aaa", "b"]))


def test_texts_of_like_length_come_together_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrastive.eval.batches.SORTED_TEXTS", 16)
    texts = ["x" * (1 + (7 * index) % 30) for index in range(40)]
    ids = list(range(1, 40, 2))
    found = list(text_batches(texts, ids, tokenize, batch_size=4, pad_id=0))
    assert sorted(torch.cat([batch.ids for batch in found]).tolist()) == ids
    for batch in found:
        whole = tokenize([texts[index] for index in batch.ids.tolist()])
        width = batch.inputs.shape[1]
        assert torch.equal(batch.inputs, whole[:, :width])
        assert not whole[:, width:].any()
    lengths = [len(texts[index]) for batch in found[:4] for index in batch.ids.tolist()]
    assert lengths == sorted(lengths, reverse=True)


def test_a_padding_id_inside_a_text_is_part_of_it() -> None:
    """0 is also CLIP's token of an exclamation mark."""
    tokens = torch.tensor([[5, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0], [5, 9] + [0] * 16])
    (found,) = text_batches(["a", "b"], [0, 1], lambda texts: tokens[["ab".index(text) for text in texts]], 2, 0)
    assert torch.equal(found.inputs, tokens[:, :16])


def test_cut_captions_have_the_features_of_padded_ones() -> None:
    cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 77, "width": 32, "heads": 2, "layers": 2},
    }
    built = build(ModelConfig(model_cfg=cfg))
    model = built.model.eval()
    assert not model.reads_padding
    texts = [f"{'very ' * (index % 20)}small picture number {index} !" for index in range(30)]
    whole = torch.empty(30, 16)
    with torch.no_grad():
        for batch in text_batches(texts, range(30), built.tokenizer, 8, built.tokenizer.pad_id):
            assert batch.inputs.shape[1] < 77
            whole[batch.ids] = model.encode_text(batch.inputs)
        torch.testing.assert_close(whole, model.encode_text(built.tokenizer(texts)), atol=1e-6, rtol=0)


def test_a_probe_tells_other_pixels_and_outlives_broken_images(tmp_path: Path) -> None:
    assert probe(IMAGES) == probe(list(IMAGES))
    assert probe(IMAGES) != probe(IMAGES[::-1])
    assert probe([]) == probe([])

"""Samples of a pool as batches for a model."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.errors import DataError
from contrastive.models.checkpoint import Loaded
from contrastive.recipes.embedding_samples import Reading, batches, spans
from tests import toys
from tests.recipes.embedding_toys import loaded, model, pool_of, reading, spoilt


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(model(tmp_path_factory.mktemp("model") / "step-1"))


def test_no_batch_reaches_into_two_chunks():
    assert list(spans([range(5), range(10, 12)], 2)) == [range(2), range(2, 4), range(4, 5), range(10, 12)]


def test_a_batch_holds_every_image_and_every_caption(shards: Path, tiny: Loaded):
    pool = pool_of(shards)
    batch = reading(pool, tiny)[range(30, 33)]
    assert (batch.start, batch.reasons) == (30, ("", "", ""))
    assert batch.rows.tolist() == [0, 1, 2]
    assert batch.owners.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    said = [f"{toys.caption(n)} seen {way}" for n in (30, 31, 32) for way in ("here", "there", "nowhere")]
    assert torch.equal(batch.tokens, tiny.tokenizer(said))
    for row, image in enumerate(batch.images):
        assert torch.equal(image, tiny.transform(Image.fromarray(toys.image(30 + row))))


def test_only_the_first_caption_is_read_where_that_is_asked_for(shards: Path, tiny: Loaded):
    batch = reading(pool_of(shards), tiny, "first")[range(2)]
    assert batch.owners.tolist() == [0, 1]
    assert torch.equal(batch.tokens, tiny.tokenizer([f"{toys.caption(n)} seen here" for n in (0, 1)]))


def test_processes_read_what_one_does(shards: Path, tiny: Loaded):
    work, wanted = reading(pool_of(shards), tiny), [range(7), range(7, 14), range(14, 20)]
    alone = list(batches(work, wanted, 0))
    together = list(batches(work, wanted, 2))
    assert [batch.start for batch in together] == [0, 7, 14]
    for one, other in zip(alone, together, strict=True):
        assert one.reasons == other.reasons
        for name in ("rows", "images", "owners", "tokens"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_what_cannot_be_embedded_has_a_reason(tmp_path: Path, tiny: Loaded):
    pool = pool_of(spoilt(tmp_path / "shards"), "txt")
    batch = reading(pool, tiny)[range(6)]
    assert batch.reasons == ("", "image: not an image", "caption: empty", "", "image: truncated", "")
    assert batch.rows.tolist() == [0, 2, 3, 5]  # an image without a caption is still an image
    assert batch.owners.tolist() == [0, 3, 5]
    nothing = reading(pool, tiny)[range(1, 2)]
    assert (nothing.images, nothing.tokens) == (None, None)


def test_an_image_that_the_transform_cannot_take_has_a_reason(shards: Path, tiny: Loaded):
    def refuse(image: Image.Image) -> torch.Tensor:
        raise ValueError("of a strange shape")

    work = Reading(reading(pool_of(shards), tiny).reader, refuse, tiny.tokenizer, "all")
    assert work[range(2)].reasons == ("image: cannot be transformed",) * 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_transform_learns_how_the_image_is_turned(tmp_path: Path, tiny: Loaded, kind: str):
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(toys.image(1, 24)[:, :12]).save(content, kind, exif=exif)
    members = [("a.jpg" if kind == "JPEG" else "a.png", content.getvalue()), ("a.txt", b"words")]
    toys.write_tar(tmp_path / "s" / "0.tar", [*members, ("b.png", toys.encode(toys.image(2))), ("b.txt", b"more")])
    seen: list[tuple[int, ...]] = []

    def transform(image: Image.Image) -> torch.Tensor:
        seen.append((image.getexif().get(0x0112, 0), *image.size))
        return torch.zeros(3, 4, 4)

    pool = pool_of(tmp_path / "s", "txt")
    Reading(reading(pool, tiny).reader, transform, tiny.tokenizer, "all")[range(2)]
    assert seen == [(6, 12, 24), (0, 16, 16)]


def test_a_process_that_is_killed_is_named(shards: Path, tiny: Loaded):
    def die(image: Image.Image) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(np.asarray(image))

    work = Reading(reading(pool_of(shards), tiny).reader, die, tiny.tokenizer, "all")
    with pytest.raises((DataError, RuntimeError), match=r"killed|signal 9"):
        list(batches(work, [range(4)], 1))


def test_reading_leaves_no_random_state_behind(shards: Path, tiny: Loaded):
    before = torch.random.get_rng_state()
    list(batches(reading(pool_of(shards), tiny), [range(4)], 1))
    assert torch.equal(torch.random.get_rng_state(), before)

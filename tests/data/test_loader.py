import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contrastive.data.loader import Plan, RankBatches, batches, cut_padding
from contrastive.data.shards import expand, index
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.modalities.image import Preprocess, TrainTransform
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from tests import toys
from tests.modalities.test_text import word_level

CROP = (0.5, 1.0)


def dataset(
    folder: Path, plan: Plan, random_crop: tuple[float, float] | None = CROP, label_key: str | None = None
) -> RankBatches:
    reader = Reader(index(expand(str(folder)), "png", "json", label_key), "json.captions", label_key)
    transform = TrainTransform(Preprocess(toys.SIZE), random_crop)
    return RankBatches(reader, transform, Tokenizer(TokenizerSpec(None, 12)), plan)


def alike(folder: Path) -> Path:
    """Write eight samples: images repeat after 3, captions after 2, labels after 4, in `cls` and in JSON."""
    content = []
    for number in range(8):
        about = {"captions": toys.caption(number % 2), "shows": number % 4}
        content += [
            (f"{number}.png", toys.encode(toys.image(number % 3))),
            (f"{number}.json", json.dumps(about).encode()),
            (f"{number}.cls", str(number % 4).encode()),
        ]
    for shard in range(2):
        toys.write_tar(folder / f"{shard}.tar", content[shard * 12 : shard * 12 + 12])
    return folder


def joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (1, 2), (2, 1)])
def test_the_global_batch_is_the_same_on_any_layout(shards: Path, world_size: int, workers: int):
    alone = list(batches(dataset(shards, Plan(8, 0, 0, 1)), 0, 4, 0, False))
    ranks = [
        list(batches(dataset(shards, Plan(8, 0, rank, world_size)), 0, 4, workers, False)) for rank in range(world_size)
    ]
    for step in range(4):
        together = joined([rank[step] for rank in ranks])
        assert together.keys() == alone[step].keys()
        for name, value in together.items():
            assert torch.equal(value, alone[step][name]), name


def test_an_epoch_holds_every_sample_once_across_batches(shards: Path):
    seen = torch.cat([b["index"] for b in batches(dataset(shards, Plan(16, 3, 0, 1)), 0, 5, 0, False)])
    assert sorted(seen[:40].tolist()) == list(range(40))
    assert sorted(seen[40:].tolist()) == list(range(40))
    assert seen[:40].tolist() != seen[40:].tolist()


def test_a_start_in_the_middle_equals_the_tail_of_the_whole(shards: Path):
    whole = list(batches(dataset(shards, Plan(8, 0, 0, 1)), 0, 6, 0, False))
    tail = list(batches(dataset(shards, Plan(8, 0, 0, 1)), 4, 6, 0, False))
    for a, b in zip(whole[4:], tail, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_choices_about_a_sample_change_with_the_epoch_and_the_seed(shards: Path):
    def of_sample(number: int, seed: int) -> list[dict[str, torch.Tensor]]:
        found = list(batches(dataset(shards, Plan(40, seed, 0, 1)), 0, 2, 0, False))
        return [{k: v[(b["index"] == number).nonzero()[0, 0]] for k, v in b.items()} for b in found]

    first, second = of_sample(7, seed=0)
    assert first["seed"] != second["seed"]
    assert not torch.equal(first["image"], second["image"])
    assert first["seed"] != of_sample(7, seed=1)[0]["seed"]


def test_without_a_crop_the_pixels_are_those_of_the_file(shards: Path):
    batch = dataset(shards, Plan(8, 0, 0, 1), random_crop=None)[0]
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for row, number in enumerate(batch["index"].tolist()):
        np.testing.assert_array_equal(batch["image"][row].permute(1, 2, 0).numpy(), toys.image(number))


def test_reading_draws_nothing_from_the_global_generator(shards: Path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(batches(dataset(shards, Plan(8, 0, 0, 1)), 0, 2, 1, False))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_by_shard_and_key_in_one_line(tmp_path: Path, workers: int):
    toys.write_tar(
        tmp_path / "a.tar", [*toys.members(0), ("bad.png", b"\x89PNG oops"), ("bad.json", b'{"captions": "x"}')]
    )
    with pytest.raises(DataError) as caught:
        list(batches(dataset(tmp_path, Plan(2, 0, 0, 1)), 0, 1, workers, False))
    assert "a.tar:bad: its image cannot be decoded" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("longest", "expected"), [(1, 8), (8, 8), (9, 16), (17, 20), (0, 8)])
def test_padding_is_cut_to_a_multiple_of_eight(longest: int, expected: int):
    text = torch.zeros(3, 20, dtype=torch.long)
    text[1, :longest] = 5
    cut = cut_padding(text, pad_id=0)
    assert cut.shape == (3, expected)
    assert torch.equal(cut, text[:, :expected])


def test_a_caption_has_one_id_however_its_batch_is_cut(tmp_path: Path):
    members = [("a.png", toys.members(0)[0][1]), ("a.json", b'{"captions": "cat"}')]
    members += [
        ("b.png", toys.members(1)[0][1]),
        ("b.json", b'{"captions": "a very long tale of a cat that sat on a mat"}'),
    ]
    members += [("c.png", toys.members(2)[0][1]), ("c.json", b'{"captions": "cat"}')]
    toys.write_tar(tmp_path / "a.tar", members)
    found = {}
    for rank in range(3):
        cut = dataset(tmp_path, Plan(3, 0, rank, 3))
        cut.cut_text = True
        batch = cut[0]
        found[int(batch["index"])] = (int(batch["caption_id"]), batch["text"].shape[1])
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]
    assert found[0][1] < found[1][1]


def taught(folder: Path, tokenizer: Tokenizer, *, cut: bool = False, cut_student: bool = False) -> RankBatches:
    plain = dataset(folder, Plan(8, 0, 0, 1))
    options = {"cut_text": cut_student, "teacher_tokenizer": tokenizer, "cut_teacher_text": cut}
    return RankBatches(plain.reader, plain.transform, plain.tokenizer, plain.plan, **options)


def test_a_teacher_has_the_same_captions_in_its_own_ids(shards: Path, tmp_path: Path):
    own = Tokenizer(TokenizerSpec(str(word_level(tmp_path / "words")), 5))
    batch, plain = taught(shards, own)[0], dataset(shards, Plan(8, 0, 0, 1))
    draws = {int(n): i for i, n in enumerate(batch["index"])}
    assert batch["teacher_text"].shape == (8, 5)
    assert torch.equal(batch["text"], plain[0]["text"])
    for number, row in draws.items():
        drawn = [f"{toys.caption(number)} seen {way}" for way in ("here", "there", "nowhere")]
        text = next(text for text in drawn if torch.equal(plain.tokenizer([text])[0], batch["text"][row]))
        assert torch.equal(batch["teacher_text"][row], own([text])[0])


@pytest.mark.parametrize("cut", [False, True])
def test_a_teacher_of_the_same_ids_and_way_with_padding_shares_the_students(shards: Path, cut: bool):
    batch = taught(shards, Tokenizer(TokenizerSpec(None, 12)), cut=cut, cut_student=cut)[0]
    assert "teacher_text" not in batch


@pytest.mark.parametrize("cut", [False, True])
def test_a_teacher_that_treats_padding_otherwise_has_rows_of_its_own(tmp_path: Path, cut: bool):
    batch = taught(alike(tmp_path), Tokenizer(TokenizerSpec(None, 12)), cut=cut, cut_student=not cut)[0]
    shorter, longer = ("teacher_text", "text") if cut else ("text", "teacher_text")
    assert (batch[shorter].shape, batch[longer].shape) == ((8, 8), (8, 12))
    assert torch.equal(batch[longer][:, :8], batch[shorter])
    assert not batch[longer][:, 8:].any()


@pytest.mark.parametrize("label_key", ["cls", "json.shows"])
def test_ids_are_equal_exactly_where_image_caption_or_label_are(tmp_path: Path, label_key: str):
    batch = dataset(alike(tmp_path), Plan(8, 0, 0, 1), label_key=label_key)[0]
    number = batch["index"]
    for name, period in (("image_id", 3), ("caption_id", 2), ("label_id", 4)):
        same = batch[name][:, None] == batch[name][None, :]
        assert batch[name].dtype == torch.int64
        assert torch.equal(same, (number % period)[:, None] == (number % period)[None, :]), name


@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 1), (1, 2)])
def test_ids_are_the_same_on_any_layout(tmp_path: Path, world_size: int, workers: int):
    folder = alike(tmp_path)
    alone = next(batches(dataset(folder, Plan(8, 0, 0, 1), label_key="cls"), 0, 1, 0, False))
    plans = [Plan(8, 0, rank, world_size) for rank in range(world_size)]
    ranks = [next(batches(dataset(folder, plan, label_key="cls"), 0, 1, workers, False)) for plan in plans]
    together = joined(ranks)
    assert all(torch.equal(together[name], alone[name]) for name in ("image_id", "caption_id", "label_id"))


def test_ids_are_the_first_bytes_of_blake2b(tmp_path: Path):
    batch = dataset(alike(tmp_path), Plan(8, 0, 0, 1), label_key="cls")[0]
    for row, number in enumerate(batch["index"].tolist()):
        expected = hashlib.blake2b(toys.encode(toys.image(number % 3)), digest_size=8).digest()
        assert batch["image_id"][row].numpy().tobytes() == expected
        assert batch["label_id"][row].numpy().tobytes() == hashlib.blake2b(b"%d" % (number % 4), digest_size=8).digest()


def test_without_a_label_key_there_is_no_label_id(tmp_path: Path):
    assert "label_id" not in dataset(alike(tmp_path), Plan(8, 0, 0, 1))[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_is_missing_on_the_way_is_named_in_one_line(tmp_path: Path, workers: int):
    content = [("bad.png", toys.members(1)[0][1]), ("bad.json", b'{"captions": "x"}')]
    toys.write_tar(tmp_path / "a.tar", content)
    with pytest.raises(DataError) as caught:
        list(batches(dataset(tmp_path, Plan(1, 0, 0, 1), label_key="json.shows"), 0, 1, workers, False))
    assert str(caught.value).startswith(f"{tmp_path}/a.tar:bad: data.label_key asks for a JSON member with a field")
    assert "\n" not in str(caught.value)

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contrastive.data.rows import Piece, RankRows
from contrastive.errors import DataError
from contrastive.hashing import bytes_hash, mix
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from tests import toys
from tests.data.toys import rows, settings
from tests.modalities.test_text import word_level


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


def spoilt(folder: Path, count: int = 10, bad: tuple[int, ...] = (2, 7)) -> Path:
    """Write `count` samples, of which the images numbered `bad` are none."""
    content = []
    for number in range(count):
        image = b"no image at all" if number in bad else toys.encode(toys.image(number))
        content += [(f"{number}.png", image), (f"{number}.json", b'{"captions": "x"}')]
    toys.write_tar(folder / "a.tar", content)
    return folder


def whole(found: RankRows, step: int = 0) -> Piece:
    return found[step, 0]


def test_choices_about_a_sample_change_with_the_epoch_and_the_seed(shards: Path):
    def of_sample(number: int, seed: int) -> list[dict[str, torch.Tensor]]:
        found = rows(settings(shards, global_batch_size=40), seed=seed)
        both = [whole(found, step).batch for step in (0, 1)]
        return [{k: v[(b["index"] == number).nonzero()[0, 0]] for k, v in b.items()} for b in both]

    first, second = of_sample(7, seed=0)
    assert first["seed"] != second["seed"]
    assert not torch.equal(first["image"], second["image"])
    assert first["seed"] != of_sample(7, seed=1)[0]["seed"]


def test_without_a_crop_the_pixels_are_those_of_the_file(shards: Path):
    batch = whole(rows(settings(shards, global_batch_size=8), random_crop=None)).batch
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for row, number in enumerate(batch["index"].tolist()):
        np.testing.assert_array_equal(batch["image"][row].permute(1, 2, 0).numpy(), toys.image(number))


def test_pieces_are_consecutive_rows_of_the_whole(shards: Path):
    found = rows(settings(shards, global_batch_size=11))
    together = whole(found).batch
    found.pieces = 3
    pieces = [found[0, piece].batch for piece in range(3)]
    assert [len(piece["index"]) for piece in pieces] == [3, 4, 4]
    for name, value in together.items():
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), value), name


def test_a_bad_sample_is_replaced_by_a_function_of_its_number(tmp_path: Path):
    data = settings(spoilt(tmp_path), global_batch_size=10)
    found = whole(rows(data, seed=3))
    assert len(found.replaced) == 2
    planned = rows(data, seed=3).plan.draws(0).number
    for row, number in enumerate(planned.tolist()):
        if number not in (2, 7):
            assert found.batch["index"][row] == number
            continue
        stand_in = int(mix("substitute number", 3, 0, number, 1) % np.uint64(10))
        assert stand_in not in (2, 7), "the test's seed should need one try only"
        assert found.batch["index"][row] == stand_in
        record = next(one for one in found.replaced if one.key == str(number))
        assert (record.reason, record.substitute, record.row) == ("image: not an image", stand_in, number)
        assert record.location == str(tmp_path / "a.tar")
        assert record.message.startswith(f"{tmp_path}/a.tar:{number}: its image ")
    for row, number in enumerate(found.batch["index"].tolist()):
        plain = toys.encode(toys.image(number))
        assert found.batch["image_id"][row] == bytes_hash(plain)


def test_a_substitute_has_a_crop_of_its_own(tmp_path: Path):
    found = whole(rows(settings(spoilt(tmp_path), global_batch_size=10), seed=3)).batch
    twice = [n for n in set(found["index"].tolist()) if (found["index"] == n).sum() > 1]
    assert twice
    for number in twice:
        seeds = found["seed"][found["index"] == number]
        assert len(set(seeds.tolist())) == len(seeds)


def test_a_substitute_that_is_bad_itself_is_replaced_in_turn(tmp_path: Path):
    data = settings(spoilt(tmp_path, 4, (0, 1, 2)), global_batch_size=4)
    found = whole(rows(data))
    assert found.batch["index"].tolist() == [3] * 4
    assert {one.substitute for one in found.replaced} == {3}
    assert {one.key for one in found.replaced} == {"0", "1", "2"}


def test_shards_of_bad_samples_alone_end_the_run(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.tar:\d: its image .*; so are 19 others in its place") as caught:
        whole(rows(settings(spoilt(tmp_path, 3, (0, 1, 2)), global_batch_size=2)))
    assert "\n" not in str(caught.value)


def test_a_substitute_comes_from_the_same_source(tmp_path: Path):
    spoilt(tmp_path / "a", 6, (0, 1, 2, 3, 4))
    toys.write_shards(tmp_path / "b", 30, 1)
    data = settings(sources={"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}, global_batch_size=36)
    batch = whole(rows(data)).batch
    assert batch["index"][batch["source"] == 0].tolist() == [5] * 6
    assert sorted(batch["index"][batch["source"] == 1].tolist()) == list(range(6, 36))


def test_a_teacher_has_the_same_captions_in_its_own_ids(shards: Path, tmp_path: Path):
    own = Tokenizer(TokenizerSpec(str(word_level(tmp_path / "words")), 5))
    data = settings(shards, global_batch_size=8)
    found = rows(data, teacher_tokenizer=own)
    batch, plain = whole(found).batch, whole(rows(data)).batch
    assert batch["teacher_text"].shape == (8, 5)
    assert torch.equal(batch["text"], plain["text"])
    for row, number in enumerate(batch["index"].tolist()):
        drawn = [f"{toys.caption(number)} seen {way}" for way in ("here", "there", "nowhere")]
        text = next(text for text in drawn if torch.equal(found.tokenizer([text])[0], batch["text"][row]))
        assert torch.equal(batch["teacher_text"][row], own([text])[0])


@pytest.mark.parametrize("label_key", ["cls", "json.shows"])
def test_ids_are_equal_exactly_where_image_caption_or_label_are(tmp_path: Path, label_key: str):
    batch = whole(rows(settings(alike(tmp_path), global_batch_size=8, label_key=label_key))).batch
    number = batch["index"]
    for name, period in (("image_id", 3), ("caption_id", 2), ("label_id", 4)):
        same = batch[name][:, None] == batch[name][None, :]
        assert batch[name].dtype == torch.int64
        assert torch.equal(same, (number % period)[:, None] == (number % period)[None, :]), name


def test_ids_are_hashes_of_bytes(tmp_path: Path):
    batch = whole(rows(settings(alike(tmp_path), global_batch_size=8, label_key="cls"))).batch
    for row, number in enumerate(batch["index"].tolist()):
        assert batch["image_id"][row] == bytes_hash(toys.encode(toys.image(number % 3)))
        assert batch["label_id"][row] == bytes_hash(b"%d" % (number % 4))


def test_images_are_not_hashed_where_nobody_asks(tmp_path: Path):
    data = settings(alike(tmp_path), global_batch_size=8)
    asked, unasked = whole(rows(data)).batch, whole(rows(data, image_ids=False)).batch
    assert set(asked) - set(unasked) == {"image_id"}
    assert all(torch.equal(unasked[name], asked[name]) for name in unasked)


def test_without_a_label_key_there_is_no_label_id(tmp_path: Path):
    assert "label_id" not in whole(rows(settings(alike(tmp_path), global_batch_size=8))).batch

from pathlib import Path

import pytest

from contrastive.data.pool import open_pool, storage_options
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.modalities.text import Tokenizer, TokenizerSpec
from contrastive.recipes.doctor_look import Looked, is_foreign, look_at, overlap
from contrastive.recipes.engine import Local
from contrastive.settings import DataConfig
from tests import toys


def looked(folder: Path, context_length: int = 77, processes: int = 1) -> Looked:
    config = DataConfig(train=str(folder), damaged_shards="substitute")
    storage = Storage(storage_options(config))
    pool = open_pool(config, storage)
    tokenizer = Tokenizer(TokenizerSpec(context_length=context_length))
    with Local(processes) as engine:
        return look_at(Reader(pool, storage, "substitute"), tokenizer, range(len(pool)), engine)


def write(folder: Path, captions: list[str], images: list[bytes] | None = None) -> Path:
    default = toys.encode(toys.image(0))
    members = []
    for number, caption in enumerate(captions):
        content = default if images is None else images[number]
        members += [(f"{number:05d}.png", content), (f"{number:05d}.txt", caption.encode())]
    toys.write_tar(folder / "0.tar", members)
    return folder


def test_a_look_is_the_same_with_any_number_of_processes(tmp_path: Path):
    toys.write_shards(tmp_path, 150, 2)
    one, two = looked(tmp_path), looked(tmp_path, processes=2)
    assert one == two
    assert [look.number for look in one.good] == list(range(150))
    assert {(look.width, look.height) for look in one.good} == {(toys.SIZE, toys.SIZE)}


def test_the_next_caption_is_of_the_same_shard(tmp_path: Path):
    found = looked(toys.write_shards(tmp_path, 4, 2))
    assert [look.next_caption for look in found.good] == [toys.caption(1), None, toys.caption(3), None]


def test_captions_that_fill_the_context_are_not_cut_and_longer_ones_are(tmp_path: Path):
    folder = write(tmp_path, ["a b c d", "a b c d e", "a b c d e f"])
    found = looked(folder, context_length=7)  # five words, and two ends
    assert [look.is_cut for look in found.good] == [False, False, True]
    assert [look.tokens for look in found.good] == [6, 7, 8]
    assert found.captions().cut == 1


def test_what_cannot_be_used_is_told_by_reason(tmp_path: Path):
    image = toys.encode(toys.image(1))
    found = looked(write(tmp_path, ["fine", " ", "fine"], [image, image, image[:90]]))
    facts = found.bad_facts(300)
    assert (facts.looked_at, facts.bad, facts.samples) == (3, 2, 300)
    assert sorted(reason.partition(":")[0] for reason in facts.reasons) == ["caption", "image"]
    assert facts.reasons["caption: empty"] == 1
    assert all(f"{tmp_path / '0.tar'}:0000" in message for message in facts.example.values())


def test_captions_are_counted_by_kind(tmp_path: Path):
    texts = ["<b>a dog</b>", "cats &amp; dogs", "DSC_01.JPG", "https://a.b/c", "собака", "a < b", "a dog", "a dog"]
    facts = looked(write(tmp_path, texts)).captions()
    assert (facts.html, facts.names, facts.foreign, facts.repeated) == (2, 2, 1, 1)
    assert facts.most_frequent == ("a dog", 2)


def test_captions_sorted_by_class_are_alike_and_shuffled_ones_are_not(tmp_path: Path):
    words = ["dog grass", "red car", "blue sea", "old house"]
    ordered = [f"{words[number // 25]} {number}" for number in range(100)]
    mixed = [ordered[number * 37 % 100] for number in range(100)]
    assert looked(write(tmp_path / "a", ordered)).order(()).is_local
    assert not looked(write(tmp_path / "b", mixed)).order(()).is_local
    assert not looked(write(tmp_path / "c", ordered[:10])).order(()).is_certain


@pytest.mark.parametrize(("text", "expected"), [("собака", True), ("été 12", False), ("12", False), ("犬 dog", False)])
def test_foreign_is_what_most_letters_say(text: str, expected: bool):
    assert is_foreign(text) == expected


def test_the_overlap_is_of_all_words_of_both():
    assert overlap(frozenset("abc"), frozenset("bcd")) == 0.5
    assert overlap(frozenset(), frozenset()) == 0

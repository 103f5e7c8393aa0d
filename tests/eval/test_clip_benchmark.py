import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.errors import DataError
from contrastive.eval.clip_benchmark import IMAGE_EXTENSIONS, ImageMember, Sample, read_folder_type, read_samples
from tests.eval.toys import PIXELS, png, write_folder, write_tar

LABELS = [{"cls": label} for label in ("2", "0", "1", "1", "2")]
CAPTIONS = [{"txt": text} for text in ("a cat\na red cat", "a dog", "a cat\n")]


def labelled(root: Path) -> Path:
    return write_folder(root / "data", LABELS) / "test"


def captioned(root: Path) -> Path:
    return write_folder(root / "data", CAPTIONS, shards=1) / "test"


def one_tar(folder: Path, members: dict[str, bytes]) -> Path:
    (folder / "nshards.txt").write_text("1")
    write_tar(folder / "0.tar", members)
    return folder


def read(folder: Path, *, labels: bool = False, captions: bool = False) -> list[Sample]:
    return read_samples(folder, labels=labels, captions=captions)


def refused(folder: Path, *, labels: bool = False, captions: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, labels=labels, captions=captions)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)


def test_the_type_is_what_the_folder_says(tmp_path: Path) -> None:
    (tmp_path / "dataset_type.txt").write_text(" retrieval\n")
    assert read_folder_type(tmp_path) == "retrieval"


def test_a_folder_that_says_nothing_is_a_classification(tmp_path: Path) -> None:
    assert read_folder_type(tmp_path) == "classification"


def test_samples_come_tar_by_tar_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{"cls": str(i)} for i in range(12)], shards=12) / "test"
    assert [sample.label for sample in read(folder, labels=True)] == list(range(12))  # 10.tar is after 2.tar


def test_samples_of_a_tar_come_in_its_own_order(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"b.png": png(0), "b.cls": b"1", "a.png": png(1), "a.cls": b"0"})
    assert [(sample.image.key, sample.label) for sample in read(folder, labels=True)] == [("b", 1), ("a", 0)]


def test_an_image_is_read_by_its_place_in_the_tar(tmp_path: Path) -> None:
    samples = read(labelled(tmp_path))
    for sample, seed in reversed(list(zip(samples, (0, 2, 4, 1, 3), strict=True))):
        assert np.array_equal(np.asarray(sample.image.decode()), pixels(seed))


def test_an_image_travels_to_a_worker_without_its_tar(tmp_path: Path) -> None:
    image = read(labelled(tmp_path))[0].image
    assert pickle.loads(pickle.dumps(image)) == image
    assert len(pickle.dumps(image)) < 1000


def test_an_image_is_named_by_tar_and_key() -> None:
    assert ImageMember("some/where/3.tar", "a/s1", 0, 0).name == "3.tar: a/s1"


def test_only_the_annotations_asked_for_are_read(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.cls": b"not asked for", "a.txt": b"\xff"})
    (sample,) = read(folder)
    assert (sample.label, sample.captions) == (-1, ())


@pytest.mark.parametrize(("content", "label"), [(b"7", 7), (b" 7\n", 7), (b"-1", -1)])
def test_a_label_is_the_number_in_its_file(tmp_path: Path, content: bytes, label: int) -> None:
    (sample,) = read(one_tar(tmp_path, {"a.png": png(0), "a.cls": content}), labels=True)
    assert sample.label == label


def test_captions_are_the_lines_that_are_not_empty(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.txt": "a café\r\n\n  \na cat ".encode()})
    assert read(folder, captions=True)[0].captions == ("a café", "a cat ")


def test_members_of_one_sample_may_stand_apart(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.cls": b"4", "b.png": png(1), "a.png": png(0), "b.cls": b"5"})
    samples = read(folder, labels=True)
    assert [(sample.image.key, sample.label) for sample in samples] == [("a", 4), ("b", 5)]
    assert np.array_equal(np.asarray(samples[0].image.decode()), pixels(0))


def test_a_key_ends_at_the_first_dot_of_the_name_and_keeps_its_folder(tmp_path: Path) -> None:
    folder = one_tar(
        tmp_path, {"v1.0/a.png": png(0), "v1.0/a.cls": b"1", "v1.0/a.old.cls": b"2", "a.png": png(1), "a.cls": b"3"}
    )
    assert [(sample.image.key, sample.label) for sample in read(folder, labels=True)] == [("v1.0/a", 1), ("a", 3)]


def test_endings_in_capitals_are_the_same(tmp_path: Path) -> None:
    (sample,) = read(one_tar(tmp_path, {"a.PNG": png(3), "a.CLS": b"1"}), labels=True)
    assert sample.label == 1
    assert np.array_equal(np.asarray(sample.image.decode()), pixels(3))


@pytest.mark.parametrize("first", range(len(IMAGE_EXTENSIONS)))
def test_of_several_images_of_a_key_the_preferred_ending_wins(tmp_path: Path, first: int) -> None:
    there = list(enumerate(("webp", "png", "jpg", "jpeg")))[first:]
    folder = one_tar(tmp_path, {f"a.{ending}": png(seed) for seed, ending in reversed(there)})
    assert np.array_equal(np.asarray(read(folder)[0].image.decode()), pixels(first))


def test_tars_beyond_the_count_are_not_read(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    (folder / "nshards.txt").write_text("1")
    assert len(read(folder)) == 3


def test_missing_shard_count_and_tar_are_named(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    (folder / "nshards.txt").write_text("3")
    assert "2.tar" in refused(folder)
    (folder / "nshards.txt").write_text("many")
    assert "'many' must be a whole number" in refused(folder)
    (folder / "nshards.txt").unlink()
    assert "nshards.txt" in refused(folder)


@pytest.mark.parametrize("count", ["0", "-2", "2.0", "", "٣", "1 2"])
def test_a_shard_count_that_is_no_number_of_tars_is_refused(tmp_path: Path, count: str) -> None:
    folder = labelled(tmp_path)
    (folder / "nshards.txt").write_text(count, encoding="utf-8")
    assert f"nshards.txt: {count!r} must be a whole number of at least 1" in refused(folder)


def test_damaged_tar_is_named(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    (folder / "1.tar").write_bytes(b"no tar at all" * 100)
    assert "1.tar: is no tar; write or copy it again" in refused(folder)


def test_truncated_tar_is_refused(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    content = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(content[: 512 + 40])
    assert "0.tar" in refused(folder)


def test_an_empty_file_is_no_tar(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    (folder / "0.tar").write_bytes(b"")
    assert "0.tar: is no tar but an empty file; write or copy it again" in refused(folder)


def test_set_without_samples_is_refused(tmp_path: Path) -> None:
    assert "no sample" in refused(write_folder(tmp_path / "data", []) / "test")


def test_a_label_that_is_no_number_is_refused_by_tar_and_key(tmp_path: Path) -> None:
    found = refused(write_folder(tmp_path / "data", [{"cls": "x"}, {"cls": "1"}]) / "test", labels=True)
    assert "s0000000.cls: 'x'" in found
    assert "0.tar: s0000000" in found


def test_missing_annotation_is_refused_by_key(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{"cls": "0"}, {"json": "{}"}], shards=1) / "test"
    assert "key 's0000001' has no label" in refused(folder, labels=True)
    assert "key 's0000000' has no caption" in refused(folder, captions=True)


def test_a_caption_that_is_no_text_is_refused_by_tar_and_key(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.txt": b"caf\xe9"})
    assert "0.tar: a.txt is not UTF-8 text" in refused(folder, captions=True)


def test_empty_caption_and_missing_image_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{"txt": " \n"}, {"txt": "a dog"}], shards=1) / "test"
    assert "'s0000000' has an empty .txt" in refused(folder, captions=True)
    write_tar(folder / "0.tar", {"a.txt": b"text"})
    assert "'a' has no image" in refused(folder)


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    folder = captioned(tmp_path)
    write_tar(folder / "0.tar", {"a.png": png(0), "a.txt": b"text", "a.PNG": png(1)})
    assert "a.PNG stands twice" in refused(folder)


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels(1)).save(content, "JPEG")
    return content.getvalue()


@pytest.mark.parametrize("content", [png(1)[:60], jpeg()[:300], b"no image", b""])
def test_unreadable_image_is_named_by_tar_and_key(tmp_path: Path, content: bytes) -> None:
    good, bad = read(one_tar(tmp_path, {"good.png": png(0), "bad.png": content}))
    good.image.decode()
    with pytest.raises(DataError, match=r"^\S*0\.tar: the image of key 'bad' cannot be read [^\n]*; replace it$"):
        bad.image.decode()

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.errors import ConfigError, DataError
from contrastive.eval.formats.clip_benchmark import IMAGE_EXTENSIONS, ClipBenchmark, ImageMember, read_samples
from contrastive.eval.samples import Caption, Kind, Sample
from tests.eval.formats import trees
from tests.eval.toys import PIXELS, png, write_classes, write_folder, write_tar

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


def read(folder: Path, *kinds: Kind, classes: int = 0) -> list[Sample]:
    return read_samples(folder, kinds, classes)


def refused(folder: Path, *kinds: Kind, classes: int = 0) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, *kinds, classes=classes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def vector(*numbers: float, dtype: str = "int64") -> bytes:
    content = io.BytesIO()
    np.save(content, np.array(numbers, dtype))
    return content.getvalue()


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("said", "kind"),
    [(" retrieval\n", "retrieval"), ("Multilabel", "multilabel"), ("classification", "classification"), (None, None)],
)
def test_the_folder_says_what_it_is_and_else_is_a_classification(
    tmp_path: Path, said: str | None, kind: Kind | None
) -> None:
    sample = {"txt": b"a cat", "cls": b"1", "npy": vector(0, 1)}
    (tmp_path / "test").mkdir()
    one_tar(tmp_path / "test", {"a.png": png(0), **{f"a.{name}": content for name, content in sample.items()}})
    if said is not None:
        (tmp_path / "dataset_type.txt").write_text(said)
    assert ClipBenchmark().read(tmp_path, "test", ()).kinds == (kind or "classification",)


def test_a_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", LABELS, kind="captioning")
    assert "dataset_type.txt says 'captioning'; what can be read" in trees.refused(
        ClipBenchmark(), root, error=ConfigError
    )
    assert "no choice data" in trees.refused(ClipBenchmark(), root, kinds=("choice",), error=ConfigError)


def test_class_names_and_templates_come_with_the_folder(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", LABELS), ["zero", "one", "two"])
    content = ClipBenchmark().read(root, "test", ())
    assert content.classnames == ("zero", "one", "two")
    assert content.templates == ("{c}", "a photo of a {c}.")


def test_a_folder_may_name_no_classes(tmp_path: Path) -> None:
    content = ClipBenchmark().read(write_folder(tmp_path / "data", LABELS), "test", ())
    assert (content.classnames, content.templates) == ((), ())


def test_a_byte_order_mark_is_no_part_of_the_first_class(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", LABELS), ["\ufeffzero", "one", "two"])
    assert ClipBenchmark().read(root, "test", ()).classnames[0] == "zero"


def test_an_empty_line_is_the_place_of_a_class_and_no_template(tmp_path: Path) -> None:
    root = write_classes(write_folder(tmp_path / "data", LABELS), ["zero", "", "two"])
    assert ClipBenchmark().read(root, "test", ()).classnames == ("zero", "", "two")
    templates = root / "zeroshot_classification_templates.txt"
    templates.write_text("{c}\n\na {c}\n")
    assert "templates.txt: line 2 is empty" in trees.refused(ClipBenchmark(), root)
    templates.write_text("{c}\n")
    (root / "classnames.txt").write_bytes(b"\xff")
    assert "classnames.txt is not UTF-8 text" in trees.refused(ClipBenchmark(), root)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", LABELS)
    assert f"there is no folder {root}/train" in trees.refused(ClipBenchmark(), root, "train")


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32"])
def test_a_vector_of_classes_gives_those_that_are_present(tmp_path: Path, dtype: str) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.npy": vector(0, 1, 0, 1, dtype=dtype)})
    assert read(folder, "multilabel")[0].labels == (1, 3)


def test_an_image_of_no_class_is_one_of_the_set(tmp_path: Path) -> None:
    assert read(one_tar(tmp_path, {"a.png": png(0), "a.npy": vector(0, 0)}), "multilabel")[0].labels == ()


@pytest.mark.parametrize("content", [b"", b"1 0 1", vector(0, 2), vector(0.5, dtype="float64"), vector()[:20]])
def test_a_vector_that_is_none_is_refused_by_key(tmp_path: Path, content: bytes) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.npy": content})
    assert "0.tar: a.npy must be a vector of 0 and 1" in refused(folder, "multilabel")


def test_a_vector_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([0, {}], object), allow_pickle=True)
    folder = one_tar(tmp_path, {"a.png": png(0), "a.npy": content.getvalue()})
    assert "a.npy must be a vector of 0 and 1" in refused(folder, "multilabel")


def test_a_vector_longer_than_the_class_names_is_refused(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.npy": vector(1, 0, 0)})
    assert "a.npy has 3 numbers and classnames.txt 2 lines" in refused(folder, "multilabel", classes=2)
    assert len(read(folder, "multilabel", classes=3)) == 1


def test_samples_come_tar_by_tar_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{"cls": str(i)} for i in range(12)], shards=12) / "test"
    assert [sample.label for sample in read(folder, "classification")] == list(range(12))  # 10.tar is after 2.tar


def test_samples_of_a_tar_come_in_its_own_order(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"b.png": png(0), "b.cls": b"1", "a.png": png(1), "a.cls": b"0"})
    assert [(sample.image.key, sample.label) for sample in read(folder, "classification")] == [("b", 1), ("a", 0)]


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
    (sample,) = read(one_tar(tmp_path, {"a.png": png(0), "a.cls": content}), "classification")
    assert sample.label == label


def test_captions_are_the_lines_that_are_not_empty(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.txt": "a café\r\n\n  \na cat ".encode()})
    assert read(folder, "retrieval")[0].captions == (Caption("a café"), Caption("a cat "))


def test_members_of_one_sample_may_stand_apart(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.cls": b"4", "b.png": png(1), "a.png": png(0), "b.cls": b"5"})
    samples = read(folder, "classification")
    assert [(sample.image.key, sample.label) for sample in samples] == [("a", 4), ("b", 5)]
    assert np.array_equal(np.asarray(samples[0].image.decode()), pixels(0))


def test_a_key_ends_at_the_first_dot_of_the_name_and_keeps_its_folder(tmp_path: Path) -> None:
    folder = one_tar(
        tmp_path, {"v1.0/a.png": png(0), "v1.0/a.cls": b"1", "v1.0/a.old.cls": b"2", "a.png": png(1), "a.cls": b"3"}
    )
    assert [(sample.image.key, sample.label) for sample in read(folder, "classification")] == [("v1.0/a", 1), ("a", 3)]


def test_endings_in_capitals_are_the_same(tmp_path: Path) -> None:
    (sample,) = read(one_tar(tmp_path, {"a.PNG": png(3), "a.CLS": b"1"}), "classification")
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
    found = refused(write_folder(tmp_path / "data", [{"cls": "x"}, {"cls": "1"}]) / "test", "classification")
    assert "s0000000.cls: 'x'" in found
    assert "0.tar: s0000000" in found


def test_missing_annotation_is_refused_by_key(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{"cls": "0"}, {"json": "{}"}], shards=1) / "test"
    assert "key 's0000001' has no label" in refused(folder, "classification")
    assert "key 's0000000' has no caption" in refused(folder, "retrieval")


def test_a_caption_that_is_no_text_is_refused_by_tar_and_key(tmp_path: Path) -> None:
    folder = one_tar(tmp_path, {"a.png": png(0), "a.txt": b"caf\xe9"})
    assert "0.tar: a.txt is not UTF-8 text" in refused(folder, "retrieval")


def test_empty_caption_and_missing_image_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [{"txt": " \n"}, {"txt": "a dog"}], shards=1) / "test"
    assert "'s0000000' has an empty .txt" in refused(folder, "retrieval")
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
    said = r"^\S*0\.tar: key 'bad': the image cannot be read [^\n]*; replace it$"
    with pytest.raises(DataError, match=said):
        bad.image.decode()


def test_a_tar_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = labelled(tmp_path)
    image = read(folder)[0].image
    (folder / "0.tar").unlink()
    with pytest.raises(DataError, match=r"0\.tar: cannot be read \(No such file or directory\)"):
        image.decode()


def test_a_stamp_tells_other_bytes_apart(tmp_path: Path) -> None:
    one, other = read(one_tar(tmp_path, {"a.png": png(0), "b.png": png(1) + b"more"}))
    assert one.image.stamp != other.image.stamp

from pathlib import Path

import numpy as np
import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.runs.references import open_reference
from tests import toys


def test_a_folder_of_images_at_any_depth(tmp_path: Path):
    (tmp_path / "set" / "b").mkdir(parents=True)
    for at, name in enumerate(("b/x.PNG", "a.png")):
        (tmp_path / "set" / name).write_bytes(toys.encode(toys.image(at)))
    (tmp_path / "set" / "list.txt").write_text("no image")
    found = open_reference(str(tmp_path / "set"))
    assert found.name == "set"
    assert [one.name for one in found.pictures] == ["a.png", "b/x.PNG"]
    assert np.array_equal(np.asarray(found.pictures[0].decode()), toys.image(1))
    (tmp_path / "set" / "c.png").write_bytes(toys.encode(toys.image(3)))
    assert open_reference(str(tmp_path / "set")).stamp != found.stamp


def test_shards_by_folder_pattern_or_the_yaml_of_a_run(tmp_path: Path):
    shards = toys.write_shards(tmp_path / "shards", 6)
    (tmp_path / "run.yaml").write_text(f"data: {{train: {shards}}}\n")
    opened = [open_reference(str(word)) for word in (shards, shards / "*.tar", tmp_path / "run.yaml")]
    assert len({one.stamp for one in opened}) == 1
    for one in opened:
        assert len(one.pictures) == 6
        assert one.pictures[4].name == "00001.tar: s00004"
        assert np.array_equal(np.asarray(one.pictures[2:5][1].decode()), toys.image(3))


def test_a_broken_image_of_shards_is_a_data_error(tmp_path: Path):
    toys.write_tar(tmp_path / "s" / "0.tar", [("a.png", b"no image"), ("a.txt", b"a")])
    with pytest.raises(DataError, match=r"0.tar:a: the image cannot be read"):
        open_reference(str(tmp_path / "s")).pictures[0].decode()


def test_an_evaluation_set_by_its_yaml_or_its_folder(classes: Path, tmp_path: Path):
    for word, name in ((classes, "toy"), (tmp_path / "eval", "eval")):
        found = open_reference(str(word))
        assert (found.name, len(found.pictures)) == (name, 6)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("coco_karpathi", "there is no such file, folder or evaluation set; did you mean coco_karpathy"),
        ("nowhere/at/all", "no such file, folder or evaluation set; name a YAML of configs/eval/, shards, or a folder"),
    ],
)
def test_an_unknown_word_is_one_line(word: str, said: str):
    with pytest.raises(DataError, match=said):
        open_reference(word)


def test_a_missing_yaml_and_an_empty_folder_say_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        open_reference("nowhere.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither tars nor images"):
        open_reference(str(tmp_path / "empty"))

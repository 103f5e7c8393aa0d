import importlib.util
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[2]


def recipe_module():
    spec = importlib.util.spec_from_file_location("glyphs_recipe", ROOT / "data_recipes" / "glyphs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


glyphs = recipe_module()
SIZE = 16  # half the real size: a fraction of the time, the same splits


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The whole dataset, small, and the glyphs it was made of."""
    out = tmp_path_factory.mktemp("glyphs") / "out"
    glyphs.build(out, SIZE)
    return out


def read(folder):
    """All samples of a folder of shards: {key: {extension: bytes}}."""
    samples = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return samples


def about(dataset):
    return [json.loads(sample["json"]) for sample in read(dataset / "train").values()]


def test_there_are_at_least_two_thousand_names_each_drawn_by_many_training_faces(dataset):
    names = (dataset / "names.txt").read_text().splitlines()
    assert len(names) >= 2000
    assert names == sorted(set(names))
    captions = [sample["txt"].decode() for sample in read(dataset / "train").values()]
    assert min(captions.count(name) for name in random.Random(0).sample(sorted(set(captions)), 50)) >= 7


def test_held_out_faces_are_one_a_family_and_never_trained_on(dataset):
    held_out = json.loads((dataset / "manifest.json").read_text())["held_out"]["faces"]
    families = {face.name: face.family for face in glyphs.find_faces(glyphs.FAMILIES)}
    assert len(families) == 16
    assert sorted(families[name] for name in held_out) == sorted(glyphs.FAMILIES)
    assert {entry["face"] for entry in about(dataset)} == set(families) - set(held_out)
    assert {key.rpartition("-")[0] for key in read(dataset / "faces" / "test")} == {name.lower() for name in held_out}


def test_held_out_names_are_never_trained_on_but_all_their_words_are(dataset):
    trained = {sample["txt"].decode() for sample in read(dataset / "train").values()}
    tested = {sample["txt"].decode() for sample in read(dataset / "characters" / "test").values()}
    words = {word for name in trained for word in name.split()}
    assert len(tested) > 100
    assert tested.isdisjoint(trained)
    assert words.issuperset(word for name in tested for word in name.split())
    assert tested | trained == set((dataset / "names.txt").read_text().splitlines())


def test_the_names_of_the_digits_are_trained_on(dataset):
    trained = {sample["txt"].decode() for sample in read(dataset / "train").values()}
    assert trained.issuperset(glyphs.CLASSNAMES)


def test_splits_do_not_depend_on_the_order_of_anything(dataset):
    names = (dataset / "names.txt").read_text().splitlines()
    faces = glyphs.find_faces(glyphs.FAMILIES)
    mixed, other = random.Random(1).sample(names, len(names)), random.Random(1).sample(faces, len(faces))
    assert glyphs.held_out_names(mixed) == glyphs.held_out_names(names)
    assert glyphs.held_out_faces(other) == glyphs.held_out_faces(faces)


def test_a_name_more_or_less_moves_only_names_that_share_its_words(dataset):
    names = set((dataset / "names.txt").read_text().splitlines())
    before = glyphs.held_out_names(names)
    after = glyphs.held_out_names(names | {"klingon letter tlh"})
    assert before == after - {"klingon letter tlh"}


def test_training_samples_say_what_is_known_and_several_captions(dataset):
    sample = read(dataset / "train")["dejavusans-bold-000e4"]
    known = json.loads(sample["json"])
    assert sample["txt"].decode() == known["captions"][0] == "latin small letter a with diaeresis"
    assert known["captions"][-1] == "bold latin small letter a with diaeresis in sans-serif"
    assert known["character"] == "ä"
    assert known["code_point"] == 0xE4
    assert (known["category"], known["script"]) == ("Ll", "latin")
    assert (known["weight"], known["slant"], known["family"]) == ("bold", "upright", "DejaVu Sans")


def test_no_picture_is_blank_or_of_another_size(dataset):
    for sample in list(read(dataset / "train").values())[::40]:
        pixels = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert pixels.shape == (SIZE, SIZE)
        assert pixels.min() < 128 < pixels.max()


def test_digits_are_dark_on_light_with_the_labels_of_scikit_learn(dataset):
    from sklearn.datasets import load_digits

    samples = read(dataset / "digits" / "test")
    labels = [int(samples[f"s{i:07d}"]["cls"]) for i in range(len(samples))]
    assert labels == load_digits().target.tolist()
    assert (dataset / "digits" / "classnames.txt").read_text().splitlines()[7] == "digit seven"
    pixels = np.asarray(Image.open(io.BytesIO(samples["s0000000"]["png"])))
    assert pixels.shape == (SIZE, SIZE)
    assert (pixels[[0, -1]] == 255).all()
    assert pixels.min() < 60


def test_sizes_and_counts_agree_with_the_shards(dataset):
    counts = json.loads((dataset / "manifest.json").read_text())["counts"]
    sizes = json.loads((dataset / "train" / "sizes.json").read_text())
    assert sum(sizes.values()) == counts["train"] == len(read(dataset / "train"))
    for part in ("faces", "characters", "digits"):
        assert counts[part] == len(read(dataset / part / "test"))


def test_names_that_no_pixel_tells_apart_are_listed_both_ways():
    faces = glyphs.find_faces(glyphs.FAMILIES)[:2]
    drawn = [glyph for face in faces for glyph in glyphs.draw_face(face, 32, lambda letter: letter in "AΑBb")]
    assert glyphs.lookalikes(drawn) == {
        "greek capital letter alpha": ["latin capital letter a"],
        "latin capital letter a": ["greek capital letter alpha"],
    }


def test_the_shipped_lookalikes_are_symmetric_names_of_the_pool(dataset):
    alike = json.loads((dataset / "lookalikes.json").read_text())
    names = set((dataset / "names.txt").read_text().splitlines())
    assert all({name, *others} <= names for name, others in alike.items())
    assert all(name in alike[other] for name, others in alike.items() for other in others)
    assert "latin capital letter a" in alike["greek capital letter alpha"]


def test_twice_gives_the_same_bytes_and_a_third_time_does_nothing(dataset, tmp_path, capsys):
    again = tmp_path / "again"
    glyphs.build(again, SIZE)
    files = sorted(path.relative_to(dataset) for path in dataset.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [path for path in files if (dataset / path).read_bytes() != (again / path).read_bytes()] == []
    capsys.readouterr()
    before = (again / "manifest.json").stat().st_mtime_ns
    glyphs.build(again, SIZE)
    assert "nothing to do" in capsys.readouterr().out
    assert (again / "manifest.json").stat().st_mtime_ns == before


def test_an_occupied_folder_is_refused_with_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.txt").write_text("dear to me")
    monkeypatch.setattr(glyphs, "draw_all", lambda faces, size: [])
    assert glyphs.main(["--out", str(tmp_path)]) == 2
    assert "not replaced" in capsys.readouterr().err

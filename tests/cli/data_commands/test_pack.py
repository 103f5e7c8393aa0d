"""`contrastive data pack` as a user types it."""

import csv
import json
from pathlib import Path

import pytest

from contrastive import cli
from tests.recipes.packing.sources import jpeg, lasting, read, sizes, write_images


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV of 20 images in a folder beside it, one of which is not there."""
    write_images(tmp_path / "images", 20)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "title", "alt", "uid", "who"])
        for n in range(21):
            rows.writerow([f"i{n:03d}.jpg", f"title {n}", f"alt {n}", f"u{n}", n % 3])
    return tmp_path / "pairs.csv"


def pack(*words: object) -> int:
    return cli.main(["data", "pack", *map(str, words), "--processes", "1"])


def test_a_table_becomes_shards_with_a_report(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    columns = ["image=path", "caption=title,alt", f"root={tmp_path / 'images'}", "id=uid"]
    figures = tmp_path / "figures.json"
    assert pack(table, "--out", out, *columns, "--shard-size", 7, "--json", figures) == 0
    samples = read(out)
    assert set(samples) == {f"u{n}" for n in range(20)}
    assert samples["u3"]["jpg"] == jpeg(3)
    assert json.loads(samples["u3"]["json"])["captions"] == ["title 3", "alt 3"]
    assert sorted(sizes(out)) == [6, 7, 7]
    said = capsys.readouterr().out
    assert "image: missing, e.g. " in said
    assert f"every row that was rejected: {out / 'rejected.jsonl'}" in said
    assert "data.caption_key=json.captions draws one of them" in said
    report = json.loads((out / "report.json").read_text())
    assert (report["samples"], report["kept"], report["dropped"]) == (21, 20, {"image: missing": 1})
    assert len(report["examples"]["packed"]) == 12
    assert report["examples"]["packed"][0]["image"]
    assert (out / "report.html").exists()
    found = json.loads(figures.read_text())
    assert (found["samples"], found["shards"], found["rejected"]) == (20, 3, {"image: missing": 1})


def test_splits_and_options_of_the_form_may_stand_in_any_order(table: Path, tmp_path: Path):
    words = ["--split", "val=0.3", "test=.1", "image=path", "caption=title", table, f"root={tmp_path / 'images'}"]
    assert pack(*words, "--out", tmp_path / "out", "--split-by", "who") == 0
    parts = {path.name: read(path) for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert sum(map(len, parts.values())) == 20
    who = {name: {json.loads(sample["json"])["who"] for sample in part.values()} for name, part in parts.items()}
    assert sum(map(len, who.values())) == 3, "each value is in one part"


def test_a_second_run_does_nothing_and_a_lost_report_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_images(tmp_path / "images", 5)
    words = (tmp_path / "images", "--out", tmp_path / "out", "caption=name")
    assert pack(*words) == 0
    before = lasting(tmp_path / "out")
    (tmp_path / "out" / "report.json").unlink()
    assert pack(*words) == 0
    assert "is packed already: nothing to do" in capsys.readouterr().out
    assert set(lasting(tmp_path / "out")) == set(before)


def test_images_are_encoded_anew_when_it_is_asked_for(tmp_path: Path):
    write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "i001.jpg").write_bytes(jpeg(1))
    assert pack(tmp_path / "images", "--out", tmp_path / "out", "caption=name", "--size", 12, "--format", "png") == 0
    samples = read(tmp_path / "out")
    assert all(json.loads(sample["json"])["height"] == 12 for sample in samples.values())
    assert all("png" in sample for sample in samples.values())


def test_shards_are_packed_again_byte_for_byte(tmp_path: Path):
    write_images(tmp_path / "images", 9)
    assert pack(tmp_path / "images", "--out", tmp_path / "a", "caption=name", "--shard-size", 3) == 0
    assert pack(tmp_path / "a", "--out", tmp_path / "b", "--shard-size", 5, "--keep-order") == 0
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert list(read(tmp_path / "a")) == list(read(tmp_path / "b"))


def test_a_kind_that_training_passes_over_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tests import toys

    (tmp_path / "images").mkdir()
    for n in range(3):
        (tmp_path / "images" / f"{n}.gif").write_bytes(toys.encode(toys.image(n), "GIF"))
    assert pack(tmp_path / "images", "--out", tmp_path / "out", "caption=name") == 0
    assert "Training passes over 3 gif: name them (data.image_key='jpg;jpeg;png;webp;gif')" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: there is no such source; name its form with --from: "),
        (["images"], "its images have no captions beside them"),
        (["images", "capton=name"], "pack.capton: image_folder has no such option; did you mean caption?"),
        (["images", "caption=nam"], "pack.caption: "),
        (["images", "--from", "imagefolder"], "--from: 'imagefolder' is not one of "),
        (["images", "caption=name", "more"], "more: options of a form are KEY=VALUE, and there is one SOURCE"),
        (["images", "caption=name", "--split"], "--split: give NAME=SHARE, such as val=0.01, or source"),
        (["images", "caption=name", "--split", "val"], "--split val: give NAME=SHARE, such as val=0.01, or source"),
        (["images", "caption=name", "--split", "val=0.1", "val=0.2"], "--split val=0.2: val stands twice"),
        (["images", "caption=name", "--split", "val=0.1", "source"], "--split source: give NAME=SHARE"),
        (["images", "caption=name", "--split", "val=1.5"], "--split val=1.5: a share lies above 0 and is at most 1"),
        (["images", "caption=name", "--quality", "80"], "--quality: says how images are encoded anew, and nothing is"),
        (["images", "caption=name", "--size", "16", "--quality", "101"], "quality: 101 must be 1 to 100"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 2)
    assert pack(*words, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_help_lists_the_forms_with_their_options(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        pack("--help")
    said = capsys.readouterr().out
    assert "image_folder: caption= field= template={} blanks=true" in said
    assert "A folder of image files" in said or "All images below a folder" in said

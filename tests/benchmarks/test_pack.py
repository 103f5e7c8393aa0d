"""Images, figures and goals of the comparison of packers; the comparison itself is a benchmark, not a test."""

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import pack
import pack_images
import pack_worker

from contrastive.modalities.decode import decode


def turns(ours: float = 5.0, **more: float) -> pack.Turns:
    clocks = {"loop": 10.0, "ours": 8.0, "ours 2": ours, **more}
    return {
        way: [{"clock": clock * scale, "cpu": clock / 2, "images": 100, "bytes": 1e6} for scale in (1.0, 2.0, 1.0)]
        for way, clock in clocks.items()
    }


def test_a_ratio_compares_neighbours_and_two_processes_are_judged():
    assert pack.ratios(turns(), "ours 2") == [2.0, 2.0, 2.0]
    found = pack.figures({"kept": turns(), "resized": turns(8.0, img2dataset=20.0)})
    assert (found["ratio_kept"], found["ratio_resized"]) == (2.0, 1.25)
    assert (found["core_ratio_kept"], found["images_core_kept"]) == (1.25, 25.0)
    assert found["img2dataset_core_resized"] == 10.0
    assert "img2dataset_core_kept" not in found


def test_a_missed_goal_is_an_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(pack, "make", lambda *_: Path("table.csv"))
    monkeypatch.setattr(pack, "take_turns", lambda mode, *_: turns(5.0 if mode == "kept" else 8.0))
    monkeypatch.setattr(pack, "find_peer", lambda *_: (None, "not installed"))
    assert pack.main([]) == 1
    said = capsys.readouterr()
    assert "goal missed: ratio_resized = 1.25, below 1.5" in said.err
    assert said.out.splitlines()[-1].startswith("ratio_kept=2 ratio_resized=1.25 ")
    assert pack.main(["--quick"]) == 1
    monkeypatch.setattr(pack, "take_turns", lambda *_: turns())
    assert pack.main([]) == 0


def test_a_peer_that_is_not_there_is_a_row_with_the_reason(tmp_path: Path):
    peer, absence = pack.find_peer(pack.parse(["--quick", "--cache", str(tmp_path)]), pack.Console())
    assert (peer, absence) == (None, "not installed; a run without --quick does it")
    assert absence in list(pack.turn_table("kept", turns(), absence).columns[2].cells)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_images.make(tmp_path_factory.mktemp("images"), 6, None)


def test_the_images_are_made_once_and_have_the_size_of_photographs(table: Path):
    before = (table.stat().st_mtime_ns, table.parent.parent)
    assert pack_images.make(before[1], 6, None).stat().st_mtime_ns == before[0]
    contents = [path.read_bytes() for path in sorted(table.parent.glob("*.jpg"))]
    assert len(contents) == 6
    assert 40_000 < np.mean([len(one) for one in contents]) < 110_000
    assert all(344 <= decode(one).shape[1] <= 640 for one in contents)


def images(folder: Path) -> dict[str, bytes]:
    """Return the images of all tars of a folder by their captions."""
    found: dict[str, dict[str, bytes]] = {}
    for path in folder.rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                found.setdefault(key, {})[ending] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return {one["txt"].decode(): one["jpg"] for one in found.values()}


@pytest.mark.parametrize("mode", ["kept", "resized"])
def test_ours_and_the_loop_pack_the_same_images(table: Path, mode: str, tmp_path: Path):
    found: dict[str, dict[str, bytes]] = {}
    ways: dict[str, Any] = {"ours": pack_worker.ours, "loop": pack_worker.loop}
    for way, prepared in ways.items():
        prepared(pack_worker.Order(table, tmp_path / way, mode == "resized", 1, 4))()
        found[way] = images(tmp_path / way)
    assert len(found["ours"]) == 6
    assert found["ours"].keys() == found["loop"].keys()
    if mode == "kept":
        assert found["ours"] == found["loop"]
        return
    for name, content in found["ours"].items():
        own, theirs = (np.asarray(Image.open(io.BytesIO(one))).astype(int) for one in (content, found["loop"][name]))
        assert own.shape == theirs.shape
        assert np.abs(own - theirs).mean() < 0.2  # of 255: one level somewhere, through quantisation


def test_photographs_of_a_folder_are_listed(table: Path, tmp_path: Path):
    listed = pack_images.make(tmp_path, 4, table.parent)
    assert len(listed.read_text().splitlines()) == 5
    with pytest.raises(pack.BenchmarkError, match=r"holds no .jpg or .jpeg"):
        pack_images.make(tmp_path, 4, tmp_path)

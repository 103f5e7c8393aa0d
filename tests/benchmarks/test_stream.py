"""Shards, figures and goals of the comparison of pipelines; the comparison itself is a benchmark, not a test."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import stream
import stream_shards
import stream_worker


def turns(ours: float, theirs: float) -> dict[str, list[dict[str, float]]]:
    return {
        "open_clip": [{"cpu": theirs * scale, "main": 1.0, "clock": 2.0} for scale in (1.0, 2.0, 1.5)],
        "ours": [{"cpu": ours * scale, "main": 1.0, "clock": 2.0} for scale in (1.0, 1.0, 1.5)],
    }


PIXELS = {kind: {"max": 2.0, "mean": 0.01, "above_one": 1e-6} for kind in stream.KINDS}
RESUMES = {"whole set": {"seconds": 0.3, "mib": 40.0, "total_mib": 800.0, "samples": 1e9}}


def found(orig: float = 1000.0, r256: float = 1000.0, **changes: float) -> dict[str, float]:
    measured = {"orig": turns(orig, 4000.0), "r256": turns(r256, 4000.0)}
    return {**stream.figures(measured, PIXELS, RESUMES), **changes}


def test_a_ratio_compares_neighbours_and_the_middle_one_counts():
    assert stream.ratios(turns(1000, 4000)) == [4.0, 8.0, 4.0]
    assert found()["ratio_orig"] == 4.0


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"ratio_orig": 2.99}, ["ratio_orig"]),
        ({"ratio_r256": 3.79}, ["ratio_r256"]),
        ({"pixels_off": 2e-4}, ["pixels_off"]),
        ({"resume_seconds": 2.1}, ["resume_seconds"]),
        ({"resume_mib": float("nan")}, ["resume_mib"]),
    ],
)
def test_goals_that_are_missed_are_named(changes: dict[str, float], missed: list[str]):
    assert stream.misses(found(**changes)) == missed


def test_quick_measures_one_short_round():
    assert (stream.parse([]).rounds, stream.parse([]).steps) == (3, 60)
    assert (stream.parse(["--quick"]).rounds, stream.parse(["--quick"]).steps) == (1, 14)


def test_the_last_line_and_the_record_hold_all_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def ask(arguments: list[str], packages: Path | None = None) -> dict[str, Any]:
        assert (arguments[0] == "open_clip") == (packages is not None)
        answers: dict[str, dict[str, Any]] = {"pixels": PIXELS, "resume": RESUMES["whole set"]}
        timing = {"cpu": 5000.0 if packages else 1000.0, "main": 30.0, "clock": 2500.0}
        return answers.get(arguments[0], timing)

    monkeypatch.setattr(stream, "ask", ask)
    monkeypatch.setattr(stream, "peer_environment", lambda folder, console: folder)
    monkeypatch.setattr(stream, "make", lambda folder, photos: {kind: folder / kind for kind in stream.KINDS})
    report = tmp_path / "r.json"
    assert stream.main(["--quick", "--json", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = dict(part.split("=") for part in lines[-1].split())
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(
        json.loads(report.read_text())["figures"]
    )
    assert figures["ratio_orig"] == "5"
    assert any("5.00 (5.00" in line for line in lines)
    monkeypatch.setattr(stream, "GOALS", {"ratio_orig": 5.1})
    assert stream.main(["--quick"]) == 1


def test_shards_hold_real_jpegs_of_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream_shards, "SHARDS", 2)
    monkeypatch.setattr(stream_shards, "SAMPLES", 6)
    folders = stream_shards.make(tmp_path / "cache", None)
    sizes = {"orig": (500, 375), "r256": (341, 256)}
    for kind, folder in folders.items():
        keys = []
        for path in sorted(folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar.getmembers():
                    if member.name.endswith(".jpg"):
                        keys.append(member.name)
                        file = tar.extractfile(member)
                        assert file is not None
                        with Image.open(io.BytesIO(file.read())) as image:
                            assert (image.size, image.format) == (sizes[kind], "JPEG")
        assert len(set(keys)) == 12
    before = [path.stat().st_mtime_ns for folder in folders.values() for path in folder.glob("*.tar")]
    assert stream_shards.make(tmp_path / "cache", None) == folders
    assert [path.stat().st_mtime_ns for folder in folders.values() for path in folder.glob("*.tar")] == before


def test_a_folder_of_photographs_is_kept_as_it_is_and_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream_shards, "SHARDS", 1)
    monkeypatch.setattr(stream_shards, "SAMPLES", 3)
    (tmp_path / "photos").mkdir()
    for number, size in enumerate(((400, 800), (640, 320))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.JPEG")
    folders = stream_shards.make(tmp_path / "cache", tmp_path / "photos")
    with tarfile.open(folders["orig"] / "00000.tar") as tar:
        file = tar.extractfile("000000000.jpg")
        assert file is not None
        assert file.read() == (tmp_path / "photos" / "0.JPEG").read_bytes()
    with tarfile.open(folders["r256"] / "00000.tar") as tar:
        sizes = []
        for number in range(3):
            file = tar.extractfile(f"00000{number:04d}.jpg")
            assert file is not None
            with Image.open(io.BytesIO(file.read())) as image:
                sizes.append(image.size)
    assert sizes == [(512, 256), (256, 512), (512, 256)]


def test_a_folder_without_photographs_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"holds no \.jpg or \.jpeg"):
        stream_shards.make(tmp_path / "cache", tmp_path)


def test_a_resume_at_a_billion_samples_is_really_computed():
    answer = stream_worker.resume(128, 4096)
    assert answer["samples"] > 9e8
    assert 0 < answer["seconds"] < 20

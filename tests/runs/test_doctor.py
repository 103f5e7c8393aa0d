"""Shards with planted faults: each fault is the first finding."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from contrastive import config as configuration_files
from contrastive.recipes.bench import Bench
from contrastive.runs import doctor as module
from contrastive.runs import doctor_machine as host
from contrastive.runs.doctor import Request, describe_model, doctor
from tests import toys

IMAGE = toys.encode(toys.image(0))
Sample = tuple[bytes, str]


def write(folder: Path, sample: Callable[[int], Sample], counts: tuple[int, ...] = (50, 50)) -> Path:
    number = 0
    for shard, count in enumerate(counts):
        members = []
        for _ in range(count):
            image, caption = sample(number)
            members += [(f"{number:05d}.png", image), (f"{number:05d}.txt", caption.encode())]
            number += 1
        toys.write_tar(folder / f"{shard}.tar", members)
    return folder


def healthy(number: int) -> Sample:
    return IMAGE, toys.caption(number)


def examine(tmp_path: Path, *settings: str, **asked) -> tuple[int, dict]:
    """Return status and figures for a run on the shards in tmp_path/shards; nothing is timed unless it is asked for."""
    given = toys.overrides(tmp_path / "shards", tmp_path / "run", "train.total_samples=100000", *settings)
    report = tmp_path / "doctor.json"
    request = Request(**{"shards": "shards", "seconds": 0.0, "json": report, **asked})
    status = doctor(configuration_files.load([], given), request, processes=1)
    return status, json.loads(report.read_text())


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Have the loader measured at one sample a second and core, in the stages given."""
    stages = {**Bench().seconds, **seconds}
    monkeypatch.setattr(module, "bench", lambda rows, budget, workers: Bench(samples=1, seconds=stages))


def test_healthy_shards_have_nothing_to_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "shards", healthy)
    status, found = examine(tmp_path, seconds=0.1)
    said = capsys.readouterr().out
    assert status == 0
    assert found["findings"] == []
    assert "Nothing to fix." in said
    assert "100 in 2 shards" in said
    assert found["epoch_hours"] == pytest.approx(100 / found["samples_per_second"] / 3600)
    assert found["run_hours"] == pytest.approx(100_000 / found["samples_per_second"] / 3600)
    assert found["steps"] == 12_500


def test_a_damaged_shard(tmp_path: Path):
    shards = write(tmp_path / "shards", healthy)
    (shards / "1.tar").write_bytes((shards / "1.tar").read_bytes()[:9000])
    status, found = examine(tmp_path)
    assert status == 1
    assert "1 of 2 shards are damaged" in found["findings"][0]["what"]
    status, found = examine(tmp_path, "data.damaged_shards=substitute")
    assert (status, found["findings"][0]["severity"]) == (0, "wastes")


def test_a_missing_shard(tmp_path: Path):
    shards = write(tmp_path / "shards", healthy)
    status, found = examine(tmp_path, f"data.train='{shards}/{{0..2}}.tar'")
    assert status == 1
    assert f"{shards}/2.tar does not exist" in found["findings"][0]["what"]
    assert found["samples"] == 100


def test_five_percent_of_broken_images(tmp_path: Path):
    write(tmp_path / "shards", lambda n: (IMAGE[: 60 if n % 20 == 3 else None], toys.caption(n)))
    status, found = examine(tmp_path)
    assert status == 1
    assert "5 of 100 samples looked at cannot be used (5.00%" in found["findings"][0]["what"]
    assert examine(tmp_path, "data.max_bad_share=0.5")[0] == 0


def test_empty_captions(tmp_path: Path):
    write(tmp_path / "shards", lambda n: (IMAGE, "" if n % 10 == 0 else toys.caption(n)))
    status, found = examine(tmp_path)
    assert found["findings"][0]["what"].count("10 zero bytes") == 1
    write(tmp_path / "shards", lambda n: (IMAGE, " " if n % 10 == 0 else toys.caption(n)))
    status, found = examine(tmp_path)
    assert status == 1
    assert "10 caption: empty" in found["findings"][0]["what"]


def test_a_wrong_caption_key(tmp_path: Path):
    toys.write_shards(tmp_path / "shards", 20)
    status, found = examine(tmp_path, "data.caption_key=json.title", seconds=0.1)
    assert status == 1
    assert "no sample can be used" in found["findings"][0]["gain"]
    assert found["samples_per_second"] is None


def test_cut_captions(tmp_path: Path):
    write(tmp_path / "shards", lambda n: (IMAGE, f"{toys.caption(n)} seen on a day that was long"))
    status, found = examine(tmp_path)
    assert status == 0
    assert "100.0% of the captions are longer than the 12 tokens" in found["findings"][0]["what"]


def test_shards_sorted_by_class_on_lanes(tmp_path: Path):
    names = ["dog grass", "red car", "blue sea", "old house"]
    counts = (100,) * 4
    write(tmp_path / "shards", lambda n: (IMAGE, f"{names[n // 100]} {n}"), counts)
    _, found = examine(tmp_path, "data.lanes=1", "data.window=8")
    assert "samples of one kind stand together, and the order does not mix them" in found["findings"][0]["what"]
    assert found["findings"][0]["severity"] == "wastes"
    _, found = examine(tmp_path)
    assert [one["severity"] for one in found["findings"]] == ["note"]


def test_tiny_images(tmp_path: Path):
    small = toys.encode(toys.image(0, 8))
    write(tmp_path / "shards", lambda n: (small, toys.caption(n)))
    _, found = examine(tmp_path)
    assert "100.0% of the images are smaller than the 16 pixels" in found["findings"][0]["what"]


def test_huge_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    large = toys.encode(toys.image(0, 128))
    write(tmp_path / "shards", lambda n: (large, toys.caption(n)))
    timed(monkeypatch, read=0.1, decode=0.7, tokenise=0.2)
    _, found = examine(tmp_path, seconds=1.0)
    assert "median shorter side is 128 pixels for a model's input of 16" in found["findings"][0]["what"]
    assert f"contrastive data pack {tmp_path / 'shards'} --size 24" in found["findings"][0]["fix"]
    assert f"about {1 / (0.3 + 0.7 * (24 / 128) ** 2):.1f} times as fast" in found["findings"][0]["gain"]


def test_one_shard_ten_times_the_others(tmp_path: Path):
    write(tmp_path / "shards", healthy, (10, 10, 100))
    _, found = examine(tmp_path)
    assert "10.0 times the median" in found["findings"][0]["what"]


def test_a_small_dev_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "shards", healthy)
    monkeypatch.setattr(host, "shared_free", lambda: 1000.0)
    status, found = examine(tmp_path, "data.workers=2")
    assert status == 1
    assert "/dev/shm has 1.0 KB free" in found["findings"][0]["what"]


def test_a_low_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "shards", healthy)
    monkeypatch.setattr(host, "disk_free", lambda folder: (1e6, str(folder)))
    status, found = examine(tmp_path)
    assert status == 1
    assert "1.0 MB are free at" in found["findings"][0]["what"]
    assert found["disk"]["checkpoint"] == 12 * found["parameters"]


def test_too_few_workers_for_a_step_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "shards", healthy)
    timed(monkeypatch, read=1.0)
    monkeypatch.setattr(module, "cores", lambda: 64)
    _, found = examine(tmp_path, "data.workers=2", seconds=1.0, step_seconds=1.0)
    assert "2 samples/s of 8 that the model takes" in found["findings"][0]["what"]
    assert found["findings"][0]["fix"] == "data.workers=8"
    assert (found["workers_needed"], found["data_limits"]) == (8, True)


def test_a_model_is_described_without_its_weights(tmp_path: Path):
    config = configuration_files.load([], ["model.name=ViT-B-32", "model.pretrained=openai", "data.train=x"])
    found = describe_model(config, 99)
    assert (found.preprocess.size, found.tokenizer.spec.context_length) == (224, 77)
    assert found.parameters == 151_277_313
    bare = describe_model(configuration_files.load([], ["data.train=x"]), 99)
    assert (bare.preprocess.size, bare.parameters) == (99, None)


def test_the_report_is_a_page_with_the_findings(tmp_path: Path):
    write(tmp_path / "shards", lambda n: (IMAGE[: 60 if n % 20 == 3 else None], toys.caption(n)))
    examine(tmp_path, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "stops the run: 5 of 100 samples" in page
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["samples"], report["kept"]) == (100, 95)
    assert len(report["examples"]["samples"]) == 12

"""`contrastive data embed` on one process: what it writes, what it refuses, and how it goes on."""

import errno
import json
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from contrastive.errors import DataError, Preempted, RunError
from contrastive.recipes.embedding import Features, Layout
from contrastive.recipes.verdicts import column
from contrastive.runs.embedding import Request, embed
from contrastive.runs.lock import RunLock
from contrastive.runs.opening import configuration
from tests import toys
from tests.recipes.embedding_toys import WIDTH, model, pool_of, spoilt

CAPTION = "data.caption_key=json.captions"
CHUNK = 16  # of 40 samples: three chunks


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model") / "step-1")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("embedded")
    shards = toys.write_shards(folder / "shards", 40, shards=3)
    return shards, run(shards, tiny, folder / "out")


@pytest.fixture
def finished(embedded: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Return shards of 40 samples, and a copy of what was made of them."""
    return embedded[0], Path(shutil.copytree(embedded[1], tmp_path / "finished"))


def run(shards: Path, tiny: Path, out: Path, caption: str = CAPTION, **options: Any) -> Path:
    given = {"batch_size": 8, "chunk": CHUNK, "device": "cpu", **options}
    with mock.patch("contrastive.runs.machine.cores", return_value=1):  # several threads do not survive a fork
        embed(configuration([], [caption], [str(shards)]), Request(str(tiny), out, **given))
    return out


def content(out: Path) -> dict[str, bytes]:
    """Return all that must not depend on how often or on how many processes it was made."""
    return {path.name: path.read_bytes() for path in [*(out / "features").iterdir(), out / "scores.parquet"]}


def test_a_pool_becomes_features_scores_and_a_report(shards: Path, tiny: Path, tmp_path: Path):
    out = run(shards, tiny, tmp_path / "out")
    features = Features.open(out, pool_of(shards))
    image, text = features.image(slice(None)), features.text(slice(None))
    assert image.shape == text.shape == (40, WIDTH)
    assert np.allclose((image * text).sum(1), column(out / "scores.parquet", "clip_score"), atol=2e-3)
    about = json.loads((out / "embed.json").read_text())
    assert (about["finished"], about["samples"], about["width"]) == (True, 40, WIDTH)
    assert (about["form"], about["precision"], about["captions"]) == (str(tiny), "fp32", "all")
    assert about["seconds"] >= 0
    said = json.loads((out / "report.json").read_text())
    assert (said["samples"], said["kept"]) == (40, 40)
    assert (out / "report.html").is_file()


def test_the_second_run_embeds_nothing_and_changes_nothing(finished: tuple[Path, Path], tiny: Path):
    shards, out = finished
    before = content(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "features").iterdir()}
    run(shards, tiny, out)
    assert content(out) == before
    assert {path: path.stat().st_mtime_ns for path in (out / "features").iterdir()} == times
    assert json.loads((out / "report.json").read_text())["figures"]["chunks embedded now"] == 0


def test_what_is_lost_is_made_again(finished: tuple[Path, Path], tiny: Path):
    shards, out = finished
    before = content(out)
    (out / "features" / "00001.text.npy").unlink()
    (out / "features" / ".00002.npy-half").write_bytes(b"of a process that was killed")
    (out / "scores.parquet").unlink()
    run(shards, tiny, out)
    assert content(out) == before
    assert json.loads((out / "report.json").read_text())["figures"]["chunks embedded now"] == 1


def test_a_copy_of_model_and_shards_elsewhere_goes_on(finished: tuple[Path, Path], tmp_path: Path):
    shards, out = finished
    run(Path(shutil.copytree(shards, tmp_path / "moved")), model(tmp_path / "again" / "step-1"), out, batch_size=5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"captions": "first"}, "--captions is first, and was all"),
        ({"precision": "bf16"}, "--precision is bf16, and was fp32"),
        ({"chunk": 9}, "--chunk is 9, and was 16"),
        (
            {"caption": "data.caption_key=json.other"},
            "data.caption_key is [['json.other']], and was [['json.captions']]",
        ),
    ],
)
def test_what_was_begun_otherwise_is_refused(
    finished: tuple[Path, Path], tiny: Path, other: dict[str, Any], message: str
):
    shards, out = finished
    with pytest.raises(DataError) as refused:
        run(shards, tiny, out, **other)
    said = str(refused.value)
    assert said.startswith(
        f"{out / 'embed.json'}: was begun otherwise: {message}; give what was given then, or another"
    )


def test_other_samples_and_another_model_are_refused(finished: tuple[Path, Path], tiny: Path, tmp_path: Path):
    shards, out = finished
    with pytest.raises(DataError, match=r"the model is .*step-1 \(.{8}\), and was .*step-1 \(.{8}\); give"):
        run(shards, model(tmp_path / "other" / "step-1", seed=1), out)
    with pytest.raises(DataError, match=r"the samples is .*, and was"):
        run(toys.write_shards(tmp_path / "more", 41), tiny, out)


def test_a_folder_with_another_report_is_refused(shards: Path, tiny: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("{}")
    with pytest.raises(DataError, match="holds the report of an earlier step; name a new folder"):
        run(shards, tiny, tmp_path / "out")


def test_two_jobs_in_one_folder_are_refused(shards: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("contrastive.runs.lock.PATIENCE_SECONDS", 0.0)
    with RunLock(tmp_path / "out"), pytest.raises(DataError, match=r"--out: .*/out is in use by process"):
        run(shards, tiny, tmp_path / "out")


def test_samples_that_cannot_be_embedded_are_counted_and_the_others_are_scored(tiny: Path, tmp_path: Path):
    shards = spoilt(tmp_path / "shards")
    out = run(shards, tiny, tmp_path / "out", caption="data.caption_key=txt")
    said = json.loads((out / "report.json").read_text())
    assert (said["samples"], said["kept"]) == (6, 3)
    assert said["dropped"] == {"caption: empty": 1, "image: not an image": 1, "image: truncated": 1}
    path = out / "scores.parquet"
    assert column(path, "kept").tolist() == [True, False, False, True, False, True]
    features = Features.open(out, pool_of(shards, "txt")).image(slice(None))
    assert np.isnan(features).any(1).tolist() == [False, True, False, False, True, False]


def test_a_disk_that_fills_says_what_to_do_and_keeps_what_is_there(
    embedded: tuple[Path, Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shards, write = embedded[0], Layout.write

    def full(self: Layout, chunk: int, made: Any) -> None:
        if chunk == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, chunk, made)

    monkeypatch.setattr(Layout, "write", full)
    with pytest.raises(DataError, match=r"out: cannot be written \(No space left on device\); mend that, and the same"):
        run(shards, tiny, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "contrastive"))
    assert (tmp_path / "out" / "features" / "00000.parquet").is_file()
    out = run(shards, tiny, tmp_path / "out")
    assert content(out) == content(embedded[1])


def test_a_signal_ends_it_after_the_batch_and_it_goes_on(
    embedded: tuple[Path, Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shards, write = embedded[0], Layout.write

    def asked(self: Layout, chunk: int, made: Any) -> None:
        write(self, chunk, made)
        if chunk == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Layout, "write", asked)
    with pytest.raises(Preempted) as ended:
        run(shards, tiny, tmp_path / "out")
    assert ended.value.signal == signal.SIGTERM
    monkeypatch.undo()
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "contrastive"))
    assert not (tmp_path / "out" / "features" / "00002.parquet").exists()
    with pytest.raises(DataError, match="1 of 3 chunks are missing"):
        Features.open(tmp_path / "out", pool_of(shards))
    assert content(run(shards, tiny, tmp_path / "out")) == content(embedded[1])


def test_a_folder_that_cannot_be_written_is_refused(shards: Path, tiny: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises((DataError, RunError), match=r"--out: .*cannot be written: Not a directory"):
        run(shards, tiny, tmp_path / "file" / "out")

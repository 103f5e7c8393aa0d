"""Arguments, figures and the ways of the checkpoint benchmark on a tiny model; the comparison itself is no test."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import checkpoint
import checkpoint_training
import checkpoint_ways
from trainers import BenchmarkError

TINY = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
    }
}
NAMES = [way.name for way in checkpoint_ways.WAYS]


def saves(stalls: tuple[float, ...], lost: float = 1.0) -> list[checkpoint.Save]:
    rest = {"step_seconds": 0.5, "on_disk": 2.0, "steps": 3, "resume": 1.0, "resume_from_disk": 2.0}
    return [
        checkpoint.Save(way=name, stall=stall, lost=lost, bytes=10**9, kept_bytes=0, **rest)
        for name, stall in zip(NAMES, stalls, strict=True)
    ]


# Ours, torch.save, torch.save + fsync, save_state, dcp.async_save.
ROUNDS = [
    saves((9.0, 1, 1, 1, 1)),
    saves((0.1, 1, 2, 0.5, 0.1)),
    saves((0.3, 2, 3, 3, 0.1), 3.0),
    saves((0.2, 4, 4, 2, 0.1), 2.0),
]


@pytest.fixture(scope="module")
def held() -> checkpoint_training.Trained:
    torch.set_num_threads(1)
    found = checkpoint_training.trained(TINY, 4, "no", "cpu")
    found.step()
    return found


def test_quick_has_fewer_rounds_unless_told_otherwise():
    assert (checkpoint.parse(["--quick"]).rounds, checkpoint.parse([]).rounds) == (2, 5)
    assert checkpoint.parse(["--quick", "--rounds", "3"]).rounds == 3


def test_wrong_arguments_end_with_status_2():
    with pytest.raises(SystemExit) as stopped:
        checkpoint.parse(["--rounds", "0"])
    assert stopped.value.code == 2


def test_ratios_are_of_the_same_round_and_the_first_round_stands_by_itself():
    rows = checkpoint.medians(ROUNDS)
    assert rows["ours"]["first_stall"] == 9.0
    assert rows["ours"]["stall"] == pytest.approx(0.2)
    assert rows["ours"]["lost"] == 2.0
    assert rows["torch.save"]["stall_ratio"] == pytest.approx(0.1)  # of 0.1, 0.15 and 0.05
    assert rows["save_state"]["stall_ratio"] == pytest.approx(0.1)  # of 0.2, 0.1 and 0.1


def test_the_goal_is_about_the_worse_of_the_two_synchronous_saves():
    found = checkpoint.figures([ROUNDS[0], saves((0.3, 1, 3, 2, 0.1))])
    assert found["stall_ratio"] == pytest.approx(0.3)
    assert found["stall_torch_save_fsync"] == 3
    assert found["lost_dcp_async_save"] == 1.0


def test_the_table_has_a_line_a_way_and_the_record_is_json():
    console = Console(record=True, width=130, file=io.StringIO())
    console.print(checkpoint.table(ROUNDS))
    text = console.export_text()
    assert all(name in text for name in NAMES)
    record = json.loads(json.dumps(checkpoint.record(ROUNDS, checkpoint.parse([]))))
    assert len(record["rounds"]) == 4
    assert record["versions"]["torch"]


@pytest.mark.parametrize(("stall", "status"), [(0.25, 0), (0.26, 1)])
def test_the_status_is_1_when_the_goal_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, stall: float, status: int
):
    monkeypatch.setattr(checkpoint, "measure", lambda options, console: [ROUNDS[0], saves((stall, 1, 1, 1, 0.1))])
    assert checkpoint.main(["--quick", "--json", str(tmp_path / "out.json")]) == status
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"stall_ratio={stall:.3f} stall_ours=")
    assert json.loads((tmp_path / "out.json").read_text())["goal"] == 0.25


def test_a_disk_without_room_is_refused(tmp_path: Path):
    with pytest.raises(BenchmarkError, match=r"--folder .*: 1000000\.0 GB are needed and"):
        checkpoint.require_room(tmp_path, 10**15)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_status_2():
    assert checkpoint.main(["--quick", "--device", "cuda"]) == 2


@pytest.mark.parametrize("kind", checkpoint_ways.WAYS, ids=NAMES)
def test_every_way_brings_back_what_it_has_saved_while_training_went_on(held, tmp_path: Path, kind):
    way = kind(tmp_path / "saves", held)
    expected = [value.clone() for value in held.numbers()]
    way.save(1)
    held.step()
    way.settle()
    assert way.whole is not None
    assert way.ended is not None
    assert way.whole <= way.ended
    with pytest.raises(BenchmarkError, match="other numbers"):
        checkpoint.require_equal(way, held, expected)
    way.resume()
    checkpoint.require_equal(way, held, expected)
    way.close()
    assert sum(path.stat().st_size for path in checkpoint_ways.files_of(way.place())) > held.size()


def test_a_visit_measures_a_save_and_a_resume(held, tmp_path: Path):
    way = checkpoint_ways.WAYS[0](tmp_path / "saves", held)
    for number in range(2):
        save = checkpoint.visit(way, held, number, 2)
        assert 0 < save.stall < save.on_disk
        assert save.steps >= 2
        assert min(save.resume, save.resume_from_disk) > 0
        assert save.bytes > held.size() <= save.kept_bytes
    way.close()


def test_a_save_that_the_disk_refuses_ends_the_wait(held, tmp_path: Path):
    way = checkpoint_ways.WAYS[0](tmp_path / "saves", held)
    (tmp_path / "saves").mkdir()
    (tmp_path / "saves" / "checkpoints").write_text("in the way")
    with pytest.raises(Exception, match="could not be written"):
        checkpoint.visit(way, held, 1, 1)
    way.close()


def test_files_that_are_dropped_from_memory_keep_their_content(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 10000)
    checkpoint_ways.drop_from_memory(tmp_path / "folder")
    assert checkpoint_ways.files_of(tmp_path)[0].read_bytes() == b"x" * 10000

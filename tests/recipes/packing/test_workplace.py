"""One packing at a time, beside a folder that holds all or nothing."""

import multiprocessing
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.recipes.packing import workplace
from contrastive.recipes.packing.workplace import publish, working

JOB = {"source": "a", "packing": {"seed": 0, "size": 5}}


def begin(out: Path, job: dict = JOB, **options: bool) -> None:
    """Begin a work and leave it, with a listing."""
    with working(out, job, **options) as folder:
        assert folder is not None
        (folder / "listing").mkdir(exist_ok=True)


def test_work_that_was_begun_is_taken_up(tmp_path: Path):
    begin(tmp_path / "out")
    (tmp_path / ".out.packing" / "some.tar").touch()
    with working(tmp_path / "out", JOB) as folder:
        assert folder == tmp_path / ".out.packing"
        assert (folder / "some.tar").exists()


def test_nothing_is_left_of_what_did_not_come_to_a_listing(tmp_path: Path):
    with pytest.raises(KeyError), working(tmp_path / "out", JOB):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_other_work_is_refused_and_says_what_differs(tmp_path: Path):
    begin(tmp_path / "out")
    said = "was begun in another way (packing.seed: 0 there, 1 now; packing.new: null there, true now); "
    with pytest.raises(DataError) as caught:
        begin(tmp_path / "out", {"source": "a", "packing": {"seed": 1, "size": 5, "new": True}})
    assert said in str(caught.value)
    assert "--restart" in str(caught.value)


def test_a_restart_throws_other_work_away(tmp_path: Path):
    begin(tmp_path / "out")
    (tmp_path / ".out.packing" / "shards").mkdir()
    begin(tmp_path / "out", {"source": "b"}, restart=True)
    assert not (tmp_path / ".out.packing" / "shards").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("out/a.jpg", "holds a.jpg, and is no folder of packed shards"), ("out", "is a file; name a folder")],
)
def test_what_holds_something_else_is_refused_and_left_alone(tmp_path: Path, name: str, said: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match=said):
        begin(tmp_path / "out")
    assert (tmp_path / name).read_text() == "mine"
    assert not list(tmp_path.glob(".out*"))


def test_a_mount_point_is_refused():
    with pytest.raises(DataError, match="--out /proc: is a mount point; name a folder in it"):
        begin(Path("/proc"))


def _hold(out: Path, ready, end) -> None:
    with working(out, JOB):
        ready.set()
        end.wait(30)


def test_a_second_one_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(workplace, "PATIENCE_SECONDS", 0.1)
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "out", ready, end))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(DataError, match="another process packs into it; wait for it, or name another folder"):
            begin(tmp_path / "out")
        assert (tmp_path / ".out.packing").exists()
    finally:
        end.set()
        other.join(20)


def test_a_folder_appears_whole_over_an_empty_one_and_never_over_another(tmp_path: Path):
    for name in ("empty", "full"):
        (tmp_path / "work" / "whole").mkdir(parents=True)
        (tmp_path / "work" / "whole" / "a").touch()
        (tmp_path / name).mkdir()
        if name == "full":
            (tmp_path / name / "b").touch()
            with pytest.raises(DataError, match="cannot be made: Directory not empty; move what is there"):
                publish(tmp_path / "work" / "whole", tmp_path / name)
            assert (tmp_path / "work" / "whole" / "a").exists()
        else:
            publish(tmp_path / "work" / "whole", tmp_path / name)
            assert (tmp_path / name / "a").exists()
            assert not (tmp_path / "work").exists()

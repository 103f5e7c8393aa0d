import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contrastive.errors import RunError
from contrastive.train import checkpoints as module
from contrastive.train.checkpoints import Checkpoints, damage, require_sound


def filled(folder: Path, text: str = "weights") -> None:
    (folder / "model.safetensors").write_text(text)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text("{}")


def written(tmp_path: Path, *steps: int, keep: int | None = None) -> Checkpoints:
    found = Checkpoints(tmp_path, keep)
    for step in steps:
        found.write(step, 10, filled)
        found.prune()
    return found


def test_a_checkpoint_has_all_its_files_in_a_manifest_and_is_sound(tmp_path: Path):
    found = written(tmp_path, 5)
    manifest = json.loads((found.path(5) / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "tokenizer/vocab.json"}
    assert manifest["files"]["model.safetensors"]["bytes"] == 7
    assert found.newest() == (5, [])
    assert [path.name for path in found.folder.iterdir()] == ["step-00000005"]


def test_names_sort_by_step(tmp_path: Path):
    found = Checkpoints(tmp_path, None)
    paths = [found.path(step) for step in (9, 10, 1_000_000, 99_999_999)]
    assert sorted(paths) == paths


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[3] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 3)


def empty(folder: Path) -> None:
    os.truncate(folder / "tokenizer" / "vocab.json", 0)


def lose(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").unlink()


def garble(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def other_kind(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1, "files": ["a"]}')


def newer(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 9, "files": {}}')


def unsealed(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def escaping(folder: Path) -> None:
    content = {"format": 1, "files": {"../../secret": {"bytes": 1, "sha256": "a"}}}
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "model.safetensors is not what was written (manifest mismatch)"),
        (truncate, "model.safetensors has 3 bytes, not the 7 that were written"),
        (empty, "tokenizer/vocab.json has 0 bytes, not the 2 that were written"),
        (lose, "tokenizer/vocab.json is missing"),
        (garble, "manifest.json cannot be read (JSONDecodeError)"),
        (other_kind, "manifest.json cannot be read (AttributeError)"),
        (newer, "is of format 9, this version reads 1"),
        (unsealed, "manifest.json is missing"),
        (emptied, "manifest.json is missing"),
        (escaping, "../../secret lies outside of the checkpoint"),
    ],
)
def test_whatever_is_wrong_is_told_and_an_earlier_checkpoint_taken(
    tmp_path: Path, harm: Callable[[Path], None], said: str
):
    found = written(tmp_path, 5, 9)
    harm(found.path(9))
    assert found.newest() == (5, [f"{found.path(9)}: {said}"])
    with pytest.raises(RunError, match="step-00000009"):
        require_sound(found.path(9))


def test_strange_names_are_no_checkpoints(tmp_path: Path):
    found = written(tmp_path, 5)
    (found.folder / "step-00000999").write_text("a file")
    for name in ("step-abc", "step-00000007.bak", ".step-00000008.writing", "notes"):
        (found.folder / name).mkdir()
    assert found.steps() == [5]
    found.clean()
    assert not (found.folder / ".step-00000008.writing").exists()
    assert (found.folder / "notes").is_dir()


def test_only_earlier_steps_count_where_asked(tmp_path: Path):
    found = written(tmp_path, 5, 9)
    assert found.newest(before=9) == (5, [])
    assert found.newest(before=5) == (None, [])


def test_what_fails_on_the_way_leaves_what_was_there(tmp_path: Path):
    found = written(tmp_path, 5)

    def half(folder: Path) -> None:
        filled(folder)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        found.write(9, 10, half)
    assert [path.name for path in found.folder.iterdir()] == ["step-00000005"]
    assert damage(found.path(5)) is None


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path):
    found = written(tmp_path, 5)
    with pytest.raises(OSError, match=r"checkpoints: [\d,]+ bytes are needed and [\d,]+ are free"):
        found.write(9, 1 << 60, filled)
    assert found.steps() == [5]


def test_the_newest_are_kept_and_what_they_supersede_goes(tmp_path: Path):
    assert written(tmp_path, 1, 2, 3, 4, keep=2).steps() == [4, 3]
    assert written(tmp_path / "all", 1, 2, 3, 4).steps() == [4, 3, 2, 1]


def test_a_checkpoint_that_was_never_verified_supersedes_none(tmp_path: Path):
    written(tmp_path, 1, 2, 3)
    later = Checkpoints(tmp_path, 2)  # another launch, which has looked at none of them
    later.prune()
    assert later.steps() == [3, 2, 1]
    truncate(later.path(3))
    assert later.newest()[0] == 2
    later.write(4, 10, filled)
    later.prune()
    assert later.steps() == [4, 3, 2]


def test_the_best_are_kept_beyond_the_newest(tmp_path: Path):
    found = Checkpoints(tmp_path, 2)
    best: dict[int, float] = {}
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.1), (4, 0.8), (5, 0.2), (6, 0.9)):
        found.write(step, 10, filled)
        best = found.note_best(step, value, "a/b/c", 2, highest=True)
        found.prune(best)
    assert list(best) == [2, 6]
    assert found.steps() == [6, 5, 2]
    assert Checkpoints(tmp_path, 2).best() == {2: 0.9, 6: 0.9}
    assert list(found.note_best(5, 0.0, "a/b/c", 1, highest=False)) == [5]


def test_a_removal_that_is_interrupted_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = written(tmp_path, 1, 2, 3)

    def dies(path: Path, ignore_errors: bool = False) -> None:
        if Path(path).exists() and str(path).endswith("removing"):
            (Path(path) / "model.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(module.shutil, "rmtree", dies)
    found.keep = 2
    with pytest.raises(KeyboardInterrupt):
        found.prune()
    monkeypatch.undo()
    assert found.steps() == [3, 2]
    found.clean()
    assert sorted(path.name for path in found.folder.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path):
    found = written(tmp_path, 5)
    found.write(5, 10, lambda folder: filled(folder, "others"))
    assert (found.path(5) / "model.safetensors").read_text() == "others"
    assert damage(found.path(5)) is None

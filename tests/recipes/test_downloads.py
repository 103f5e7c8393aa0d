import json
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.recipes import downloads
from contrastive.recipes.downloads import (
    Download,
    claim,
    environment_commands,
    fetched,
    forget_shards,
    img2dataset_command,
    move_finished,
)


def write_stats(folder: Path, shard: int, count: int, successes: int, **failures: int) -> None:
    said = {"count": count, "successes": successes, "status_dict": {"success": successes, **failures}}
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(said))
    (folder / f"{shard:05d}.tar").write_bytes(bytes([shard]))


def test_all_bytes_are_kept_where_no_size_is_asked_for() -> None:
    words = img2dataset_command("i", Path("list"), Path("out"), Download(size=None, columns=("uid", "x")))
    assert "--disable_all_reencoding=True" in words
    assert "--resize_mode=no" in words
    assert '--save_additional_columns=["uid","x"]' in words
    assert not [word for word in words if "image_size" in word or "encode_quality" in word]


def test_the_environment_is_made_once_beside_the_output(tmp_path: Path, monkeypatch) -> None:
    program, commands = environment_commands(tmp_path)
    assert [" ".join(words[1:]) for words in commands] == [
        f"-m venv {tmp_path}/.venv-img2dataset", "install img2dataset==1.47.0"
    ]  # fmt: skip
    Path(program).parent.mkdir(parents=True)
    Path(program).touch()
    assert environment_commands(tmp_path) == (program, [])
    Path(program).unlink()
    monkeypatch.setattr(downloads.sys, "version_info", (3, 13, 1))
    with pytest.raises(DataError, match=r"needs Python 3\.12 or older; install it in an environment"):
        environment_commands(tmp_path)


def test_what_came_is_summed_over_the_finished_shards(tmp_path: Path) -> None:
    write_stats(tmp_path, 0, 10, 8, gone=2)
    write_stats(tmp_path, 1, 10, 1, gone=4, slow=5)
    found = str(fetched(tmp_path))
    assert found == "9 of 20 images downloaded (45.0%), 2 shards; not: 6 gone, 5 slow"
    (tmp_path / "00001_stats.json").write_text("{")
    with pytest.raises(DataError, match=r"00001_stats\.json: cannot be read; remove it"):
        fetched(tmp_path)


def test_only_shards_that_a_failing_network_emptied_are_tried_again(tmp_path: Path) -> None:
    write_stats(tmp_path, 0, 10, 8, gone=2)
    write_stats(tmp_path, 1, 10, 1, gone=9)
    assert forget_shards(tmp_path, 0.5) == 1
    assert [path.name for path in sorted(tmp_path.glob("*.json"))] == ["00000_stats.json"]


def test_tars_leave_the_folder_of_the_download_when_they_are_finished(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    write_stats(source, 0, 10, 8)
    write_stats(source, 1, 10, 8)
    (source / "00001_stats.json").unlink()
    assert move_finished(source, target) == 1
    assert [path.name for path in target.iterdir()] == ["00000.tar"]
    assert move_finished(source, target) == 0
    assert fetched(source).tried == 10


def test_a_download_of_another_list_is_not_gone_on_with(tmp_path: Path) -> None:
    claim(tmp_path / "download", {"list": "a"})
    claim(tmp_path / "download", {"list": "b"})
    write_stats(tmp_path / "download", 0, 1, 1)
    claim(tmp_path / "download", {"list": "b"})
    with pytest.raises(DataError, match=r"download: was begun with another list or size"):
        claim(tmp_path / "download", {"list": "c"})

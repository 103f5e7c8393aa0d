"""What a source looks like, and what the words of a form mean."""

import os
from pathlib import Path

import pytest

from contrastive.runs.packing import _typed, state_of
from tests import toys
from tests.recipes.packing.sources import write_images

OUT = Path("/nowhere")


def test_a_folder_looks_different_when_a_file_comes_goes_or_changes(tmp_path: Path):
    write_images(tmp_path / "in", 3)
    seen = [state_of(str(tmp_path / "in"), OUT)]
    (tmp_path / "in" / "i001.jpg").write_bytes(b"other")
    seen.append(state_of(str(tmp_path / "in"), OUT))
    (tmp_path / "in" / "i002.jpg").unlink()
    seen.append(state_of(str(tmp_path / "in"), OUT))
    (tmp_path / "in" / "below").mkdir()
    seen.append(state_of(str(tmp_path / "in"), OUT))
    (tmp_path / "in" / "below" / "new.jpg").touch()
    os.utime(tmp_path / "in" / "below", (1, 1))
    seen.append(state_of(str(tmp_path / "in"), OUT))
    assert len(set(seen)) == 5


def test_what_reading_and_packing_write_is_no_change(tmp_path: Path):
    toys.write_shards(tmp_path, 4)
    before = state_of(str(tmp_path), tmp_path / "out")
    for name in ("manifest.json", "sizes.json", "00000.tar.idx.npy", ".out.packing", "out"):
        (tmp_path / name).mkdir() if "out" in name else (tmp_path / name).touch()
    assert state_of(str(tmp_path), tmp_path / "out") == before
    assert state_of(str(tmp_path / "*.tar"), OUT) == before, "the same files"
    assert state_of(str(tmp_path / "00000.tar"), OUT) != before


def test_of_an_address_nothing_is_known():
    assert state_of("s3://bucket/{0..3}.tar", OUT) == state_of("s3://other", OUT)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("id", "007"),
        ("delimiter", "|"),
        ("delimiter", ","),
        ("split", "2020-01-01"),
        ("caption", "a, b"),
        ("image", "1"),
    ],
)
def test_a_text_stays_a_text(word: str, value: str):
    assert _typed("table", {word: value}) == {word: value}


def test_other_values_are_yaml():
    assert _typed("table", {"delimiter": "'\t'", "caption": '"a b"'}) == {"delimiter": "\t", "caption": "a b"}
    assert _typed("table", {"base64": "true", "id": "null"}) == {"base64": True, "id": None}
    assert _typed("image_folder", {"blanks": "false"}) == {"blanks": False}

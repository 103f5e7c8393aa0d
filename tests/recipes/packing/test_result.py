"""What a finished folder says of itself is what was said when it was made."""

from dataclasses import replace
from pathlib import Path

from contrastive.recipes.packing.result import Packed
from tests.recipes.packing.sources import mixed, packed, write_images


def test_a_folder_says_of_itself_what_its_packing_said(tmp_path: Path):
    made = packed(mixed(write_images(tmp_path / "images", 12), 12), tmp_path / "out", shard_size=5, splits={"val": 0.3})
    again = replace(Packed.of(tmp_path / "out"), is_new=True, examples=made.examples, seconds=made.seconds)
    assert again == made
    assert made.shard_count == len(list((tmp_path / "out").rglob("*.tar")))

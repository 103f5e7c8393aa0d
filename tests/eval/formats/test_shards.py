import logging
from pathlib import Path

import numpy as np
import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.shards import Shards
from tests import toys
from tests.eval.formats.trees import names, refused, texts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))


def tree(root: Path, count: int = 5) -> Path:
    toys.write_shards(root / "val", count)
    return root


def test_samples_come_in_the_order_of_the_shards(tmp_path: Path) -> None:
    content = Shards().read(tree(tmp_path), "val", ())
    assert content.kinds == ("retrieval",)
    assert names(content) == [f"0000{0 if number < 3 else 1}.tar: s0000{number}" for number in range(5)]
    assert texts(content) == [[toys.caption(number)] for number in range(5)]
    for number, sample in enumerate(content.samples):
        assert np.array_equal(np.asarray(sample.image.decode()), toys.image(number))


def test_all_captions_of_a_json_list_are_read(tmp_path: Path) -> None:
    content = Shards(caption_key="json.captions").read(tree(tmp_path), "val", ())
    assert texts(content)[4] == [f"{toys.caption(4)} seen {way}" for way in ("here", "there", "nowhere")]


def test_the_split_may_be_a_pattern_and_the_root_a_tar(tmp_path: Path) -> None:
    assert len(Shards().read(tree(tmp_path), "val/{00001..00001}.tar", ()).samples) == 2
    assert len(Shards().read(tmp_path / "val", ".", ()).samples) == 5
    assert len(Shards().read(tmp_path / "val/00000.tar", "test", ()).samples) == 3


def test_another_member_may_be_the_image(tmp_path: Path) -> None:
    pixels = toys.image(9)
    toys.write_tar(tmp_path / "val/0.tar", [("a.png", toys.encode(toys.image(8))), ("a.webp", b"x"), ("a.txt", b"a")])
    toys.write_tar(tmp_path / "val/1.tar", [("b.seg.png", toys.encode(pixels)), ("b.png", b"x"), ("b.txt", b"b")])
    assert "1 samples have no image" in refused(Shards(image_key="seg.png"), tmp_path, "val")
    content = Shards(image_key="seg.png;png").read(tmp_path, "val", ())
    assert np.array_equal(np.asarray(content.samples[1].image.decode()), pixels)


def test_samples_without_a_caption_are_counted_and_refused(tmp_path: Path) -> None:
    picture = toys.encode(toys.image(0))
    toys.write_tar(
        tmp_path / "val/0.tar", [("a.png", picture), ("a.txt", b"a"), ("b.png", picture), ("c.png", picture)]
    )
    assert "split val: 2 samples have no caption" in refused(Shards(), tmp_path, "val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_key": "cap"}, "format.caption_key: no sample has a member cap; the shards hold"),
        ({"image_key": "gif"}, "format.image_key: no sample has a member gif; the shards hold"),
        (
            {"caption_key": "json.title"},
            "00000.tar: key 's00000': format.caption_key asks for json.title, and its json",
        ),
        ({"image_key": " ; "}, "name a member each"),
    ],
)
def test_a_wrong_key_is_refused_by_its_own_name(tmp_path: Path, options: dict[str, str], message: str) -> None:
    assert message in refused(Shards(**options), tree(tmp_path), "val")


def test_an_empty_caption_is_refused_by_key(tmp_path: Path) -> None:
    toys.write_tar(tmp_path / "val/0.tar", [("a.png", toys.encode(toys.image(0))), ("a.txt", b" \n")])
    assert "0.tar: key 'a' has an empty caption" in refused(Shards(), tmp_path, "val")


def test_damaged_missing_and_packed_shards_are_refused(tmp_path: Path) -> None:
    assert "split: " in refused(Shards(), tmp_path, "val")
    (tree(tmp_path) / "val/00001.tar").write_bytes(b"no tar at all" * 100)
    found = refused(Shards(), tmp_path, "val")
    assert "00001.tar: is no tar" in found
    assert "data." not in found
    (tmp_path / "val/00001.tar").rename(tmp_path / "val/00001.tar.gz")
    assert "00001.tar.gz: is compressed" in refused(Shards(), tmp_path, "val")


def test_quarantined_samples_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tree(tmp_path) / "val"
    Shards().read(tmp_path, "val", ())
    manifest = folder / "manifest.json"
    said = manifest.read_text()
    assert '"rows": 3' in said
    _set_aside(folder)
    with caplog.at_level(logging.WARNING, "contrastive"):
        content = Shards().read(tmp_path, "val", ())
    assert len(content.samples) == 4
    assert "1 samples in quarantine are left out" in caplog.text


def _set_aside(folder: Path) -> None:
    """Put the first sample into quarantine as a run does."""
    from contrastive.data.index import load
    from contrastive.data.sidecars import Sidecars
    from contrastive.data.storage import Storage

    sidecars = Sidecars(str(folder), [str(path) for path in sorted(folder.glob("*.tar"))], Storage())
    entries = sidecars.entries()
    assert len(load(sidecars.table("00000.tar"))) == 3
    sidecars.skip(entries, {"00000.tar": [0]})


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    assert "no classification data" in refused(Shards(), tree(tmp_path), "val", ("classification",), ConfigError)

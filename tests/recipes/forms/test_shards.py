import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
import webdataset

from contrastive.data.pool import open_pool, storage_options
from contrastive.data.storage import Storage
from contrastive.errors import DataError
from contrastive.recipes.forms.shards import Shards, pool_records
from contrastive.recipes.records import Record, Span
from contrastive.settings import DataConfig
from tests import toys
from tests.recipes.forms.trees import png, read, refused, write_json


def members_of(record: Record) -> dict[str, bytes]:
    """Return the bytes of all members of a record; the image's under `image`."""
    found = {}
    for name, span in {"image": record.image, **record.members}.items():
        assert isinstance(span, Span)
        with open(span.location, "rb") as file:
            file.seek(span.offset)
            found[name] = file.read(span.size)
        assert span.total == Path(span.location).stat().st_size
    return found


def in_tars(*paths: Path) -> dict[str, dict[str, bytes]]:
    """Return every sample of tars by key, as the tarfile module reads them."""
    found: dict[str, dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[extension] = file.read()
    return found


def img2dataset(path: Path, *samples: tuple[str, str | None, str]) -> Path:
    """Write a tar of (key, caption, status) as img2dataset writes it."""
    with webdataset.TarWriter(str(path)) as tar:
        for key, caption, status in samples:
            said = {"key": key, "caption": caption, "status": status, "error_message": None, "url": f"http://x/{key}"}
            tar.write({"__key__": key, "jpg": png(0), "txt": caption or "", "json": json.dumps(said).encode()})
    return path


def test_members_are_those_of_the_tars_byte_for_byte(tmp_path: Path) -> None:
    toys.write_shards(tmp_path, 7, 3)
    records, rejected = read(Shards(str(tmp_path)))
    wanted = in_tars(*sorted(tmp_path.glob("*.tar")))
    assert not rejected
    assert [record.key for record in records] == list(wanted)
    for record in records:
        found = members_of(record)
        assert {("png" if name == "image" else name): one for name, one in found.items()} == wanted[record.key]
        assert record.captions == ()


def test_samples_of_img2dataset_without_caption_or_download_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "contrastive")
    samples = [("000000000", "a cat", "success"), ("000000001", None, "success"), ("000000002", " ", "success")]
    img2dataset(tmp_path / "00000.tar", *samples, ("000000003", "a dog", "failed_to_resize"))
    write_json(tmp_path / "00000_stats.json", {"count": 10, "successes": 4, "failed_to_download": 6})
    records, rejected = read(Shards(str(tmp_path)))
    assert [record.key for record in records] == ["000000000"]
    assert [(one.key, one.reason) for one in rejected] == [
        ("000000001", "caption: empty"),
        ("000000002", "caption: empty"),
        ("000000003", "download: failed"),
    ]
    assert "its json says status 'failed_to_resize'" in rejected[2].message
    assert "img2dataset failed to get 6 of 10 images" in caplog.text
    records, _ = read(Shards(str(tmp_path), check=False))
    assert [record.key for record in records] == ["000000000", "000000002", "000000003"]


def test_samples_that_lack_members_are_told(tmp_path: Path) -> None:
    tar = [("a.jpg", png(0)), ("a.txt", b"x"), ("b.jpg", png(0)), ("c.txt", b"x"), ("d.jpg", b""), ("d.txt", b"x")]
    more = [("e.jpg", png(0)), ("e.txt", b"x"), ("e.json", b""), ("f.jpg", png(0)), ("f.txt", b"x"), ("f.json", b"{")]
    toys.write_tar(tmp_path / "a.tar", tar + more)
    records, rejected = read(Shards(str(tmp_path / "a.tar")))
    assert [record.key for record in records] == ["a"]
    assert {one.key: one.reason for one in rejected} == {
        "b": "caption: missing",
        "c": "image: missing",
        "d": "image: empty",
        "e": "json: empty",
        "f": "json: damaged",
    }


def test_other_members_may_hold_image_and_caption(tmp_path: Path) -> None:
    said = json.dumps({"title": ["one", "two"], "none": ""}).encode()
    toys.write_tar(tmp_path / "a.tar", [("a.image.png", png(1)), ("a.json", said), ("a.cls", b"3")])
    options = {"image_key": "image.png"}
    (record,), _ = read(Shards(str(tmp_path), caption_key="json.title", **options))
    assert members_of(record) == {"image": png(1), "json": said, "cls": b"3"}
    _, rejected = read(Shards(str(tmp_path), caption_key="json.none", **options))
    assert [one.reason for one in rejected] == ["caption: empty"]
    _, rejected = read(Shards(str(tmp_path), caption_key="json.no", **options))
    assert rejected[0].message.endswith("a.tar:a: its json member is no JSON with a field 'no'")


def test_a_damaged_shard_is_named_and_what_is_whole_is_used(tmp_path: Path) -> None:
    toys.write_shards(tmp_path, 8, 2)
    whole = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(whole[: len(whole) // 2])
    records, rejected = read(Shards(str(tmp_path)))
    assert (rejected[0].where, rejected[0].reason) == (str(tmp_path / "00000.tar"), "shard: damaged")
    assert "is cut short" in rejected[0].message
    assert "write or copy it again" in rejected[0].message
    keys = [record.key for record in records]
    assert keys[-4:] == [f"s{number:05d}" for number in range(4, 8)]
    assert 0 < len(keys) - 4 < 4


def test_shards_that_number_their_samples_alike_may_be_told_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        toys.write_tar(tmp_path / f"{name}.tar", [("0.jpg", png(0)), ("0.txt", b"a")])
    assert [one.key for one in read(Shards(str(tmp_path)))[0]] == ["0", "0"]
    assert [one.key for one in read(Shards(str(tmp_path), shard_in_key=True))[0]] == ["x/0", "y/0"]


def test_quarantined_samples_are_told(tmp_path: Path) -> None:
    toys.write_shards(tmp_path, 4, 1)
    row = {"location": str(tmp_path / "00000.tar"), "key": "s00002", "row": 2, "reason": "x", "message": "y"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n")
    config = DataConfig(train=str(tmp_path))
    open_pool(config, Storage(storage_options(config)), quarantine=[tmp_path / "bad.jsonl"])
    records, rejected = read(Shards(str(tmp_path)))
    assert [record.key for record in records] == ["s00000", "s00001", "s00003"]
    assert [(one.key, one.reason) for one in rejected] == [("s00002", "quarantined")]


def test_what_is_no_set_of_shards_is_refused(tmp_path: Path) -> None:
    assert "--from shards: " in refused(Shards, tmp_path / "no.tar", error=DataError)
    toys.write_tar(tmp_path / "a.tar", [("a.bin", b"x")])
    assert "no sample has a member" in refused(Shards, tmp_path)
    assert "data.allow_pipes=true" in refused(Shards, "pipe:cat a.tar")


def test_records_of_a_pool_are_its_samples(tmp_path: Path) -> None:
    toys.write_shards(tmp_path, 6, 2)
    config = DataConfig(train=str(tmp_path))
    storage = Storage(storage_options(config))
    pool = open_pool(config, storage)
    wanted = in_tars(*sorted(tmp_path.glob("*.tar")))
    records = list(pool_records(pool, storage))
    assert [record.key for record in records] == list(wanted)
    chosen = list(pool_records(pool, storage, [4, 1], "cc3m/"))
    assert [record.key for record in chosen] == ["cc3m/s00004", "cc3m/s00001"]
    assert members_of(chosen[0])["image"] == wanted["s00004"]["png"]
    with (tmp_path / "00001.tar").open("ab") as file:
        file.write(bytes(10240))
    with pytest.raises(DataError, match=r"its index says .*; run contrastive data index again"):
        list(pool_records(pool, storage, [0, 5]))


def test_packed_tars_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, part in (("a.jpg", png(0)), ("a.txt", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(part)
            tar.addfile(info, io.BytesIO(part))
    (tmp_path / "a.tar.gz").write_bytes(content.getvalue())
    (record,), _ = read(Shards(str(tmp_path / "a.tar.gz")))
    assert isinstance(record.image, Span)
    assert Storage().read(record.image.location, record.image.offset, record.image.size) == png(0)

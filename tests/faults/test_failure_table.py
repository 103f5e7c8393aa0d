"""What is wrong with a sample, a shard or a pipe, and what becomes of it: kept, replaced, left out, or refused."""

import gzip
import io
import json
import os
import struct
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.data.loader import Loader
from contrastive.data.quarantine import Quarantine
from contrastive.errors import DataError
from contrastive.settings import DataConfig
from tests import toys
from tests.data.toys import pool, rows, settings

Members = list[tuple[str, bytes]]
GOOD = 20
JPEG = toys.encode(np.kron(toys.image(3, 8), np.ones((4, 4, 1), np.uint8)), "JPEG", quality=95)
PNG = toys.encode(toys.image(4))
ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
TEXT = b"a caption"


def good(count: int = GOOD) -> Members:
    return [
        m for n in range(count) for m in ((f"good{n:02d}.png", toys.encode(toys.image(n))), (f"good{n:02d}.txt", TEXT))
    ]


def pair(image: bytes, text: bytes = TEXT, extension: str = "png", key: str = "odd") -> Members:
    return [(f"{key}.{extension}", image), (f"{key}.txt", text)]


@dataclass
class Epoch:
    """What one epoch delivered."""

    keys: list[str]
    reasons: dict[str, int]
    unusable: dict[str, int]
    images: dict[str, torch.Tensor] = field(default_factory=dict)


def epoch(data: DataConfig, **options: Any) -> Epoch:
    found = pool(data)
    data = DataConfig(**{**data.__dict__, "global_batch_size": len(found)})
    quarantine = Quarantine(max_share=1.0)
    (batch,) = Loader(rows(data, random_crop=None, **options), quarantine=quarantine).batches(0, 1)
    keys = [found.find(n).row.key for n in batch["index"].tolist()]
    unusable = {reason: n for manifest in found.manifests for reason, n in manifest.unusable.items() if n}
    return Epoch(keys, dict(quarantine.reasons), unusable, dict(zip(keys, batch["image"], strict=True)))


def of(folder: Path, members: Members, **options: Any) -> Epoch:
    toys.write_tar(folder / "a.tar", [*good(), *members])
    return epoch(settings(folder, caption_key="txt", **options))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def plain(mode: str, size: tuple[int, int] = (toys.SIZE, toys.SIZE)) -> Image.Image:
    return Image.fromarray(toys.image(9, max(size))).resize(size).convert(mode)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its few bytes do not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    frames = [Image.fromarray(toys.image(n)) for n in range(3)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


KEPT: dict[str, Members] = {
    "CMYK": pair(encoded(plain("CMYK"), "JPEG"), extension="jpg"),
    "grey JPEG": pair(encoded(plain("L"), "JPEG"), extension="jpg"),
    "grey PNG": pair(encoded(plain("L"), "PNG")),
    "grey with alpha": pair(encoded(plain("LA"), "PNG")),
    "RGBA": pair(encoded(plain("RGBA"), "PNG")),
    "palette": pair(encoded(plain("P"), "PNG")),
    "palette with alpha": pair(encoded(plain("P"), "PNG", transparency=3)),
    "one bit": pair(encoded(plain("1"), "PNG")),
    "16 bit": pair(encoded(Image.fromarray(np.full((16, 16), 36_000, np.uint16)), "PNG")),
    "animated": pair(animated(), extension="webp"),
    "1x1": pair(encoded(plain("RGB", (1, 1)), "PNG")),
    "long and thin": pair(encoded(plain("RGB", (5000, 2)), "PNG")),
    "EXIF orientation": pair(encoded(plain("RGB"), "JPEG", exif=ROTATED), extension="jpg"),
    "a caption that is not UTF-8": pair(PNG, b"caf\xe9"),
    "a caption of 100 kB": pair(PNG, b"word " * 20_000),
    "a caption of HTML": pair(PNG, b"<div><b>sale</b> &amp; more</div>"),
    "a caption of control words": pair(PNG, b"<start_of_text> x <end_of_text>"),
    "upper-case extensions": [("odd.PNG", PNG), ("odd.TXT", TEXT)],
    "a dot in the key": [("00.005.png", PNG), ("00.005.txt", TEXT)],
    "a compound extension": [("odd.png", PNG), ("odd.txt", TEXT), ("odd.seg.png", b"mask")],
    "members apart": [("odd.png", PNG), ("other.json", b"{}"), ("odd.txt", TEXT)],
    "pickles and programs, never opened": [*pair(PNG), ("odd.pth", b"cos\nsystem\n(S'exit 1'\ntR."), ("odd.pyd", b"x")],
    "a folder in the key": [("some/odd.png", PNG), ("some/odd.txt", TEXT)],
    "an image twice": [("odd.png", PNG), ("odd.png", b"another"), ("odd.txt", TEXT)],
}  # fmt: skip


@pytest.mark.parametrize("members", KEPT.values(), ids=KEPT)
def test_what_can_be_read_is_kept(tmp_path: Path, members: Members):
    found = of(tmp_path, members)
    odd = [key for key in found.keys if not key.startswith("good")]
    assert len(odd) == 1, odd
    assert len(set(found.keys)) == GOOD + 1
    assert found.reasons == {}


REPLACED: dict[str, tuple[str, Members]] = {
    "truncated JPEG": ("image: truncated", pair(JPEG[: len(JPEG) // 2], extension="jpg")),
    "truncated PNG": ("image: truncated", pair(PNG[: len(PNG) // 2])),
    "HTML as an image": ("image: not an image", pair(b"<!DOCTYPE html><html><body>404</body></html>", extension="jpg")),
    "121 megapixels": ("image: too many pixels", pair(bomb(11_000, 11_000))),
    "400 megapixels": ("image: too many pixels", pair(bomb(20_000, 20_000))),
    "a blank caption": ("caption: empty", pair(PNG, b" \n\t ")),
}


@pytest.mark.parametrize(("reason", "members"), REPLACED.values(), ids=REPLACED)
def test_what_cannot_be_read_is_replaced_counted_and_the_batch_stays_whole(
    tmp_path: Path, reason: str, members: Members
):
    found = of(tmp_path, members)
    assert len(found.keys) == GOOD + 1
    assert set(found.keys) == {f"good{n:02d}" for n in range(GOOD)}
    assert found.reasons == {reason: 1}


UNUSABLE: dict[str, tuple[str, Members]] = {
    "no caption": ("no caption", [("odd.png", PNG)]),
    "no image": ("no image", [("odd.txt", TEXT)]),
    "an image of no bytes": ("zero bytes", pair(b"")),
    "a caption of no bytes": ("zero bytes", pair(PNG, b"")),
    "a kind of image that is not asked for": ("no image", pair(PNG, extension="gif")),
}


@pytest.mark.parametrize(("reason", "members"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_no_sample_is_not_counted_as_one(tmp_path: Path, reason: str, members: Members):
    found = of(tmp_path, members)
    assert sorted(found.keys) == [f"good{n:02d}" for n in range(GOOD)]
    assert found.unusable == {reason: 1}


def test_16_bits_keep_their_brightness(tmp_path: Path):
    found = of(tmp_path, KEPT["16 bit"])
    assert found.images["odd"].float().mean() == pytest.approx(36_000 / 257, abs=0.6)


def test_frame_one_of_an_animation_is_taken(tmp_path: Path):
    found = of(tmp_path, KEPT["animated"])
    np.testing.assert_array_equal(found.images["odd"].permute(1, 2, 0).numpy(), toys.image(0))


def test_a_key_that_stands_twice_in_turn_is_two_samples(tmp_path: Path):
    found = of(tmp_path, [*pair(PNG), *pair(toys.encode(toys.image(5)))])
    assert len(found.keys) == GOOD + 2
    assert found.keys.count("odd") == 2


def test_a_key_of_two_shards_is_two_samples(tmp_path: Path):
    toys.write_tar(tmp_path / "b.tar", good(3))
    found = of(tmp_path, [])
    assert len(found.keys) == GOOD + 3


def test_all_images_first_and_then_all_captions(tmp_path: Path):
    members = sorted(good(), key=lambda member: member[0].rpartition(".")[2])
    toys.write_tar(tmp_path / "a.tar", members)
    assert sorted(epoch(settings(tmp_path, caption_key="txt")).keys) == [f"good{n:02d}" for n in range(GOOD)]


def test_pax_names_and_gzip_tars_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    key = "ä" * 120
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in [*good(), *pair(PNG, key=key)]:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 0.5  # type: ignore[assignment]  # a time that only PAX can hold
            tar.addfile(member, io.BytesIO(data))
    for name, data in (("plain.tar", content.getvalue()), ("packed.tar.gz", gzip.compress(content.getvalue()))):
        path = tmp_path / name.partition(".")[0] / name
        path.parent.mkdir()
        path.write_bytes(data)
        found = epoch(settings(path, caption_key="txt"))
        assert len(found.keys) == GOOD + 1
        assert key in found.keys


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def header_of(data: bytes, name: str) -> int:
    return data.index(name.encode() + b"\0")


DAMAGED = {
    "cut inside a member": (lambda data: data[: header_of(data, "good12.png") + 700], 12),
    "cut at the edge of a member": (lambda data: data[: header_of(data, "good12.png")], 12),
    "a bit flip in a header": (lambda data: flipped(data, header_of(data, "good12.png") + 3), 19),
    "no bytes": (lambda data: b"", 0),
    "HTML": (lambda data: b"<html><body>Not found</body></html>" * 40, 0),
}


@pytest.mark.parametrize(("damage", "left"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_shard_is_refused_by_name_or_used_as_far_as_it_is_whole(tmp_path: Path, damage: Any, left: int):
    path = toys.write_tar(tmp_path / "bad.tar", good())
    path.write_bytes(damage(path.read_bytes()))
    toys.write_tar(tmp_path / "fine.tar", [(f"x{name}", data) for name, data in good(5)])
    data = settings(tmp_path, caption_key="txt")
    with pytest.raises(DataError, match=r"bad\.tar.*data\.damaged_shards=substitute") as caught:
        pool(data)
    assert "\n" not in str(caught.value)
    found = epoch(settings(tmp_path, caption_key="txt", damaged_shards="substitute"))
    assert len(found.keys) == left + 5
    assert len(set(found.keys)) == left + 5


def test_a_tar_that_was_written_again_is_indexed_again(tmp_path: Path):
    path = toys.write_tar(tmp_path / "a.tar", good())
    assert len(pool(settings(tmp_path, caption_key="txt"))) == GOOD
    toys.write_tar(path, good(7))
    os.utime(path, ns=(1, 1))
    assert len(epoch(settings(tmp_path, caption_key="txt")).keys) == 7


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_deleted_while_training_ends_the_run_or_is_stood_in_for(tmp_path: Path, workers: int):
    toys.write_tar(tmp_path / "a.tar", good())
    toys.write_tar(tmp_path / "b.tar", [(f"x{name}", data) for name, data in good()])
    for policy in ("fail", "substitute"):
        data = settings(
            tmp_path, caption_key="txt", damaged_shards=policy, global_batch_size=40, retries=0, workers=workers
        )
        quarantine = Quarantine(max_share=1.0)
        loader = Loader(rows(data), workers=workers, quarantine=quarantine)
        (tmp_path / "a.tar").rename(tmp_path / "gone")
        try:
            if policy == "fail":
                with pytest.raises(DataError, match=r"a\.tar: cannot be opened any more.*damaged_shards=substitute"):
                    list(loader.batches(0, 1))
                continue
            (batch,) = loader.batches(0, 1)
            assert (batch["index"] >= GOOD).all()  # those of b.tar
            assert quarantine.reasons["shard: missing"] >= GOOD
        finally:
            (tmp_path / "gone").rename(tmp_path / "a.tar")


def test_fewer_shards_than_readers_is_no_matter(tmp_path: Path):
    toys.write_tar(tmp_path / "a.tar", good())
    found: list[int] = []
    for rank in range(4):
        data = settings(tmp_path, caption_key="txt", global_batch_size=20, workers=3)
        (batch,) = Loader(rows(data, rank=rank, world_size=4), workers=3).batches(0, 1)
        found += batch["index"].tolist()
    assert sorted(found) == list(range(GOOD))


def pipe(folder: Path, command: str, **options: Any) -> DataConfig:
    return settings(
        f"pipe:{command}", caption_key="txt", allow_pipes=True, cache=str(folder / "cache"), retries=1, **options
    )


def test_a_pipe_is_read_when_it_is_allowed(tmp_path: Path):
    path = toys.write_tar(tmp_path / "a.tar", good())
    assert len(epoch(pipe(tmp_path, f"cat {path}")).keys) == GOOD
    with pytest.raises(DataError, match="would run a shell command"):
        pool(settings(f"pipe:cat {path}", caption_key="txt"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 3", "3"),
        ("echo no such bucket >&2; exit 1", "no such bucket"),
        ("sleep 1000", "stall|no byte"),
        ("head -c 3000 {path}; exit 56", "56"),
    ],
)
def test_a_pipe_that_fails_is_refused_with_what_it_said(tmp_path: Path, command: str, message: str):
    path = toys.write_tar(tmp_path / "a.tar", good())
    with pytest.raises(DataError, match=message) as caught:
        pool(pipe(tmp_path, command.format(path=path), stall_seconds=0.5))
    assert "\n" not in str(caught.value)


def test_the_table_is_whole():
    assert len(KEPT) + len(REPLACED) + len(UNUSABLE) + len(DAMAGED) >= 35
    assert json.dumps(sorted(KEPT))  # the names are what a reader sees in the report of the tests

"""Records become equal, shuffled, indexed shards: the same bytes, whatever happens on the way."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset

from contrastive.data.pool import open_pool
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import DataError
from contrastive.recipes.engine import Local
from contrastive.recipes.packing import finishing, levelling, shards
from contrastive.recipes.packing.encoding import Encoding
from contrastive.recipes.packing.pack import Packing, pack
from contrastive.recipes.records import File, Record, Span
from contrastive.settings import DataConfig
from tests import toys
from tests.recipes.packing.sources import (
    IDENTITY,
    good,
    jpeg,
    lasting,
    mixed,
    packed,
    read,
    rejections,
    sizes,
    write_images,
)

COUNT = 40


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", COUNT)


def test_every_sample_is_there_byte_for_byte(images: Path, tmp_path: Path):
    found = packed(good(images, COUNT), tmp_path / "out", shard_size=7)
    samples = read(tmp_path / "out")
    assert found.samples == len(samples) == COUNT
    for n in range(COUNT):
        own = samples[f"i{n:03d}"]
        assert own["jpg"] == (images / f"i{n:03d}.jpg").read_bytes()
        assert own["txt"].decode() == toys.caption(n)
        assert json.loads(own["json"]) == {
            **{"n": n, "who": n % 5, "width": 30, "height": 24, "captions": [toys.caption(n)]}
        }


def test_shards_are_as_few_as_hold_the_samples_and_equal(images: Path, tmp_path: Path):
    packed(good(images, COUNT), tmp_path / "out", shard_size=7)
    assert sorted(sizes(tmp_path / "out")) == [6, 6, 7, 7, 7, 7]
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        f"{n:05d}.tar": size for n, size in enumerate(sizes(tmp_path / "out"))
    }


@pytest.mark.parametrize("kind", [good, mixed])
def test_the_bytes_do_not_depend_on_the_processes(images: Path, tmp_path: Path, kind):
    rows = kind(images, COUNT)
    for processes in (1, 2, 4):
        packed(rows, tmp_path / f"out{processes}", processes, shard_size=9)
    one = lasting(tmp_path / "out1")
    assert one == lasting(tmp_path / "out2") == lasting(tmp_path / "out4")
    assert len(one) > 5


def test_two_runs_are_byte_for_byte_the_same_with_images_encoded_anew(images: Path, tmp_path: Path):
    how = {"shard_size": 30, "encoding": Encoding(size=16, format="webp")}
    packed(good(images, COUNT), tmp_path / "a", 1, **how)
    packed(good(images, COUNT), tmp_path / "b", 2, **how)
    assert lasting(tmp_path / "a") == lasting(tmp_path / "b")
    sample = read(tmp_path / "a")["i000"]
    assert json.loads(sample["json"]) | {"n": 0} == {
        **{"n": 0, "who": 0, "width": 20, "height": 16, "original_width": 30, "original_height": 24},
        "captions": [toys.caption(0)],
    }


def test_threads_encode_where_there_are_more_processes_than_shards(images: Path, tmp_path: Path):
    how = {"shard_size": 100, "encoding": Encoding(size=16)}
    packed(mixed(images, COUNT), tmp_path / "a", 1, **how)
    packed(mixed(images, COUNT), tmp_path / "b", 3, **how)
    assert lasting(tmp_path / "a") == lasting(tmp_path / "b")


def test_the_order_is_random_and_that_of_the_seed(images: Path, tmp_path: Path):
    rows = good(images, COUNT)
    packed(rows, tmp_path / "a", shard_size=100)
    packed(rows, tmp_path / "b", shard_size=100, seed=1)
    packed(rows[::-1], tmp_path / "c", shard_size=100)
    packed(rows, tmp_path / "d", shard_size=100, seed=None)
    orders = [list(read(tmp_path / name)) for name in "abcd"]
    assert orders[3] == [f"i{n:03d}" for n in range(COUNT)]
    assert orders[0] == orders[2], "the order of the source plays no part"
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("seed", [0, None])
def test_shards_are_equal_although_rows_were_rejected(images: Path, tmp_path: Path, seed: int | None):
    (images / "broken.jpg").write_bytes(b"none")
    rows = [broken(row, images) if n % 3 == 0 and n < 30 else row for n, row in enumerate(good(images, COUNT))]
    found = packed(rows, tmp_path / "out", 2, shard_size=7, seed=seed)
    samples = read(tmp_path / "out")
    assert set(samples) == {f"i{n:03d}" for n in range(COUNT) if not (n % 3 == 0 and n < 30)}
    assert sizes(tmp_path / "out") == [6] * 5
    assert found.rejected == {"image: not an image": 10}
    if seed is None:
        assert list(samples) == sorted(samples)
    require_described(tmp_path / "out")


def broken(row: Record, images: Path) -> Record:
    return Record(row.key, File(str(images / "broken.jpg")), row.captions, row.where, row.fields)


def require_described(out: Path) -> None:
    """Sizes, hashes and index say what is in the tars."""
    said = json.loads((out / "pack.json").read_text())
    tars = {path.name: path for path in out.glob("*.tar")}
    assert list(said["splits"][""]["shards"]) == sorted(tars)
    for (name, one), size in zip(said["splits"][""]["shards"].items(), sizes(out), strict=True):
        content = tars[name].read_bytes()
        assert one == {"samples": size, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    before = (out / "manifest.json").stat().st_mtime_ns
    pool = open_pool(DataConfig(train=str(out)), Storage())
    assert (out / "manifest.json").stat().st_mtime_ns == before, "the index is fresh"
    reader = Reader(pool, Storage())
    samples = read(out)
    for number in range(len(pool)):
        found = pool.find(number)
        assert reader.image(found) == samples[found.row.key]["jpg" if "jpg" in samples[found.row.key] else "png"]


def test_nothing_is_lost_or_doubled_of_a_mixed_source(images: Path, tmp_path: Path):
    rows = mixed(images, COUNT)
    found = packed(rows, tmp_path / "out", shard_size=9)
    assert found.rows == len(rows) == found.samples + found.merged + sum(found.rejected.values())
    assert found.rejected == dict(Counter(one["reason"] for one in rejections(tmp_path / "out")))
    assert set(found.rejected) == {
        *("image: missing", "image: not an image", "image: empty", "caption: empty"),
        *("key: stands twice", "row: broken"),
    }
    assert found.merged == COUNT // 4
    assert found.kinds == {"jpg": COUNT, "png": 6}
    require_described(tmp_path / "out")


def test_rejected_rows_stand_in_the_order_of_the_source(images: Path, tmp_path: Path):
    packed(mixed(images, COUNT), tmp_path / "out", 2, shard_size=5)
    wheres = [one["where"] for one in rejections(tmp_path / "out")]
    assert wheres == ["line 3", "bad row 0", "bad row 1", "bad row 2", "bad row 3", "collision"]
    assert rejections(tmp_path / "out")[1] == {
        "where": "bad row 0",
        "key": "bad0",
        "reason": "image: missing",
        "message": f"bad row 0: {images / 'gone.jpg'} cannot be opened: No such file or directory",
    }


def test_captions_of_rows_of_one_image_are_one_sample(images: Path, tmp_path: Path):
    found = packed(mixed(images, COUNT), tmp_path / "out", shard_size=50)
    samples = read(tmp_path / "out")
    assert json.loads(samples["i000"]["json"])["captions"] == [toys.caption(0), "again i000"]
    assert samples["i000"]["txt"].decode() == toys.caption(0)
    assert json.loads(samples["i039"]["json"])["captions"] == [toys.caption(39)]
    assert found.has_several_captions
    pool = open_pool(DataConfig(train=str(tmp_path / "out"), caption_key="json.captions"), Storage())
    assert len(pool) == found.samples


def test_a_sample_of_several_rows_is_rejected_with_all_of_them(tmp_path: Path):
    rows = [Record("a", File("/gone.jpg"), (text,), f"row {text}") for text in "xyz"]
    rows += [Record(f"k{n}", jpeg(n), ("fine",), "") for n in range(5)]
    found = packed([*rows, Record("a", File("/gone.jpg"), ("later",), "row later")], tmp_path / "out")
    assert found.rejected == {"image: missing": 4}
    (said,) = rejections(tmp_path / "out")
    assert (said["where"], said["rows"]) == ("row x", 4)


def test_splits_are_folders_and_stable_when_samples_are_added(images: Path, tmp_path: Path):
    how: dict[str, Any] = {"shard_size": 8, "splits": {"val": 0.2, "test": 0.1}}
    packed(good(images, 30), tmp_path / "few", **how)
    found = packed(good(images, COUNT), tmp_path / "all", **how)
    few, more = (
        {name: set(read(tmp_path / one / name)) for name in ("val", "test", "train")} for one in ("few", "all")
    )
    assert all(few[name] <= more[name] for name in few)
    assert sum(map(len, more.values())) == COUNT
    assert {name: split["samples"] for name, split in found.splits.items()} == {n: len(s) for n, s in more.items()}
    assert not list((tmp_path / "all").glob("*.tar"))
    assert json.loads((tmp_path / "all" / "train" / "sizes.json").read_text())


def test_samples_of_one_field_stay_in_one_split(images: Path, tmp_path: Path):
    packed(good(images, COUNT), tmp_path / "out", splits={"val": 0.4}, split_by="who")
    parts = [
        {json.loads(sample["json"])["who"] for sample in read(tmp_path / "out" / name).values()}
        for name in ("val", "train")
    ]
    assert parts[0]
    assert not parts[0] & parts[1]


def test_the_source_may_say_the_splits(images: Path, tmp_path: Path):
    rows = [
        Record(row.key, row.image, row.captions, row.where, split="val" if n < 5 else None)
        for n, row in enumerate(good(images, COUNT))
    ]
    packed(rows, tmp_path / "out", own_splits=True)
    assert set(read(tmp_path / "out" / "val")) == {f"i{n:03d}" for n in range(5)}
    assert len(read(tmp_path / "out" / "train")) == COUNT - 5


def test_members_of_shards_are_copied_as_they_are(tmp_path: Path):
    members = [("a.jpg", jpeg(1)), ("a.txt", b"caf\xe9"), ("a.json", b'{"x":  1}'), ("a.seg.png", b"mask")]
    path = toys.write_tar(tmp_path / "s.tar", members)
    content = path.read_bytes()

    def span(what: bytes) -> Span:
        return Span(str(path), content.index(what), len(what), len(content))

    given = {name.partition(".")[2]: span(what) for name, what in members[1:]}
    packed([Record("a", span(members[0][1]), (), "s.tar:a", members=given)], tmp_path / "out")
    (sample,) = webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False)
    assert {f"a.{name}": content for name, content in sample.items() if not name.startswith("__")} == dict(members)


def test_a_finished_folder_is_left_as_it_is(images: Path, tmp_path: Path):
    first = packed(good(images, COUNT), tmp_path / "out", shard_size=9)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = packed(unread(), tmp_path / "out", shard_size=9)
    assert not again.is_new
    assert (again.samples, again.splits, again.rejected) == (first.samples, first.splits, first.rejected)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def unread() -> Iterator[Record]:
    raise AssertionError("nobody should read the source")
    yield


def test_a_folder_of_other_shards_is_not_touched(images: Path, tmp_path: Path):
    packed(good(images, COUNT), tmp_path / "out", shard_size=9)
    with pytest.raises(DataError, match=r"holds other shards already \(packing.shard_size: 9 there, 8 now\)"):
        packed(good(images, COUNT), tmp_path / "out", shard_size=8)


def test_most_rows_must_be_usable_and_the_work_is_kept(images: Path, tmp_path: Path):
    gone = [Record(f"g{n}", File(f"{images}/new/{n}.jpg"), ("x",), f"row {n}") for n in range(12)]
    rows = [*gone, *good(images, 10)]
    with pytest.raises(DataError) as caught:
        packed(rows, tmp_path / "out", shard_size=2)
    said = str(caught.value)
    assert "12 of 22 rows cannot be used, more than --max-rejected 0.5, so nothing is there yet: row 0: " in said
    assert said.count("cannot be opened") == 3
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
    write_images(images / "new", 12)
    for n in range(12):
        (images / "new" / f"i{n:03d}.jpg").rename(images / "new" / f"{n}.jpg")
    found = packed(rows, tmp_path / "out", shard_size=2)
    assert (found.samples, found.rejected) == (22, {})
    assert not list(tmp_path.glob(".out*"))


def test_what_a_user_accepts_is_packed(images: Path, tmp_path: Path):
    rows = [*(Record(f"g{n}", File("/gone"), ("x",), "") for n in range(30)), *good(images, 10)]
    assert packed(rows, tmp_path / "out", max_rejected=0.9).samples == 10
    with pytest.raises(DataError, match="30 of 30 rows cannot be used, so nothing is there yet"):
        packed(rows[:30], tmp_path / "none", max_rejected=1.0)


def test_a_source_that_changes_before_it_is_finished_is_packed_anew(images: Path, tmp_path: Path, monkeypatch, caplog):
    state = ["before"]

    def run(rows: list[Record]) -> Any:
        with Local(1) as engine:
            return pack(
                rows, tmp_path / "out", Packing(shard_size=9), engine, identity=IDENTITY, state=lambda: state[0]
            )

    monkeypatch.setattr(finishing, "gather", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(good(images, COUNT))
    monkeypatch.undo()
    (tmp_path / ".out.packing" / "packed").unlink()
    state[0] = "after"
    found = run(good(images, COUNT - 1))
    assert found.samples == COUNT - 1
    assert "the source has changed since it was begun; it is packed anew" in caplog.text


def stopped(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_source_that_changes_while_it_is_packed_is_told(images: Path, tmp_path: Path):
    states = iter(("one", "two", "three"))
    with Local(1) as engine:
        found = pack(
            good(images, 5), tmp_path / "out", Packing(), engine, identity=IDENTITY, state=lambda: next(states)
        )
    assert found.has_changed


def test_progress_counts_to_the_end_and_what_was_done_before(images: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(finishing, "gather", stopped)
    with pytest.raises(KeyboardInterrupt):
        packed(good(images, COUNT), tmp_path / "out", shard_size=10)
    monkeypatch.undo()
    (tmp_path / ".out.packing" / "packed").unlink()
    (tmp_path / ".out.packing" / "shards" / "00002.json").unlink()
    seen: list[tuple[int, int]] = []
    with Local(1) as engine:
        found = pack(
            unread(),
            tmp_path / "out",
            Packing(shard_size=10),
            engine,
            identity=IDENTITY,
            progress=lambda done, total: seen.append((done, total)),
        )
    assert seen[-1] == (COUNT, COUNT)
    assert found.resumed == 30
    assert found.samples == COUNT


def test_rejected_rows_are_shown_with_their_pictures(images: Path, tmp_path: Path):
    found = packed(mixed(images, COUNT), tmp_path / "out")
    shown = {one.rejected.reason: one for one in found.examples}
    assert shown["key: stands twice"].image == (images / "i002.jpg").read_bytes()
    assert shown["caption: empty"].image == jpeg(1)
    assert shown["image: missing"].image is None


def test_the_manifest_is_not_read_again_and_a_wrong_tar_is_noticed(images: Path, tmp_path: Path, monkeypatch):
    whole = shards.TarWriter.close

    def short(self: Any) -> int:
        size = whole(self)
        self.file.truncate(size // 3)
        return size

    monkeypatch.setattr(shards.TarWriter, "close", short)
    with pytest.raises(DataError, match="samples are in it; is the disk well"):
        packed(good(images, COUNT), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_levelling_moves_only_what_it_must(images: Path, tmp_path: Path, monkeypatch):
    copied: list[int] = []
    whole = levelling._copy
    monkeypatch.setattr(levelling, "_copy", lambda a, b, count: (copied.append(count), whole(a, b, count))[1])
    (images / "broken.jpg").write_bytes(b"none")
    rows = good(images, COUNT)
    packed([broken(row, images) if n < 4 else row for n, row in enumerate(rows)], tmp_path / "out", shard_size=13)
    total = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert 0 < sum(copied) < total / 2
    assert sizes(tmp_path / "out") == [12, 12, 12]

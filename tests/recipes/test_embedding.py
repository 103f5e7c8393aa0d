"""Chunks of features on disk, and reading them back by sample."""

from pathlib import Path

import numpy as np
import pytest

from contrastive.data.pool import Pool
from contrastive.errors import DataError
from contrastive.recipes.embedding import FORMAT, Chunk, Features, Layout, describe, description, require_same
from tests import toys
from tests.recipes.embedding_toys import pool_of

SAMPLES, WIDTH, CHUNK = 11, 4, 4
ABOUT = {
    "format": FORMAT,
    "form": "runs/a",
    "identity": "0123456789",
    "captions": "all",
    "caption_keys": [["txt"]],
    "image_keys": [["png"]],
    "precision": "fp32",
    "chunk": CHUNK,
    "samples": SAMPLES,
    "width": WIDTH,
    "finished": True,
}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return pool_of(toys.write_shards(tmp_path / "shards", SAMPLES))


@pytest.fixture
def layout(tmp_path: Path, pool: Pool) -> Layout:
    (tmp_path / "out" / "features").mkdir(parents=True)
    describe(tmp_path / "out", {**ABOUT, "fingerprint": pool.fingerprint})
    return Layout(tmp_path / "out", SAMPLES, WIDTH, CHUNK)


def rows(seed: int, count: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def content(layout: Layout, chunk: int) -> Chunk:
    span = layout.span(chunk)
    image, text = (rows(seed)[span.start : span.stop] for seed in (0, 1))
    scores = np.stack([image[:, 0], text[:, 0]], 1)
    return Chunk(image, text, scores, np.arange(len(span), dtype=np.int32), ("",) * len(span))


def write(layout: Layout) -> None:
    for chunk in range(layout.chunks):
        layout.write(chunk, content(layout, chunk))


def test_chunks_are_consecutive_samples_and_the_last_is_shorter(layout: Layout):
    assert [layout.span(chunk) for chunk in range(layout.chunks)] == [range(4), range(4, 8), range(8, 11)]


def test_samples_are_found_whatever_the_order_of_their_numbers(layout: Layout, pool: Pool):
    write(layout)
    features = Features.open(layout.folder, pool)
    expected = {"image": rows(0).astype(np.float16), "text": rows(1).astype(np.float16)}
    for numbers in ([], [3], [10, 0, 4, 4, 9, 1], list(range(SAMPLES))):
        at = np.array(numbers, np.int64)
        assert np.array_equal(features.image(at), expected["image"][at])
        assert np.array_equal(features.text(at), expected["text"][at])
    assert np.array_equal(features.image(slice(3, 9)), expected["image"][3:9])
    assert np.array_equal(features.text(slice(None)), expected["text"])
    assert features.image(slice(2)).dtype == np.float32
    assert (len(features), features.width) == (SAMPLES, WIDTH)


def test_a_walk_over_chunks_gives_every_sample_once(layout: Layout, pool: Pool):
    write(layout)
    found = list(Features.open(layout.folder, pool).chunks("text"))
    assert [start for start, _ in found] == [0, 4, 8]
    assert np.array_equal(np.concatenate([part for _, part in found]), rows(1).astype(np.float16))


def test_a_number_outside_the_pool_is_refused(layout: Layout, pool: Pool):
    write(layout)
    with pytest.raises(IndexError, match="from 0 to 10"):
        Features.open(layout.folder, pool).image(np.array([11]))


def test_scores_and_reasons_come_back(layout: Layout):
    given = content(layout, 2)
    said = Chunk(given.image, given.text, given.scores, given.best, ("", "caption: empty", ""))
    layout.write(2, said)
    scores, best, reasons = layout.scored(2)
    assert np.array_equal(scores, given.scores)
    assert (best, reasons) == ([0, 1, 2], ["", "caption: empty", ""])


def test_a_chunk_counts_as_missing_until_all_its_files_are_whole(layout: Layout):
    assert layout.missing() == [0, 1, 2]
    write(layout)
    assert layout.missing() == []
    layout.path(0, ".parquet").unlink()
    cut = layout.path(1, ".text.npy")
    cut.write_bytes(cut.read_bytes()[:-2])
    layout.path(2, ".npy").unlink()
    assert layout.missing() == [0, 1, 2]


def test_the_same_chunk_is_the_same_bytes(layout: Layout):
    write(layout)
    before = {path.name: path.read_bytes() for path in (layout.folder / "features").iterdir()}
    write(layout)
    assert {path.name: path.read_bytes() for path in (layout.folder / "features").iterdir()} == before
    assert len(before) == 9


def test_features_of_other_samples_are_refused(layout: Layout, tmp_path: Path):
    write(layout)
    other = pool_of(toys.write_shards(tmp_path / "other", 5))
    with pytest.raises(
        DataError, match=r"out: holds the features of other samples \(11 samples, .*\) than those given"
    ):
        Features.open(layout.folder, other)


def test_features_that_are_not_finished_are_refused(layout: Layout, pool: Pool):
    describe(layout.folder, {**ABOUT, "fingerprint": pool.fingerprint, "finished": False})
    layout.write(1, content(layout, 1))
    with pytest.raises(DataError, match="2 of 3 chunks are missing; run the same contrastive data embed again"):
        Features.open(layout.folder, pool)


def test_a_folder_without_features_says_how_to_make_them(tmp_path: Path, pool: Pool):
    with pytest.raises(DataError, match=r"holds no embed\.json; make it with contrastive data embed --out"):
        Features.open(tmp_path, pool)


def test_a_damaged_chunk_is_named(layout: Layout, pool: Pool):
    write(layout)
    path = layout.path(1, ".npy")
    path.write_bytes(b"\0" * path.stat().st_size)
    features = Features.open(layout.folder, pool)
    with pytest.raises(DataError, match=r"00001\.npy: cannot be read \(.*\); delete it and run contrastive data embed"):
        features.image(slice(None))
    np.save(path, np.zeros((3, 9)))
    with pytest.raises(DataError, match=r"float64 \[3, 9\] instead of float16 \[4, 4\]"):
        features.image(slice(None))
    layout.path(1, ".parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"00001\.parquet: cannot be read"):
        layout.scored(1)


def test_a_damaged_description_and_one_of_another_version_are_refused(tmp_path: Path):
    (tmp_path / "embed.json").write_text("{")
    with pytest.raises(DataError, match=r"embed\.json: cannot be read"):
        description(tmp_path)
    (tmp_path / "embed.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="has format 99, and this version reads 1; embed again"):
        description(tmp_path)


def test_everything_that_differs_is_named(tmp_path: Path):
    found = {**ABOUT, "fingerprint": "aaa"}
    require_same(tmp_path, found, {**found, "form": "another/name/of/the/same", "finished": False})
    other = {**found, "form": "runs/b", "identity": "9876543210", "precision": "bf16"}
    with pytest.raises(DataError) as refused:
        require_same(tmp_path, found, other)
    said = str(refused.value)
    assert "the model is runs/b (98765432), and was runs/a (01234567)" in said
    assert "--precision is bf16, and was fp32; give what was given then, or another --out" in said
    assert "the samples" not in said

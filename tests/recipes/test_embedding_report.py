"""What is said of the scores of a pool."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.data.pool import Pool
from contrastive.data.storage import Storage, StorageOptions
from contrastive.data.stream import Reader
from contrastive.recipes.embedding import Chunk, Layout
from contrastive.recipes.embedding_report import extreme, report, write_scores
from contrastive.recipes.step import EXAMPLES, Step
from contrastive.recipes.verdicts import aligned, column, provenance_of
from tests import toys
from tests.recipes.embedding_toys import pool_of
from tests.recipes.keeping import kept

SAMPLES, WIDTH, CHUNK = 40, 4, 16
NAN = float("nan")


@pytest.fixture
def pool(shards: Path) -> Pool:
    return pool_of(shards)


def scores() -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(SAMPLES, 2)).astype(np.float32)
    found[[7, 33]] = NAN
    return found


def layout(folder: Path, values: np.ndarray, best: int = 1) -> Layout:
    (folder / "features").mkdir(parents=True)
    found = Layout(folder, SAMPLES, WIDTH, CHUNK)
    for chunk in range(found.chunks):
        part = values[found.span(chunk).start : found.span(chunk).stop]
        rows = np.zeros((len(part), WIDTH), np.float32)
        reasons = tuple("" if np.isfinite(one) else "caption: empty" for one in part[:, 0])
        found.write(chunk, Chunk(rows, rows, part, np.full(len(part), best, np.int32), reasons))
    return found


def made(folder: Path, pool: Pool, values: np.ndarray, best: int = 1) -> tuple[Step, Layout]:
    found = layout(folder, values, best)
    scored = write_scores(found, pool, {"form": "runs/a"})
    return report(found, Reader(pool, Storage(), "substitute"), scored, Step("Embedding")), found


def test_every_sample_has_a_row_of_scores_in_its_order(tmp_path: Path, pool: Pool):
    _, found = made(tmp_path / "out", pool, scores())
    path = found.folder / "scores.parquet"
    assert column(path, "key").tolist() == [f"s{n:05d}" for n in range(SAMPLES)]
    for at, name in enumerate(("clip_score", "clip_score_mean")):
        assert np.array_equal(column(path, name), scores()[:, at], equal_nan=True)
    assert np.flatnonzero(~kept(path, pool)[0]).tolist() == [7, 33]
    assert column(path, "reason")[7] == "caption: empty"
    assert np.array_equal(aligned(path, pool), np.arange(SAMPLES))
    assert provenance_of(path)["form"] == "runs/a"


def test_the_report_counts_and_shows_the_worst_and_the_best_pairs(tmp_path: Path, pool: Pool):
    step, _ = made(tmp_path / "out", pool, scores())
    assert (step.samples, step.kept, step.dropped) == (SAMPLES, SAMPLES - 2, {"caption: empty": 2})
    order = [n for n in np.argsort(scores()[:, 0]).tolist() if n not in (7, 33)]
    for name, numbers in (("lowest", order[:EXAMPLES]), ("highest", order[::-1][:EXAMPLES])):
        examples = step.examples[f"{name} clip_score"]
        assert [one.key for one in examples] == [f"s{n:05d}" for n in numbers]
        assert examples[0].caption == f"{toys.caption(numbers[0])} seen there"  # the second fits best
        assert examples[0].note == f"clip_score {scores()[numbers[0], 0]:.4f}"
        picture = Image.open(io.BytesIO(base64.b64decode(examples[0].image or "")))
        assert picture.size == (toys.SIZE, toys.SIZE)
    assert [one.key for one in step.examples["caption: empty"]] == ["s00007", "s00033"]
    finite = np.delete(scores()[:, 0], [7, 33])
    assert step.figures["mean clip_score"] == pytest.approx(finite.mean(), abs=1e-4)
    assert step.figures["50% of the scores lie below"] == pytest.approx(np.median(finite), abs=1e-4)
    assert sum(step.histograms["clip_score"].counts) == SAMPLES - 2


def test_scores_that_are_all_the_same_are_said_to_mean_nothing(tmp_path: Path, pool: Pool):
    step, _ = made(tmp_path / "out", pool, np.full((SAMPLES, 2), 0.5, np.float32), best=0)
    assert step.notes == ["All scores are the same: the model has collapsed, and they say nothing of the pairs."]


def test_a_pool_without_one_score_says_where_to_look(tmp_path: Path, pool: Pool):
    step, _ = made(tmp_path / "out", pool, np.full((SAMPLES, 2), NAN, np.float32))
    assert step.kept == 0
    assert "No sample has a score" in step.notes[0]


def test_a_pair_that_can_no_longer_be_read_is_shown_without_its_picture(tmp_path: Path, pool: Pool, shards: Path):
    found = layout(tmp_path / "out", scores())
    scored = write_scores(found, pool, {})
    (shards / "00000.tar").unlink()
    reader = Reader(pool, Storage(StorageOptions(retries=0)), "substitute")
    step = report(found, reader, scored, Step("Embedding"))
    gone = [one for one in step.examples["lowest clip_score"] if one.image is None]
    assert gone
    assert "; now shard: missing" in gone[0].note


def test_extremes_are_the_lowest_and_of_equal_ones_the_first():
    values = np.array([3.0, 1.0, 2.0, 1.0, 0.0, 1.0])
    assert extreme(values, 3).tolist() == [4, 1, 3]
    assert extreme(values, 9).tolist() == [4, 1, 3, 5, 2, 0]
    many = np.random.default_rng(1).integers(0, 50, 1000).astype(float)
    assert extreme(many, 40).tolist() == np.argsort(many, kind="stable")[:40].tolist()

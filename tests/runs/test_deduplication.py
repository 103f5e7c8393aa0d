"""`contrastive data dedup` on small shards: who stays, why, what leaked, and how a killed one goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from contrastive.errors import DataError
from contrastive.recipes.curation import signatures
from contrastive.recipes.curation.perceptual import Rule
from contrastive.recipes.verdicts import column, provenance_of, writing_verdicts
from contrastive.runs import embedding
from contrastive.runs.deduplication import Request, deduplicate
from contrastive.runs.opening import configuration
from tests import toys
from tests.recipes.curation.pictures import SIZE, brighter, cropped, jpeg, picture, png, write, write_copied
from tests.recipes.embedding_toys import model, pool_of


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return write_copied(tmp_path / "copied")


def run(shards: Path, out: Path, **options: Any) -> dict[str, str]:
    """Return why each sample is dropped."""
    deduplicate(configuration([], [], [str(shards)]), Request(out, **{"processes": 1, **options}))
    path = out / "verdicts.parquet"
    return {key: reason for key, reason in zip(column(path, "key"), column(path, "reason"), strict=True) if reason}


def groups(out: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in parquet.read_table(out / "groups.parquet").to_pylist()}


def test_by_looks_copies_of_all_kinds_are_dropped_and_explained(copied: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert run(copied, out) == {
        "same": "duplicate: exact",
        "small": "duplicate: perceptual",
        "large": "duplicate: perceptual",
        "broken": "image: not an image",
    }
    found = groups(out)
    assert {key: row["representative_key"] for key, row in found.items()} == {
        "same": "p0",
        "small": "p1",
        "large": "p2",
    }
    assert found["small"]["distance"] <= 12
    assert found["small"]["likeness"] >= 0.95
    assert np.isnan(column(out / "verdicts.parquet", "likeness")[0])
    report = json.loads((out / "report.json").read_text())
    assert (report["samples"], report["kept"]) == (10, 6)
    assert report["figures"]["groups"] == 3
    example = report["examples"]["duplicate: perceptual"][0]
    assert example["note"].startswith("kept is p1, distance ")
    assert example["image"]
    assert report["histograms"]["likeness of candidates"]["limit"] == 0.95
    assert provenance_of(out / "verdicts.parquet")["method"] == "perceptual"
    assert not (out / ".parts").exists()


def test_exactly_equal_is_what_one_asks_for(copied: Path, tmp_path: Path):
    shutil.copytree(copied, tmp_path / "more")
    again = png(picture(0, SIZE))
    toys.write_tar(
        tmp_path / "more" / "1.tar", [("x.png", again), ("x.txt", b"picture 0"), ("y.png", again), ("y.txt", b"y")]
    )
    found = {
        of: run(tmp_path / "more", tmp_path / of, method="exact", of=of)
        for of in ("image", "pixels", "pair", "caption")
    }
    equal, broken = "duplicate: exact", "image: not an image"
    assert found["image"] == found["pixels"] == {"same": equal, "x": equal, "y": equal, "broken": broken}
    assert found["pair"] == {"x": equal, "broken": broken}
    assert found["caption"] == {"small": equal, "large": equal, "x": equal}


def test_the_largest_stays(copied: Path, tmp_path: Path):
    found = run(copied, tmp_path / "out", keep="largest")
    assert set(found) == {"same", "small", "p2", "broken"}
    assert groups(tmp_path / "out")["p2"]["representative_key"] == "large"


def test_the_best_score_stays(copied: Path, tmp_path: Path):
    pool = pool_of(copied, "txt")
    keys = [pool.find(number).row.key for number in range(len(pool))]
    with writing_verdicts(tmp_path / "s.parquet", pool, {}, ["fit"]) as verdicts:
        from contrastive.recipes.verdicts import Verdict

        for number, key in enumerate(keys):
            verdicts.add(Verdict(number, "", {} if key == "p0" else {"fit": 1.0 + (key == "small")}))
    found = run(copied, tmp_path / "out", keep="score", score=f"{tmp_path / 's.parquet'}:fit")
    assert set(found) == {"p0", "p1", "large", "broken"}


def test_leaked_images_of_a_folder_and_of_an_evaluation_set_are_found(copied: Path, tmp_path: Path):
    images = [picture(seed, SIZE) for seed in (0, 1, 40, 41)]
    (tmp_path / "tested" / "deep").mkdir(parents=True)
    images[0].save(tmp_path / "tested" / "deep" / "a.bmp")
    images[2].save(tmp_path / "tested" / "b.png")
    (tmp_path / "tested" / "c.jpg").write_bytes(b"no image")
    write(tmp_path / "eval" / "test", {"s1": (jpeg(images[1], 90), "one"), "s2": (png(images[3]), "two")})
    (tmp_path / "eval" / "test" / "nshards.txt").write_text("1\n")
    (tmp_path / "eval" / "dataset_type.txt").write_text("retrieval\n")
    (tmp_path / "toy.yaml").write_text(f"name: toy\nroot: {tmp_path / 'eval'}\n")
    out = tmp_path / "out"
    found = run(copied, out, against=[str(tmp_path / "tested"), str(tmp_path / "toy.yaml")])
    leaks = {key: reason for key, reason in found.items() if reason.startswith("leak")}
    assert leaks == {"p0": "leak: tested", "same": "leak: tested", "p1": "leak: toy", "small": "leak: toy"}
    rows = groups(out)
    assert rows["p0"]["representative_key"] == "deep/a.bmp"
    assert rows["small"]["representative_key"] == "0.tar: s1"
    report = json.loads((out / "report.json").read_text())
    assert report["title"] == "Duplicates and leaks"
    assert report["notes"] == [
        "tested: 1 of 3 images are in the shards; 1 cannot be read and were not looked for",
        "toy: 1 of 2 images are in the shards",
    ]
    assert report["examples"]["leak: toy"][0]["note"].startswith("shows 0.tar: s1")


def test_exact_leaks_are_those_of_equal_pixels_in_any_file(copied: Path, tmp_path: Path):
    (tmp_path / "tested").mkdir()
    picture(3, SIZE).save(tmp_path / "tested" / "a.tiff")
    cropped(picture(4, SIZE)).save(tmp_path / "tested" / "b.png")
    found = run(copied, tmp_path / "out", method="exact", against=[str(tmp_path / "tested")])
    assert {key for key, reason in found.items() if reason == "leak: tested"} == {"p3"}


def test_shards_are_a_reference_too(copied: Path, tmp_path: Path):
    other = write(tmp_path / "other", {"t": (jpeg(picture(5, SIZE), 50), "five"), "u": (png(picture(60)), "sixty")})
    found = run(copied, tmp_path / "out", against=[str(other)])
    assert found["p5"] == "leak: other"
    assert groups(tmp_path / "out")["p5"]["representative_key"] == "0.tar: t"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards of eight pictures with three copies, and their features by a model without training."""
    folder = tmp_path_factory.mktemp("embedded")
    images = [picture(seed, SIZE) for seed in range(8)]
    samples = {f"p{at}": (png(image), "a picture") for at, image in enumerate(images)}
    samples |= {f"c{at}": (jpeg(images[at], 80), "a copy") for at in range(3)}
    shards = write(folder / "shards", samples)
    request = embedding.Request(
        str(model(folder / "model" / "step-1")), folder / "features", batch_size=4, device="cpu"
    )
    embedding.embed(configuration([], [], [str(shards)]), request)
    return shards, folder / "features"


def test_by_features_copies_have_a_cosine_above_the_threshold(embedded: tuple[Path, Path], tmp_path: Path):
    shards, features = embedded
    found = run(shards, tmp_path / "out", method="embedding", features=features, threshold=0.9995)
    assert found == dict.fromkeys(("c0", "c1", "c2"), "duplicate: embedding")
    assert column(tmp_path / "out" / "verdicts.parquet", "cosine")[-1] >= 0.9995


def test_what_features_call_near_must_also_look_so(embedded: tuple[Path, Path], tmp_path: Path):
    shards, features = embedded
    alone = run(shards, tmp_path / "alone", method="embedding", features=features, threshold=0.5)
    assert set(alone) > {"c0", "c1", "c2"}
    found = run(shards, tmp_path / "both", method="both", features=features, threshold=0.5, rule=Rule(distance=0))
    assert set(found) == {"c0", "c1", "c2"}


def test_images_of_a_set_are_embedded_by_the_same_model(embedded: tuple[Path, Path], tmp_path: Path):
    shards, features = embedded
    (tmp_path / "tested").mkdir()
    (tmp_path / "tested" / "a.jpg").write_bytes(jpeg(picture(6, SIZE), 90))
    (tmp_path / "tested" / "b.jpg").write_bytes(b"broken")
    against = {"against": [str(tmp_path / "tested")], "threshold": 0.9995}
    found = run(shards, tmp_path / "out", method="embedding", features=features, **against)
    assert {key for key, reason in found.items() if reason.startswith("leak")} == {"p6"}


def test_features_of_other_samples_are_refused(embedded: tuple[Path, Path], copied: Path, tmp_path: Path):
    with pytest.raises(DataError, match="holds the features of other samples"):
        run(copied, tmp_path / "out", method="embedding", features=embedded[1])
    with pytest.raises(DataError, match=r"make it with contrastive data embed"):
        run(copied, tmp_path / "out", method="embedding", features=tmp_path)


def test_the_same_bytes_on_any_number_of_processes(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signatures, "SPAN", 3)
    for processes in (1, 2):
        run(copied, tmp_path / str(processes), processes=processes)
    for name in ("verdicts.parquet", "groups.parquet"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_run_that_was_ended_goes_on_and_finds_the_same(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signatures, "SPAN", 3)
    run(copied, tmp_path / "whole")
    calls: list[int] = []
    real = signatures.OfSamples.__call__

    def ends(self: Any, span: tuple[int, int]) -> Any:
        calls.append(span[0])
        if calls == [0, 3, 6]:
            raise KeyboardInterrupt
        return real(self, span)

    monkeypatch.setattr(signatures.OfSamples, "__call__", ends)
    with pytest.raises(KeyboardInterrupt):
        run(copied, tmp_path / "out")
    run(copied, tmp_path / "out")
    assert calls == [0, 3, 6, 6, 9]
    for name in ("verdicts.parquet", "groups.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(DataError, match="holds the report of an earlier step; name a new folder"):
        run(copied, tmp_path / "out")


@pytest.mark.slow
def test_of_a_thousand_pictures_the_planted_twentieth_is_found(tmp_path: Path):
    images = {f"p{seed}": picture(seed, (96 + seed % 90, 96 + seed % 70)) for seed in range(1000)}
    samples = {key: (jpeg(image, 92), key) for key, image in images.items()}
    ways = [
        lambda image: jpeg(image, 30),
        lambda image: png(image.resize((70, 60))),
        lambda image: png(brighter(image)),
    ]
    ways += [lambda image: png(cropped(image, 0.02)), lambda image: jpeg(image.resize((300, 260)))]
    planted = {f"copy{seed}": (ways[seed % 5](images[f"p{seed}"]), "copy") for seed in range(53)}
    found = run(write(tmp_path / "shards", samples | planted), tmp_path / "out", processes=2)
    hits = len(set(found) & set(planted))
    assert hits / len(planted) >= 0.95
    assert hits / len(found) >= 0.95

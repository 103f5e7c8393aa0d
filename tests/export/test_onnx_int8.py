"""int8 by ONNX Runtime: as near as the format promises, much smaller, and as accurate on a trained model."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from contrastive.errors import ConfigError, ModelError
from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.spec import DatasetSpec
from contrastive.eval.suite import evaluate
from contrastive.export import onnx as float32
from contrastive.export import onnx_int8 as format_of
from contrastive.export.folder import seal
from contrastive.export.parity import Claim, Parity, verify_all
from contrastive.export.probe import Probe
from contrastive.export.source import Source, open_source
from contrastive.models.forms import open_model
from tests.export.toys import ENCODERS, MODELS, Exported, exporter, small_probe, source
from tests.parity.toy_model import FOLDER
from tests.parity.toy_world import write_classification

WAYS = ("dynamic", "static")
TRAINED = "trained"
QUICK = [TRAINED, "own_towers"]
REST = [name for name in {**MODELS, **ENCODERS} if name not in QUICK]
Cases = dict[tuple[str, str], Exported]


@pytest.fixture(scope="module", autouse=True)
def _traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what a tower is in float32: to trace it takes longer than all else."""
    place, trace = tmp_path_factory.mktemp("traced"), float32.write_tower

    def write_tower(found: Source, tower: Any, folder: Path, opset: int | None = None) -> Any:
        kept = place / found.identity / f"{tower}.onnx"
        if not kept.is_file():
            kept.parent.mkdir(exist_ok=True)
            trace(found, tower, kept.parent, opset)
        shutil.copy(kept, folder)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float32, "write_tower", write_tower)
        yield


def export_both(names: list[str], place: Path) -> Cases:
    """Export each model in both ways and read all in one process."""
    claims, probe = {}, small_probe()
    for name in names:
        files = place / "files" / name
        files.mkdir(parents=True)
        found = open_source(str(FOLDER)) if name == TRAINED else source(name, files)
        for way in WAYS:
            one, folder = exporter("onnx_int8", calibration=way), place / f"{name}-{way}"
            folder.mkdir()
            one.check(found)
            claims[name, way] = Claim(found, one, one.write(found, folder, probe), folder, probe)
    outcomes = zip(claims.items(), verify_all(list(claims.values())), strict=True)
    return {key: Exported(claim.source, claim.folder, claim.written, found) for (key, claim), found in outcomes}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return export_both(QUICK, tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return export_both(REST, tmp_path_factory.mktemp("int8"))


def least_cosine(parity: Parity) -> float:
    assert list(parity.read_with) == ["onnxruntime"]
    return min(tower.min_cosine for tower in parity.towers.values())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", QUICK)
def test_int8_is_near_in_a_fresh_process(name: str, way: str, quick: Cases):
    assert least_cosine(quick[name, way].parity) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REST)
def test_int8_of_every_kind_of_model_is_near(name: str, way: str, rest: Cases):
    assert least_cosine(rest[name, way].parity) >= 0.99


@pytest.mark.parametrize("way", WAYS)
def test_only_int8_files_are_left(way: str, quick: Cases):
    names = {path.name for path in quick[TRAINED, way].folder.iterdir()}
    assert names == {"image.onnx", "text.onnx", "inputs.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("way", WAYS)
def test_tables_and_recurrent_weights_are_a_quarter_as_large(way: str, quick: Cases):
    one = quick["own_towers", way]
    weights = sum(value.numel() * 4 for name, value in one.source.weights.items() if name.startswith("text"))
    assert (one.folder / "text.onnx").stat().st_size < 0.27 * weights


def test_convolutions_are_int8_where_they_are_calibrated(quick: Cases):
    kinds = {way: types_of_convolutions(quick["own_towers", way].folder / "image.onnx") for way in WAYS}
    assert kinds["dynamic"] == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.INT8 in kinds["static"]
    assert any("convolutions" in note and "static" in note for note in quick["own_towers", "dynamic"].written.notes)


def types_of_convolutions(path: Path) -> set[int]:
    graph = onnx.load(path).graph
    types = {one.name: one.data_type for one in graph.initializer}
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {types[behind.get(node.input[1], node.input[1])] for node in graph.node if node.op_type == "Conv"}


def test_zero_shot_changes_by_no_more_than_a_point(quick: Cases, tmp_path: Path):
    write_classification(tmp_path / "data", 300)
    data = open_dataset(DatasetSpec(name="toy", root=str(tmp_path / "data"), tasks=("zeroshot",)))
    before = top1(str(FOLDER), data)
    assert before > 0.2  # of 29 classes: it has learned something that int8 could lose
    for way in WAYS:
        folder = quick[TRAINED, way].folder
        seal(folder, {"format": "onnx_int8"})
        assert abs(top1(str(folder), data) - before) <= 0.01


def top1(form: str, data: EvalDataset) -> float:
    loaded = open_model(form)
    (result,) = evaluate(loaded.model, loaded.transform, loaded.tokenizer, [data])
    return float(result.metrics["top1"])


def test_convolutions_that_cost_too_much_stay_in_float(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found, one = source("own_towers", tmp_path), exporter("onnx_int8", calibration="static")
    monkeypatch.setattr(format_of, "SAFE", 2.0)  # which nothing reaches
    (tmp_path / "out").mkdir()
    written = one.write(found, tmp_path / "out", small_probe())
    assert types_of_convolutions(tmp_path / "out" / "image.onnx") == {onnx.TensorProto.FLOAT}
    assert any("stay in float32" in note and "accuracy" in note for note in written.notes)


def test_weights_beside_the_file_are_quantised_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = source("own_towers", tmp_path)
    float32.write_tower(found, "image", tmp_path)
    whole = onnx.load(tmp_path / "image.onnx")
    onnx.save(
        whole, tmp_path / "image.onnx", save_as_external_data=True, location="image.onnx.data", size_threshold=256
    )
    for run in (lambda job: job.dynamic(), lambda job: job.static("pixel_values", pixels(found))):
        run(format_of._Job(tmp_path / "image.onnx", tmp_path / "out.onnx", False))
        expected = format_of._embedded(tmp_path / "image.onnx", "pixel_values", pixels(found))
        got = format_of._embedded(tmp_path / "out.onnx", "pixel_values", pixels(found))
        assert (expected * got).sum(-1).min() >= 0.99


def pixels(found: Source) -> Any:
    return format_of._calibration(found, small_probe())["image"]


def test_seven_bits_are_there_for_older_processors(tmp_path: Path):
    found = source("own_towers", tmp_path)
    (tmp_path / "out").mkdir()
    exporter("onnx_int8", reduce_range=True).write(found, tmp_path / "out", small_probe())
    model = onnx.load(tmp_path / "out" / "text.onnx")
    tables = [onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.data_type == 3]
    assert tables
    assert all(abs(table.astype(int)).max() <= 64 for table in tables)


def test_a_static_calibration_without_data_is_refused(tmp_path: Path):
    probe = small_probe()
    with pytest.raises(ConfigError, match="calibration: static needs images and captions"):
        exporter("onnx_int8", calibration="static").write(
            source("own_towers", tmp_path), tmp_path, Probe(probe.images, probe.texts)
        )


@pytest.mark.parametrize("job", [lambda job: job.dynamic(), lambda job: job.static("x", small_probe())])
def test_what_the_library_refuses_is_said_in_one_line(job: Callable[[Any], int], tmp_path: Path):
    (tmp_path / "text.onnx").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"^the text tower: ONNX Runtime cannot make it int8: [^\n]+$"):
        job(format_of._Job(tmp_path / "text.onnx", tmp_path / "out.onnx", False))


def test_the_level_of_the_root_logger_is_kept():
    before = logging.getLogger().level
    with format_of._quiet():
        assert logging.getLogger().level == logging.ERROR
    assert logging.getLogger().level == before


@pytest.mark.parametrize(("count", "tried"), [(0, [0]), (1, [1]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12])])
def test_ever_more_convolutions_are_left_in_float(count: int, tried: list[int]):
    assert format_of._growing(count) == tried

"""A payload in any file of a run, a cache or data of ours never runs: it is refused by name, or never read."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from contrastive.errors import DataError, ModelError
from contrastive.eval.cache import EmbeddingCache
from contrastive.eval.formats.clip_benchmark import _labels
from contrastive.models.checkpoint import load as load_checkpoint
from contrastive.models.forms import open_built, open_model
from contrastive.report.records import read_run
from contrastive.runs.eval_data import datasets_of
from contrastive.runs.pretrain import prepare, pretrain
from contrastive.train import sharded_state
from tests import toys
from tests.eval.toys import write_classes, write_folder
from tests.faults import planters
from tests.faults.planters import PICKLES, copied, edited, files_of, plant, plant_beside, refused, with_code
from tests.faults.planters import mark as mark  # (a fixture)
from tests.modalities.test_text import word_level


@pytest.fixture(scope="module")
def run_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that evaluates, averages, keeps its best and has a tokenizer of transformers."""
    home = tmp_path_factory.mktemp("original")
    prepared = prepare([], settings(home, home / "run"))
    assert prepared is not None
    return pretrain(prepared)


def settings(home: Path, run: Path, *more: str) -> list[str]:
    if not (home / "shards").exists():
        toys.write_shards(home / "shards", 40, shards=3)
        word_level(home / "words")
        write_classes(write_folder(home / "eval", [{"cls": str(i % 2)} for i in range(6)]), ["cat", "a"])
        (home / "toy.yaml").write_text(f"name: toy\nroot: {home / 'eval'}\n")
    own = [
        *("model.image={name: cnn, widths: [4], depths: [1]}", "model.text={name: lstm, width: 8}"),
        *(
            f"model.tokenizer={{name: {home / 'words'}, context_length: 6}}",
            "model.embed_dim=12",
            "model.image_size=16",
        ),
        *(f"eval.datasets=[{home / 'toy.yaml'}]", "train.ema_decay=0.9", "train.save_every_steps=3"),
        *("train.best_metric=toy/zeroshot/top1", "eval.every_steps=3"),
    ]
    return [*(s for s in toys.overrides(home / "shards", run) if not s.startswith("model.")), *own, *more]


# The payloads themselves


@pytest.mark.parametrize("name", [name for name in PICKLES if name != "torch_script"])
def test_every_pickled_payload_runs_where_pickles_are_opened(tmp_path: Path, name: str):
    path, ran = tmp_path / name, tmp_path / "ran"
    path.write_bytes(PICKLES[name](ran))
    if name == "pickle":
        pickle.loads(path.read_bytes())
    elif name == "npy":
        np.load(path, allow_pickle=True)
    elif name == "npz":
        assert len(np.load(path, allow_pickle=True)["weight"]) == 1
    else:
        torch.load(path, weights_only=False)
    assert ran.exists()


def test_the_yaml_and_the_python_payload_run_where_they_are_trusted(tmp_path: Path):
    for number, run in enumerate(
        (lambda ran: yaml.unsafe_load(planters.tagged(ran)), lambda ran: exec(planters.code(ran)))
    ):
        run(tmp_path / str(number))
        assert (tmp_path / str(number)).exists()


# A run of ours


def uses_of(run: Path, home: Path) -> dict[str, Callable[[], Any]]:
    """Return everything that reads a run's folder: what a model is given where it gives one."""
    newest = run / "checkpoints" / "step-00000006"
    return {
        "open": lambda: open_model(str(run)).identity,
        "average": lambda: open_model(str(newest), weights="ema").identity,
        "best": lambda: open_model(str(run / "checkpoints" / "best")).identity,
        "export": lambda: open_built(str(run))[0] and None,
        "datasets": lambda: datasets_of([], [], ".", str(run)) and None,
        "report": lambda: read_run(run) and None,
    }


def go_on(run: Path, home: Path) -> None:
    prepared = prepare([], settings(home, run, "train.total_samples=56", "eval.every_steps=null"))
    assert prepared is not None
    pretrain(prepared)


def test_a_payload_in_any_file_of_a_run_is_refused_or_never_read(run_of_ours: Path, tmp_path: Path, mark: Path):
    home = run_of_ours.parent
    expected = {name: use() for name, use in uses_of(run_of_ours, home).items()}
    run = copied(run_of_ours, tmp_path)
    read = set()
    for name in files_of(run):
        before = (run / name).read_bytes()
        plant(run / name, (planters.tagged if name.endswith(".yaml") else planters.pickled)(mark))
        for use, work in uses_of(run, home).items():
            found: list[Any] = []
            if refused(lambda: found.append(work()), Path(name).name, (run / name).parent):  # noqa: B023
                read.add(name)
            else:
                assert found == [expected[use]], f"{use} with a payload in {name}"
            assert not mark.exists(), f"{name} was run by {use}"
        (run / name).write_bytes(before)
    newest = "checkpoints/step-00000006"
    assert {f"{newest}/{name}" for name in ("checkpoint.json", "model.safetensors", "ema.safetensors")} <= read
    assert {f"{newest}/tokenizer/tokenizer.json", "config.yaml", "checkpoints/best.json"} <= read


def test_a_run_goes_on_past_a_checkpoint_whose_files_are_payloads(run_of_ours: Path, tmp_path: Path, mark: Path):
    home, run = run_of_ours.parent, copied(run_of_ours, tmp_path)
    (run / "finished.json").unlink()
    newest = run / "checkpoints" / "step-00000006"
    for name, payload in zip(files_of(newest), itertools.cycle(PICKLES.values()), strict=False):
        plant(newest / name, payload(mark))
    go_on(run, home)
    assert (run / "checkpoints" / "step-00000007").is_dir()


def test_payloads_beside_the_files_of_a_run_change_nothing(run_of_ours: Path, tmp_path: Path, mark: Path):
    home, run = run_of_ours.parent, copied(run_of_ours, tmp_path)
    expected = {name: use() for name, use in uses_of(run, home).items()}
    for folder in (run, *(path for path in run.rglob("*") if path.is_dir())):
        plant_beside(folder, mark)
    assert {name: use() for name, use in uses_of(run, home).items()} == expected
    (run / "finished.json").unlink()
    prepared = prepare([], settings(home, run, "train.total_samples=56"))
    assert prepared is not None


def test_a_pickled_index_beside_the_shards_of_an_optimizer_is_not_read(tmp_path: Path, mark: Path):
    tensors = {"exp_avg/weight": torch.arange(6.0).reshape(2, 3)}
    sharded_state.save(tmp_path / "optimizer", tensors, None)
    plant_beside(tmp_path / "optimizer", mark)
    found = {"exp_avg/weight": torch.zeros(2, 3)}
    sharded_state.load(tmp_path / "optimizer", found)
    assert torch.equal(found["exp_avg/weight"], tensors["exp_avg/weight"])


# Descriptions of ours that name code


@pytest.fixture
def checkpoint(run_of_ours: Path, tmp_path: Path) -> Path:
    return copied(run_of_ours / "checkpoints" / "step-00000006", tmp_path)


def test_code_that_comes_with_a_tokenizer_is_refused_without_a_question(
    checkpoint: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask, and somebody would agree
    with_code(checkpoint / "tokenizer", mark)
    assert refused(lambda: load_checkpoint(checkpoint), checkpoint / "tokenizer")
    edited(
        checkpoint / "checkpoint.json", lambda content: content["tokenizer"].update(options={"trust_remote_code": True})
    )
    with pytest.raises(ModelError, match="trust_remote_code: code that comes with a tokenizer is never run"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize(
    "spec",
    [
        {"name": "os:system", "command": "touch {mark}"},
        {"name": "subprocess:run", "args": ["touch", "{mark}"]},
        {"name": "planted:Tower"},
    ],
    ids=lambda spec: spec["name"],
)
def test_a_description_that_names_code_from_elsewhere_is_refused(
    checkpoint: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, tower: str, spec: dict[str, Any]
):
    plant(checkpoint / "planted.py", planters.code(mark))
    monkeypatch.syspath_prepend(str(checkpoint))  # as if the command were started in the folder
    said = json.loads(json.dumps(spec).replace("{mark}", str(mark)))
    edited(checkpoint / "checkpoint.json", lambda content: content["model"].update({tower: said}))
    with pytest.raises(ModelError, match=rf"checkpoint\.json: model\.{tower}\.name: '{spec['name']}' is code from"):
        load_checkpoint(checkpoint)


def test_a_users_own_tower_is_loaded_when_its_package_is_allowed(
    checkpoint: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
):
    own = {"widths": [4], "depths": [1], "name": "contrastive.encoders.cnn:CNN"}
    edited(checkpoint / "checkpoint.json", lambda content: content["model"].update(image=own))
    with pytest.raises(ModelError, match="set CONTRASTIVE_PARTS=contrastive"):
        load_checkpoint(checkpoint)
    monkeypatch.setenv("CONTRASTIVE_PARTS", "mine, contrastive")
    load_checkpoint(checkpoint)


# Caches and data


def test_a_payload_in_the_cache_of_embeddings_is_thrown_away(tmp_path: Path, mark: Path):
    rows = (torch.arange(3), torch.rand(3, 4))
    entry = EmbeddingCache(tmp_path, "model").entry("content", {})
    entry.add(*rows)
    entry.flush()
    for name in files_of(entry.folder):
        for payload in PICKLES.values():
            plant(entry.folder / name, payload(mark))
            found = EmbeddingCache(tmp_path, "model").entry("content", {}).read()
            assert len(found.ids) == (3 if name.endswith(".json") else 0)


@pytest.mark.parametrize("payload", PICKLES.values(), ids=PICKLES)
def test_a_payload_for_a_vector_of_labels_is_refused(mark: Path, payload: Callable[[Path], bytes]):
    with pytest.raises(DataError, match=r"s0\.npy must be a vector of 0 and 1"):
        _labels(Path("0.tar"), "s0", payload(mark), 2)


def test_the_index_of_shards_is_made_again_where_payloads_lie_in_its_place(tmp_path: Path, mark: Path):
    shards, work = toys.write_shards(tmp_path / "shards", 16, shards=1), []
    for number in range(2):
        prepared = prepare([], toys.overrides(shards, tmp_path / f"run{number}", "train.total_samples=8"))
        work.append(prepared)
        held = [path for path in (tmp_path / "contrastive").rglob("*") if path.is_file()]
        assert held
        for path in held:
            plant(path, planters.objects(mark) if number == 0 else b"")
    assert all(prepared is not None for prepared in work)

"""The plain form: loaded by contrastive, its tensors by any reader of safetensors."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file as numpy_load_file
from safetensors.torch import load_file, save_file

from contrastive.errors import ModelError
from contrastive.export.parity import Claim, verify
from contrastive.export.probe import Probe
from contrastive.export.safetensors import Safetensors
from contrastive.export.source import Source
from contrastive.models.checkpoint import load
from contrastive.models.forms import open_built
from tests.export.toys import MODELS, export_all, small_probe, source

KINDS = ("vit_bias", "hf_text", "own_towers")


def written(name: str, folder: Path) -> tuple[Source, Path]:
    """Return a toy and the folder of its export."""
    (folder / "files").mkdir()
    (folder / "out").mkdir()
    found = source(name, folder / "files")
    Safetensors().write(found, folder / "out", Probe((), ()))
    return found, folder / "out"


def digest(found: Source) -> str:
    whole = hashlib.sha256()
    for name, value in sorted(found.built.model.state_dict().items()):
        kind = str(value.dtype).removeprefix("torch.")
        whole.update(f"{name} {kind} {list(value.shape)} ".encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.slow
def test_every_model_embeds_the_same_in_a_fresh_process_with_the_same_tensors(tmp_path: Path):
    for found in export_all(MODELS, "safetensors", tmp_path).values():
        parity, state = found.parity, found.source.built.model.state_dict()
        assert max(one.max_distance for one in parity.towers.values()) <= 1e-6
        assert parity.pixels == 0
        assert parity.ids_equal == parity.ids_equal_mended == 1
        assert (parity.extra["sha256"], parity.extra["tensors"]) == (digest(found.source), len(state))


@pytest.mark.parametrize("name", KINDS)
def test_it_is_a_checkpoint_of_the_same_weights_and_identity(name: str, tmp_path: Path):
    found, folder = written(name, tmp_path)
    loaded = load(folder)
    before, after = found.built.model.state_dict(), loaded.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert loaded.identity == found.identity
    assert open_built(str(folder))[0].preprocess == found.built.preprocess


def test_safetensors_alone_reads_the_names_of_open_clip_behind_inner(tmp_path: Path):
    found, folder = written("vit_bias", tmp_path)
    content = numpy_load_file(folder / "model.safetensors")
    assert {name.removeprefix("inner.") for name in content} == set(found.inner.state_dict())
    assert np.array_equal(content["inner.visual.proj"], found.inner.visual.proj.numpy())


def test_the_loading_lines_give_our_features(tmp_path: Path):
    (found, folder), image = written("own_towers", tmp_path), Image.new("RGB", (90, 60), (200, 30, 90))
    values: dict[str, Any] = {"image": image}
    exec(Safetensors().loading(str(folder)), values)
    pixels = found.built.preprocess.evaluation_transform()(image)[None]
    ours = found.embed(pixels, found.built.tokenizer(["a photo of a cat"]))
    for tower in ("image", "text"):
        torch.testing.assert_close(values[f"{tower}_features"], ours[tower], atol=1e-6, rtol=0)


def test_nothing_of_the_run_is_left_but_how_far_it_came(tmp_path: Path):
    toy = source("vit", tmp_path)
    info = {"step": 3, "samples_seen": 96, "run": "/home/someone/runs/a", "data": {"seed": 1}}
    Safetensors().write(Source(toy.built, "runs/a", info, toy.identity), tmp_path, Probe((), ()))
    assert json.loads((tmp_path / "checkpoint.json").read_text())["info"] == {"step": 3, "samples_seen": 96}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "model.safetensors"]


@pytest.mark.slow
def test_a_changed_weight_is_refused_and_its_layer_named(tmp_path: Path):
    found, exporter, probe = source("vit", tmp_path), Safetensors(), small_probe()
    written = exporter.write(found, tmp_path, probe)
    weights = load_file(tmp_path / "model.safetensors")
    weights["inner.token_embedding.weight"][:, 0] += 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"the text tower differs.*inner\.token_embedding \(ours: token_embedding\)"):
        verify(Claim(found, exporter, written, tmp_path, probe))

"""ONNX: read by ONNX Runtime in a process that knows neither torch nor us, and equal to the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from contrastive.errors import ConfigError, ModelError
from contrastive.export import onnx as format_of
from contrastive.export.parity import Claim, verify
from contrastive.export.source import Source
from tests.export.toys import ENCODERS, MODELS, Exported, export_all, exporter, small_probe, source

QUICK = ["vit_short_text"]  # int8 has own_towers, and the parity of a trained model
REST = [name for name in {**MODELS, **ENCODERS} if name not in QUICK]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return export_all(QUICK, "onnx", tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return export_all(REST, "onnx", tmp_path_factory.mktemp("onnx"))


def agrees(one: Exported) -> None:
    """The reader takes batches of 1, 3 and 8; pixels and ids are made without torch, by inputs.json."""
    parity = one.parity
    assert max(tower.max_distance for tower in parity.towers.values()) <= 5e-6
    assert parity.pixels == 0
    assert parity.ids_equal == 1
    assert list(parity.read_with) == ["onnxruntime"]


@pytest.mark.parametrize("name", QUICK)
def test_onnx_runtime_embeds_as_we_do_in_a_fresh_process(name: str, exported: dict[str, Exported]):
    agrees(exported[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_onnx_runtime_embeds_every_kind_of_model_as_we_do(name: str, rest: dict[str, Exported]):
    agrees(rest[name])
    layers_agree(rest[name])


@pytest.mark.parametrize("name", QUICK)
def test_every_named_layer_gives_what_ours_gives(name: str, exported: dict[str, Exported]):
    layers_agree(exported[name])


def layers_agree(one: Exported) -> None:
    probe = small_probe()
    pixels = torch.stack([one.source.built.preprocess.evaluation_transform()(image) for image in probe.images])
    given = {"image": pixels, "text": one.source.built.tokenizer(list(probe.texts))}
    for tower, pairs in one.written.layers.items():
        assert len(pairs) >= 3
        ours = outputs(one.source, [name for name, _ in pairs], {tower: given[tower]})
        model = onnx.load(one.folder / f"{tower}.onnx")
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in pairs)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [name for _, name in pairs]
        found = session.run(names, {session.get_inputs()[0].name: given[tower].numpy()})
        for (name, _), theirs in zip(pairs, found, strict=True):
            assert theirs.shape == tuple(ours[name].shape), name
            assert np.linalg.norm(theirs - ours[name].numpy()) <= 1e-5 * np.linalg.norm(ours[name].numpy()), name


def outputs(found: Source, names: list[str], given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what our modules give, before others change it in place."""
    root, kept = found.built.model if found.inner is None else found.inner, {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            kept.setdefault(name, (output[0] if isinstance(output, tuple) else output).clone())

        return hook

    hooks = [root.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    found.embed(given.get("image"), given.get("text"))
    for hook in hooks:
        hook.remove()
    return kept


def raised_bias(model: Any) -> None:
    name = "model.inner.transformer.resblocks.1.mlp.c_fc.bias"
    (one,) = [value for value in model.graph.initializer if value.name == name]
    one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one) + np.float32(0.1), name))


def other_activation(model: Any) -> None:
    second = [node for node in model.graph.node if node.op_type == "Gelu"][1]
    del second.attribute[:]
    second.attribute.extend([onnx.helper.make_attribute("approximate", "tanh")])


def other_epsilon(model: Any) -> None:
    norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][1]
    (epsilon,) = [attribute for attribute in norm.attribute if attribute.name == "epsilon"]
    epsilon.f = 1e-2


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (raised_bias, "transformer.resblocks.1.mlp.c_fc"),
        (other_activation, "transformer.resblocks.1.mlp.gelu"),
        (other_epsilon, "transformer.resblocks.0.ln_2"),
    ],
)
def test_a_wrong_layer_is_refused_by_name(
    change: Callable[[Any], None], layer: str, exported: dict[str, Exported], tmp_path: Path
):
    one = exported["vit_short_text"]
    for path in one.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = onnx.load(tmp_path / "text.onnx")
    change(model)
    onnx.save(model, tmp_path / "text.onnx")
    with pytest.raises(ModelError, match=rf"the text tower differs.*first layer.*\(ours: {layer}\)"):
        verify(Claim(one.source, exporter("onnx"), one.written, tmp_path, small_probe()))


def test_a_file_says_what_it_is_and_nothing_of_this_machine(exported: dict[str, Exported]):
    one = exported["vit_short_text"]
    path = one.folder / "text.onnx"
    model = onnx.load(path)
    said = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    preprocess = one.source.built.preprocess
    assert model.producer_name == "contrastive"
    assert said["identity"] == one.source.identity
    assert said["logit_scale"] == one.source.built.model.logit_scale.item()
    assert (said["logit_bias"], said["mean"], said["std"]) == (None, list(preprocess.mean), list(preprocess.std))
    content = path.read_bytes()
    assert not [word for word in (str(Path(__file__).parents[2]), "site-packages", ".py") if word.encode() in content]


def test_shapes_are_known_throughout_and_only_the_batch_is_free(exported: dict[str, Exported]):
    for tower, given in (("image", ["batch", 3, 32, 32]), ("text", ["batch", 20])):
        session = onnxruntime.InferenceSession(exported["vit_short_text"].folder / f"{tower}.onnx")
        assert session.get_inputs()[0].shape == given
        assert session.get_outputs()[0].shape == ["batch", 24]


def test_weights_may_lie_beside_the_file_and_operators_be_older(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(format_of, "INSIDE", 1000)
    found = source("vit", tmp_path)
    format_of.write_tower(found, "image", tmp_path, 18)
    assert [one.version for one in onnx.load(tmp_path / "image.onnx").opset_import] == [18]
    assert (tmp_path / "image.onnx.data").stat().st_size > 10 * 2**10
    session = onnxruntime.InferenceSession(tmp_path / "image.onnx")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (features,) = session.run(None, {"pixel_values": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(features), found.embed(pixels, None)["image"])


def test_what_is_shown_gives_our_features_and_needs_neither_torch_nor_transformers(exported: dict[str, Exported]):
    one, image = exported["vit_short_text"], small_probe().images[1]
    shown = exporter("onnx")
    shown.check(one.source)
    lines = shown.loading(str(one.folder))
    assert not [name for name in ("torch", "transformers", "contrastive") if f"import {name}" in lines]
    values = {"image": image}
    exec(lines, values)
    built = one.source.built
    pixels, ids = built.preprocess.evaluation_transform()(image)[None], built.tokenizer(["a photo of a cat"])
    ours = one.source.embed(pixels, ids)
    torch.testing.assert_close(torch.from_numpy(values["image_features"]), ours["image"], atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.from_numpy(values["text_features"]), ours["text"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("opset", [17, 99])
def test_operators_that_the_exporter_does_not_write_are_refused(opset: int):
    with pytest.raises(ConfigError, match=f"opset: {opset} is not one of 18 to 23"):
        exporter("onnx", opset=opset)


def test_a_tower_that_cannot_be_traced_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = source("vit", tmp_path)

    def branching(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((1, 2, 3)) if pixels.sum().item() > 0 else pixels

    monkeypatch.setattr(found.built.model, "encode_image", branching)
    with pytest.raises(ModelError, match=r"the image tower: torch cannot trace it for ONNX: .+"):
        format_of.write_tower(found, "image", tmp_path)

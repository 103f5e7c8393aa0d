"""A model that ONNX Runtime computes, behind our names."""

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from contrastive.errors import ModelError
from contrastive.models.onnx import load


class Flat(nn.Module):
    """A tower: the first numbers of each row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x.flatten(1)[:, :3].float(), dim=-1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, example in (("image", torch.ones(2, 3, 4, 4)), ("text", torch.ones(2, 5, dtype=torch.int64))):
        write(tmp_path / f"{name}.onnx", list(example.shape[1:]), example.dtype)
    inputs = {"embed_dim": 3, "logit_scale": 2.5, "logit_bias": None}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    return tmp_path


def write(path: Path, shape: list[int], dtype: torch.dtype) -> None:
    kind = onnx.TensorProto.INT64 if dtype == torch.int64 else onnx.TensorProto.FLOAT
    numbers = [
        onnx.numpy_helper.from_array(torch.tensor([value]).numpy(), name) for name, value in (("a", 0), ("b", 3))
    ]
    nodes = [
        onnx.helper.make_node("Flatten", ["given"], ["flat"]),
        onnx.helper.make_node("Slice", ["flat", "a", "b", "axis"], ["first"]),
        onnx.helper.make_node("Cast", ["first"], ["number"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("LpNormalization", ["number"], ["features"], axis=1),
    ]
    numbers.append(onnx.numpy_helper.from_array(torch.tensor([1]).numpy(), "axis"))
    given = onnx.helper.make_tensor_value_info("given", kind, ["batch", *shape])
    features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = onnx.helper.make_graph(nodes, "tower", [given], [features], numbers)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)


def test_both_towers_give_what_the_files_compute(folder: Path):
    model, draw = load(folder), torch.Generator().manual_seed(0)
    pixels, ids = torch.randn(4, 3, 4, 4, generator=draw), torch.randint(1, 9, (3, 5), generator=draw)
    torch.testing.assert_close(model.encode_image(pixels), Flat()(pixels))
    torch.testing.assert_close(model.encode_text(ids), Flat()(ids))
    torch.testing.assert_close(model.encode_image(pixels.double()), Flat()(pixels))


def test_there_is_a_scale_and_nothing_to_train(folder: Path):
    model = load(folder)
    assert model.logit_scale.tolist() == [2.5]
    assert model.logit_bias is None
    assert model.embed_dim == 3
    assert model.towers() == {"image": [], "text": []}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_bias_is_read(folder: Path):
    inputs = json.loads((folder / "inputs.json").read_text())
    (folder / "inputs.json").write_text(json.dumps({**inputs, "logit_bias": -10.0}))
    assert load(folder).logit_bias.tolist() == [-10.0]  # type: ignore[union-attr]


def test_a_file_that_is_no_model_is_named(folder: Path):
    (folder / "text.onnx").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"text\.onnx: ONNX Runtime cannot read it: [^\n]+$"):
        load(folder)


def test_inputs_that_say_too_little_are_named(folder: Path):
    (folder / "inputs.json").write_text(json.dumps({"embed_dim": 3}))
    with pytest.raises(ModelError, match=r"inputs.json: does not say what is needed: 'logit_"):
        load(folder)


def test_without_the_library_the_error_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="pip install onnxruntime"):
        load(folder)

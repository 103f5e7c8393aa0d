"""ONNX: one file a tower, for ONNX Runtime and whatever else reads ONNX, with neither torch nor us.

`image.onnx` takes pixel_values [batch, 3, size, size], `text.onnx` input_ids [batch, context_length]; each gives unit
vectors [batch, embed_dim]. What makes inputs of images and captions is beside them: see `inputs.py`.
"""

import ast
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch

from contrastive.errors import ConfigError, ModelError
from contrastive.export import inputs
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe
from contrastive.export.source import OneTower, Source
from contrastive.modalities.image import Preprocess

INPUTS: Mapping[Tower, str] = {"image": "pixel_values", "text": "input_ids"}
INSIDE = 1_900_000_000  # bytes of weights that a file may hold; protobuf ends at 2 GiB
SCOPES = "pkg.torch.onnx.name_scopes"  # of a node, the modules that it comes from, the innermost last
OPSETS = (18, 23)  # the oldest that the exporter writes itself, the newest that it knows in every torch from 2.11 on
TALKATIVE = ("onnxscript", "onnx_ir", "torch.onnx")


class Onnx:
    """Both towers in float32. `opset`: ONNX's operators, for a runtime that is older; None takes torch's choice."""

    requires: ClassVar[Mapping[str, str]] = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance()
    reader = "onnx"

    def __init__(self, opset: int | None = None) -> None:
        if opset is not None and not OPSETS[0] <= opset <= OPSETS[1]:
            raise ConfigError(
                f"opset: {opset} is not one of {OPSETS[0]} to {OPSETS[1]}; leave it out for torch's choice"
            )
        self.opset = opset
        self.preprocess: Preprocess | None = None

    def check(self, source: Source) -> None:
        """Take any model: only what it computes is written, not what it is."""
        self.preprocess = source.built.preprocess

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write both towers, and what makes their inputs."""
        self.preprocess = source.built.preprocess
        layers = {tower: write_tower(source, tower, folder, self.opset) for tower in self.towers}
        inputs.write_inputs(source, folder)
        return Written(layers, inputs.notes(source))

    def loading(self, folder: str) -> str:
        """Return how ONNX Runtime loads it, without transformers or torch."""
        return f"""{inputs.loading(folder, self.preprocess)}
import onnxruntime
image_tower = onnxruntime.InferenceSession("{folder}/image.onnx", providers=["CPUExecutionProvider"])
text_tower = onnxruntime.InferenceSession("{folder}/text.onnx", providers=["CPUExecutionProvider"])
(image_features,) = image_tower.run(None, {{"pixel_values": pixels}})
(text_features,) = text_tower.run(None, {{"input_ids": ids}})"""


def write_tower(source: Source, tower: Tower, folder: Path, opset: int | None = None) -> list[tuple[str, str]]:
    """Write TOWER.onnx, checked by ONNX, and return its layers: (our module's name, the tensor that it gives).

    Weights of 2 GB and more lie beside it, in TOWER.onnx.data.

    Raises:
        ModelError: torch cannot trace the tower, or ONNX refuses what came of it.
    """
    import onnx

    path = folder / f"{tower}.onnx"
    program = _traced(source, tower, opset)
    outside = sum(value.const_value.nbytes for value in program.model.graph.initializers.values()) > INSIDE
    program.save(str(path), external_data=outside)
    model = onnx.load(str(path), load_external_data=False)
    layers = _layers(model, source)
    _describe(model, source)
    try:
        onnx.save(onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True), str(path))
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the {tower} tower: ONNX refuses it: {_first_line(error)}") from error
    return layers


def _traced(source: Source, tower: Tower, opset: int | None) -> Any:
    """Return torch's ONNXProgram of a tower. Captions have one length: the shortcuts for others are not traced."""
    built = source.built
    length, size = built.tokenizer.spec.context_length, built.preprocess.size
    shapes = {"image": (2, 3, size, size), "text": (2, length)}  # torch takes a batch of one for a constant
    example = torch.zeros(shapes[tower], dtype=torch.float32 if tower == "image" else torch.int64)
    try:
        with _quiet():
            return torch.onnx.export(
                OneTower(built.model, tower).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}},
                input_names=[INPUTS[tower]],
                output_names=[f"{tower}_features"],
                opset_version=opset,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:  # OnnxExporterError is the first of them
        raise ModelError(f"the {tower} tower: torch cannot trace it for ONNX: {_first_line(error)}") from error


def _layers(model: Any, source: Source) -> list[tuple[str, str]]:
    """Return blocks and single layers with what the last of their nodes gives, in the order in which they end."""
    root, prefix = (source.built.model, "model.") if source.inner is None else (source.inner, "model.inner.")
    last: dict[str, str] = {}
    parents: set[str] = set()
    for node in model.graph.node:
        scopes = _scopes(node)
        parents.update(scopes[:-1])
        for name in reversed(scopes):
            last.pop(name, None)  # else it would keep the place of its first node
            last[name] = node.output[0]
    ours = {f"{prefix}{name}": name for name, _ in root.named_modules() if name}
    blocks = [name for name in last if name in ours and (name not in parents or name.rpartition(".")[2].isdigit())]
    return [(ours[name], last[name]) for name in blocks]


def _scopes(node: Any) -> list[str]:
    """Return the modules that a node comes from; the last entry of what torch says is the operation."""
    said = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "[]")
    return [str(name) for name in ast.literal_eval(said)[:-1]]


def _describe(model: Any, source: Source) -> None:
    """Say what it is, and drop what torch says of every part: paths and source lines of this machine."""
    import onnx

    graph = model.graph
    for one in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del one.metadata_props[:]
    model.producer_name, model.producer_version = "contrastive", version("contrastive-pretrain")
    preprocess = source.built.preprocess
    said = {"identity": source.identity, **inputs.logits(source), "mean": preprocess.mean, "std": preprocess.std}
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in said.items()})


def redescribe(path: Path, source: Source) -> None:
    """Say again what a file is, which another tool has made of ours."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    _describe(model, source)
    onnx.save(model, str(path))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says on its way; what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

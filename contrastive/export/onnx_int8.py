"""ONNX with int8 weights, for small machines: a quarter of the size, and less to compute.

`dynamic` scales activations as they come: closest to the model. `static` scales them by what calibration images and
captions gave: the way for convolutions, which ONNX Runtime computes several times slower when scaled as they come.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from contrastive.errors import ConfigError, ModelError
from contrastive.export import inputs, onnx
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe, built_in_probe
from contrastive.export.source import Source

BATCH = 8  # of calibration
LINEAR = ("MatMul", "Gemm")
WEIGHTED = (*LINEAR, "Gather")  # and tables of embeddings
RECURRENT = "LSTM"  # ONNX Runtime has no other int8 of it than with activations scaled as they come
DYNAMIC = (*WEIGHTED, RECURRENT)
STATIC = (*WEIGHTED, "Conv")
# Measured on ViTs, ResNets, ConvNeXts and text towers: int8 outputs of linear layers cost cosine (0.999 to 0.996) and
# time, since what follows (norms, softmax, residual sums) is float; those of convolutions save time.
STATIC_OPTIONS = {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": list(WEIGHTED)}
SAFE = 0.995  # cosine on the calibration data: half-way to what is asked for on data that calibration has not seen
TEMPORARY = "float"
Values = NDArray[Any]


class OnnxInt8:
    """Both towers in int8. `reduce_range`: seven bits, for processors without VNNI, which else may overflow."""

    requires: ClassVar[Mapping[str, str]] = onnx.Onnx.requires
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance(distance=None, cosine=0.99, accuracy=0.01)
    reader = "onnx"

    def __init__(self, calibration: Literal["dynamic", "static"] = "dynamic", reduce_range: bool = False) -> None:
        self.calibration, self.reduce_range = calibration, reduce_range
        self.plain = onnx.Onnx()

    def check(self, source: Source) -> None:
        """Take any model."""
        self.plain.check(source)

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:
        """Write both towers, and what makes their inputs.

        Raises:
            ConfigError: a static calibration has nothing to calibrate with.
        """
        given = _calibration(source, probe) if self.calibration == "static" else {}
        in_float: dict[Tower, int] = {}
        with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as name, _quiet():
            for tower in self.towers:
                onnx.write_tower(source, tower, Path(name))
                job = _Job(Path(name) / f"{tower}.onnx", folder / f"{tower}.onnx", self.reduce_range)
                in_float[tower] = job.static(onnx.INPUTS[tower], given[tower]) if given else job.dynamic()
                onnx.redescribe(folder / f"{tower}.onnx", source)
        inputs.write_inputs(source, folder)
        self.plain.check(source)
        return Written(notes=[*inputs.notes(source), *self._notes(in_float["image"])])

    def loading(self, folder: str) -> str:
        """Return how ONNX Runtime loads it, as the one in float32."""
        return self.plain.loading(folder)

    def _notes(self, in_float: int) -> list[str]:
        stay = f"{in_float} convolutions of the image tower stay in float32"
        if self.calibration == "dynamic":
            return [f"{stay}; `calibration: static` makes them int8 too."] if in_float > 1 else []
        said = ["It is as near to the model as this on images and captions like those that it was calibrated on."]
        return [*said, f"{stay}: in int8 they would cost too much accuracy."] if in_float > 1 else said


@dataclass(frozen=True)
class _Job:
    """One tower: `path` in float32, `out` in int8."""

    path: Path
    out: Path
    reduce_range: bool

    def dynamic(self) -> int:
        """Write the tower, and return how many convolutions are left in float."""
        self._dynamic(self.out, DYNAMIC)
        return len(_convolutions(self._folded()))

    def _dynamic(self, out: Path, kinds: Sequence[str]) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with _said(self.path):
            quantize_dynamic(
                self._folded(),
                str(out),
                op_types_to_quantize=list(kinds),
                per_channel=True,
                reduce_range=self.reduce_range,
                weight_type=QuantType.QInt8,
                use_external_data_format=self._is_outside,
            )

    def static(self, name: str, values: Values) -> int:
        """Write the tower with as many convolutions in int8 as `values` allow, and return how many are not.

        The first layers see the widest range of values, so they are the first to stay in float; the very first always
        does: it is small, and the patches of a ViT cost half a point in int8.
        """
        folded = self._folded()
        convolutions = _convolutions(folded)
        if any(node.op_type == RECURRENT for node in folded.graph.node):
            self._dynamic(self._place, (RECURRENT,))
        expected = _embedded(self.path, name, values)
        for left in _growing(len(convolutions)):
            self._static(name, values, convolutions[:left])
            if (_embedded(self.out, name, values) * expected).sum(-1).min() >= SAFE:
                break
        return left

    def _static(self, name: str, values: Values, in_float: Sequence[str]) -> None:
        from onnxruntime.quantization import QuantType, quantize_static

        model = self._folded()
        with _said(self.path):
            quantize_static(
                model,
                str(self.out),
                _Batches(name, values),
                op_types_to_quantize=list(STATIC),
                per_channel=True,
                reduce_range=self.reduce_range,
                activation_type=QuantType.QUInt8,  # beside int8 weights the fastest where there is VNNI
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*in_float, *_projection(model)],
                use_external_data_format=self._is_outside,
                extra_options=STATIC_OPTIONS,
            )

    @property
    def _place(self) -> Path:
        return self.path.with_name(f"folded-{self.path.name}")

    @property
    def _is_outside(self) -> bool:
        return self.path.with_name(f"{self.path.name}.data").is_file()

    def _folded(self) -> Any:
        """Return the model with all that is constant computed, which alone can be quantised."""
        import onnx as library
        from onnxruntime.quantization.shape_inference import quant_pre_process

        if not self._place.is_file():
            outside = {"save_as_external_data": self._is_outside}
            with _said(self.path):
                quant_pre_process(str(self.path), str(self._place), skip_symbolic_shape=True, **outside)
        model = library.load(str(self._place))
        del model.graph.value_info[:]  # ONNX Runtime transposes weights and then finds their old shapes there
        return model


class _Batches:
    """Calibration inputs, as ONNX Runtime asks for them."""

    def __init__(self, name: str, values: Values) -> None:
        self.batches = iter([{name: values[start : start + BATCH]} for start in range(0, len(values), BATCH)])

    def get_next(self) -> dict[str, Values] | None:
        """Return the next batch, or None behind the last."""
        return next(self.batches, None)


def _calibration(source: Source, probe: Probe) -> dict[Tower, Values]:
    """Return the inputs of each tower: float32 [N, 3, H, W] and int64 [M, context_length].

    The built-in ones are always among them: calibrated on drawings alone, a tower is wrong on photographs.
    """
    if not probe.calibration_images or not probe.calibration_texts:
        raise ConfigError("calibration: static needs images and captions apart from those that are compared; give more")
    transform = source.built.preprocess.evaluation_transform()
    more = built_in_probe()
    texts = dict.fromkeys([*probe.calibration_texts, *more.calibration_texts])
    pixels = torch.stack([transform(image) for image in (*probe.calibration_images, *more.calibration_images)])
    return {"image": pixels.numpy(), "text": source.built.tokenizer(list(texts)).numpy()}


def _embedded(path: Path, name: str, values: Values) -> Values:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    starts = range(0, len(values), BATCH)
    return np.concatenate([session.run(None, {name: values[start : start + BATCH]})[0] for start in starts])


def _convolutions(model: Any) -> list[str]:
    """Return the names of the convolutions, in the order of computation."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def _projection(model: Any) -> list[str]:
    """Return the name of the last linear layer, on pooled features.

    It is next to no work, and pooled features of an odd caption (none, one letter) lie outside what calibration saw:
    in int8 it took 0.01 of cosine from them.
    """
    weights = {one.name for one in model.graph.initializer}
    linear = [node.name for node in model.graph.node if node.op_type in LINEAR and node.input[1] in weights]
    return linear[-1:]


def _growing(count: int) -> list[int]:
    """Return 1, 2, 4 and so on, and `count`."""
    return [*(1 << power for power in range(count.bit_length()) if 1 << power < count), count]


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Raise what ONNX Runtime's quantisation raises, whose classes share no base but Exception, as a ModelError."""
    try:
        yield
    except OSError:
        raise  # a full disk: the caller says so
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"the {path.stem} tower: ONNX Runtime cannot make it int8: {said}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the quantisation tells the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)

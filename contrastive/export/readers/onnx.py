"""An ONNX export, read by ONNX Runtime. Inputs are made as a user without torch makes them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

BATCHES = (1, 3, 8)  # of different sizes: the batch is dynamic


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.inputs = json.loads((self.folder / "inputs.json").read_text(encoding="utf-8"))
        self.sessions = {tower: _session(str(self.folder / f"{tower}.onnx")) for tower in ("image", "text")}

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        return _batched(self.sessions["image"], pixels)

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        return _batched(self.sessions["text"], ids)

    def pixels(self, images: list[Any]) -> Any:
        """Return [N, 3, H, W]."""
        return _plain().pixels(self.inputs["preprocess"], images)

    def ids(self, texts: list[str]) -> Any:
        """Return [M, L]."""
        return _plain().ids(self.folder, self.inputs, texts)

    def numbers(self) -> dict[str, Any]:
        """Return scale and bias of the logits, as both files say them too."""
        said = [session.get_modelmeta().custom_metadata_map for session in self.sessions.values()]
        found = {name: self.inputs[name] for name in ("logit_scale", "logit_bias")}
        if any(json.loads(one[name]) != value for one in said for name, value in found.items()):
            raise ValueError("inputs.json and the files' own metadata disagree on the logits")
        return {name: value for name, value in found.items() if value is not None}

    def layers(self, names: dict[str, list[str]], pixels: Any, ids: Any) -> dict[str, Any]:
        """Return the tensors of these names, by tower, for the whole probe."""
        found: dict[str, Any] = {}
        for tower, wanted in names.items():
            session = _session(_showing(str(self.folder / f"{tower}.onnx"), wanted))
            (given,) = session.get_inputs()
            found.update(
                zip(wanted, session.run(wanted, {given.name: pixels if tower == "image" else ids}), strict=True)
            )
        return found


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _batched(session: Any, values: Any) -> Any:
    """Return the features of all rows, in batches of several sizes."""
    (given,) = session.get_inputs()
    found: list[Any] = []
    start = 0
    while start < len(values):
        size = BATCHES[min(len(found), len(BATCHES) - 1)]
        found.append(session.run(None, {given.name: values[start : start + size]})[0])
        start += size
    return np.concatenate(found)


def _showing(path: str, names: list[str]) -> Any:
    """Return the bytes of a model that gives tensors from its inside."""
    import onnx

    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model.SerializeToString()


def _plain() -> Any:
    """Return plain_inputs.py, which lies beside this file; the folder is not on the path."""
    spec = importlib.util.spec_from_file_location("plain_inputs", Path(__file__).with_name("plain_inputs.py"))
    if spec is None or spec.loader is None:
        raise ImportError("plain_inputs.py is missing beside the readers")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

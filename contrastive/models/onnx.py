"""An ONNX export, evaluated by ONNX Runtime on the CPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.errors import ModelError
from contrastive.models.contrastive_model import ContrastiveModel
from contrastive.models.exported import read_inputs


class OnnxModel(ContrastiveModel):
    """Two sessions behind our names. There is nothing to train, and no device but the CPU."""

    def __init__(self, image: Any, text: Any, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.embed_dim = int(inputs["embed_dim"])
        bias = inputs["logit_bias"]
        self.logit_scale = nn.Parameter(torch.tensor([inputs["logit_scale"]]), requires_grad=False)
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor([bias]), requires_grad=False)

    def encode_image(self, image: Tensor) -> Tensor:
        """Return image_features [B, embed_dim], L2-normalised, of normalised images [B, 3, H, W]."""
        return _run(self.image, image.float())

    def encode_text(self, text: Tensor) -> Tensor:
        """Return text_features [B, embed_dim], L2-normalised, of token ids [B, context_length]."""
        return _run(self.text, text.long())

    def towers(self) -> dict[str, list[nn.Parameter]]:
        """Return no parameters: the weights are inside the sessions."""
        return {"image": [], "text": []}


def load(folder: Path) -> OnnxModel:
    """Return the model in `folder`, as `export --to onnx` and `onnx_int8` write it.

    Raises:
        ModelError: ONNX Runtime is not installed or refuses a file, or inputs.json does not say what is needed.
    """
    if find_spec("onnxruntime") is None:
        raise ModelError(f"{folder}: is read by ONNX Runtime, which is not installed; pip install onnxruntime")
    try:
        return OnnxModel(_session(folder / "image.onnx"), _session(folder / "text.onnx"), read_inputs(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}/inputs.json: does not say what is needed: {error}; export again") from error


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # a process of several shares the cores with the others
    options.log_severity_level = 3  # errors: they are raised
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes come from C++ and share no base but Exception
        raise ModelError(f"{path}: ONNX Runtime cannot read it: {str(error).splitlines()[0]}") from error


def _run(session: Any, values: Tensor) -> Tensor:
    (given,) = session.get_inputs()
    (features,) = session.run(None, {given.name: values.detach().cpu().numpy()})
    return torch.from_numpy(features).to(values.device)

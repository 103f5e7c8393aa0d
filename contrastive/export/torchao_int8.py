"""int8 for PyTorch: the transformers folder with the weights of its linear layers in eight bits, by torchao.

`AutoModel.from_pretrained` loads it where torchao is installed, from safetensors: eight bits and a scale a row, and
activations that are rounded to eight bits as they come. Convolutions, embeddings, norms and attention stay float32.
The transformers form is what is quantised because torch's fused attention hides its projections from torchao.
https://docs.pytorch.org/ao/stable/workflows/inference.html
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from contrastive.errors import ModelError
from contrastive.export import inputs
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.export.transformers import Transformers
from contrastive.models import huggingface
from contrastive.models.quantization import KEY

CONFIG, WEIGHTS = "config.json", "model.safetensors"
NOTES = (
    "AutoModel needs torchao beside transformers: pip install torchao.",
    "It pays in large models: in small ones, of a width of 128 or so, rounding takes longer than it saves.",
    "Convolutions and the embeddings of tokens keep their size.",
)
RANGE = (
    "On a CPU without VNNI, products of eight bits may overflow: export with reduce_range=true for one, which rounds "
    "to seven."
)


class TorchaoInt8:
    """Weights and activations of eight bits. `reduce_range`: of seven, for CPUs without VNNI."""

    requires: ClassVar[Mapping[str, str]] = {"torchao": "torchao"}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance(distance=None, cosine=0.99, accuracy=0.01)
    reader = "transformers"

    def __init__(self, reduce_range: bool = False) -> None:
        self.reduce_range = reduce_range

    def check(self, source: Source) -> None:
        """Refuse what the transformers format refuses.

        Raises:
            ModelError: naming the key.
        """
        Transformers().check(source)

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:
        """Write the transformers folder, then its linear layers again in eight bits."""
        inputs.write_inputs(source, folder)  # for evaluation as it is; then what transformers reads
        written = Transformers().write(source, folder, probe)
        _quantize(folder, self.reduce_range)
        return Written(written.layers, [*written.notes, *NOTES, *([] if self.reduce_range else [RANGE])])

    def loading(self, folder: str) -> str:
        """Return how transformers loads it."""
        return Transformers().loading(folder)


def _quantize(folder: Path, reduce_range: bool) -> None:
    """Replace the weights of the linear layers of a transformers folder, and say so in its config.json."""
    import transformers
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    # `set_inductor_config` would change settings of torch.compile for the whole process.
    rule = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=reduce_range)
    with huggingface.quiet():
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    quantize_(model, rule)
    _write_tensors(folder / WEIGHTS, model.state_dict())
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config[KEY] = transformers.TorchAoConfig(rule).to_dict()
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write safetensors as transformers reads them: of a quantised tensor its parts, and in the header what it was.

    `save_pretrained` does the same, but lists the plain tensors too, and no reader takes one without a dot in its name
    (`logit_scale`).
    """
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    plain = {name: value.contiguous().clone() for name, value in weights.items() if type(value) is Tensor}
    parts, header = flatten_tensor_state_dict({name: value for name, value in weights.items() if name not in plain})
    if not parts:
        raise ModelError("no linear layer: there is nothing to quantise")
    save_file({**plain, **parts}, path, metadata={"format": "pt", **header})

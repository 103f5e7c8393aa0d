"""torch.export: one program a tower, which runs with torch alone, without the code of the model.

`image.pt2` takes pixels [batch, 3, size, size], `text.pt2` token ids [batch, context_length]; each gives unit vectors
[batch, embed_dim]. What makes inputs of images and captions is beside them: see `inputs.py`.

The files hold JSON and raw tensors, nothing pickled, and nothing that loading them would run. But `torch.export.load`
does not know that: it unpickles what a file marks as pickled (`torch.load(weights_only=False)`, also where reading
safely failed), loads compiled libraries, and evaluates expressions of the JSON as Python (sympy.sympify), in torch 2.11
as in 2.15. So open only those you trust; we open none but the one we wrote (see `models/programs.py`).
https://github.com/pytorch/pytorch/blob/main/torch/export/pt2_archive/_package.py
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from contrastive.errors import ModelError
from contrastive.export import inputs
from contrastive.export.exporter import Tolerance, Tower, Written
from contrastive.export.probe import Probe
from contrastive.export.source import OneTower, Source
from contrastive.modalities.image import Preprocess

TRUST = (
    "Open only .pt2 files that you trust: these hold nothing that runs, but torch.export.load would run what a "
    "tampered one holds. Compare the SHA-256 in export.json with one that you have from elsewhere."
)


class TorchExport:
    """Both towers as programs of torch.export, in float32."""

    requires: ClassVar[Mapping[str, str]] = {}
    towers: ClassVar[Sequence[Tower]] = ("image", "text")
    tolerance = Tolerance()
    reader = "torch_export"

    def __init__(self) -> None:
        self.preprocess: Preprocess | None = None

    def check(self, source: Source) -> None:
        """Take any model: only what it computes is written, not what it is."""
        self.preprocess = source.built.preprocess

    def write(self, source: Source, folder: Path, probe: Probe) -> Written:  # noqa: ARG002  (nothing is calibrated)
        """Write both programs, and what makes their inputs."""
        self.preprocess = source.built.preprocess
        layers = {tower: _write(source, tower, folder) for tower in self.towers}
        inputs.write_inputs(source, folder)
        return Written(layers, [TRUST, *inputs.notes(source)])

    def loading(self, folder: str) -> str:
        """Return how torch loads it, without us or transformers."""
        return f"""{inputs.loading(folder, self.preprocess)}
import torch
encode_image = torch.export.load("{folder}/image.pt2").module()
encode_text = torch.export.load("{folder}/text.pt2").module()
image_features, text_features = encode_image(torch.from_numpy(pixels)), encode_text(torch.from_numpy(ids))"""


def _write(source: Source, tower: Tower, folder: Path) -> list[tuple[str, str]]:
    """Write TOWER.pt2 and return its layers: (our module's name, tower and name within the program)."""
    program = _traced(source, tower)
    layers = _layers(program, tower, "model." if source.inner is None else "model.inner.")
    _strip(program)
    torch.export.save(program, folder / f"{tower}.pt2")
    return layers


def _traced(source: Source, tower: Tower) -> ExportedProgram:
    """Return the program of a tower. Captions have one length: the shortcuts for others are not traced.

    Raises:
        ModelError: torch cannot trace it.
    """
    built = source.built
    length, size = built.tokenizer.spec.context_length, built.preprocess.size
    shape = {"image": (2, 3, size, size), "text": (2, length)}[tower]  # torch takes a batch of one for a constant
    example = torch.zeros(shape, dtype=torch.float32 if tower == "image" else torch.int64)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", UserWarning)  # an LSTM keeps a list of its weights, which stay as they are
            module = OneTower(built.model, tower).eval()
            return torch.export.export(module, (example,), dynamic_shapes={"x": {0: Dim("batch", min=1)}}, strict=False)
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.UserError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"the {tower} tower: torch.export cannot trace it: {said}") from error


def _layers(program: ExportedProgram, tower: Tower, prefix: str) -> list[tuple[str, str]]:
    """Return blocks and single layers in the order in which they end."""
    ended: dict[str, None] = {}
    parents: set[str] = set()
    for node in program.graph.nodes:
        names = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
        for name in names:
            ended.pop(name, None)  # a dict keeps the order of first insertion, and the last one counts
            ended[name] = None
        parents.update(names[:-1])
    inside = [name for name in ended if name.startswith(prefix) and "@" not in name]  # @: called a second time
    kept = [name for name in inside if name not in parents or name.rpartition(".")[2].isdigit()]
    return [(name.removeprefix(prefix), f"{tower}.{name}") for name in kept]


def _strip(program: ExportedProgram) -> None:
    """Drop what no computation needs: the other tower's weights, the pickled example, paths and lines of our source."""
    graph, inputs_of = program.graph_module.graph, program.graph_signature.input_specs
    idle = {node.name: node for node in graph.nodes if node.op == "placeholder" and not node.users}
    dropped = [spec for spec in inputs_of if spec.kind != InputKind.USER_INPUT and spec.arg.name in idle]
    for spec in dropped:
        graph.erase_node(idle[spec.arg.name])
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
        inputs_of.remove(spec)
    program.graph_module.recompile()
    program._example_inputs = None  # the property's setter demands some, and `save` would pickle them
    for node in graph.nodes:
        node.meta.pop("stack_trace", None)

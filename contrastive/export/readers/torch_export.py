"""Programs of torch.export, read by torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Reader:
    """See run.py."""

    def __init__(self, folder: str) -> None:
        self.programs = {tower: torch.export.load(Path(folder) / f"{tower}.pt2") for tower in ("image", "text")}
        self.run: dict[str, Any] = {tower: program.module() for tower, program in self.programs.items()}
        self.layered: set[str] = set()

    def embed_image(self, pixels: Any) -> Any:
        """Return [N, D]."""
        return self._embed("image", pixels)

    def embed_text(self, ids: Any) -> Any:
        """Return [M, D]."""
        return self._embed("text", ids)

    def module(self, name: str) -> Any:
        """Return a layer; the program has them again once it is unflattened, and runs so from then on."""
        tower, _, name = name.partition(".")
        if tower not in self.layered:
            self.run[tower] = torch.export.unflatten(self.programs[tower])
            self.layered.add(tower)
        return _Layer(self.run[tower].get_submodule(name))

    def _embed(self, tower: str, values: Any) -> Any:
        """Return features of the first input alone and of all others together: one program takes any batch."""
        given = torch.from_numpy(values)
        parts = [given] if tower in self.layered or len(given) == 1 else [given[:1], given[1:]]
        with torch.inference_mode():
            return torch.cat([self.run[tower](part) for part in parts]).numpy()


class _Layer:
    """A module of an unflattened program: besides its own result, the last tensor, it gives what others use of it."""

    def __init__(self, module: Any) -> None:
        self.inner = module

    def register_forward_hook(self, hook: Callable[[Any, Any, Any], None]) -> Any:
        """Call `hook` with the module's own result."""
        return self.inner.register_forward_hook(lambda module, given, output: hook(module, given, _own(output)))


def _own(output: Any) -> Any:
    if not isinstance(output, (tuple, list)):
        return output
    return [part for part in output if isinstance(part, torch.Tensor)][-1]

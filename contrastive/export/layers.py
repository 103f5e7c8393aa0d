"""The layers of a model in the order in which it computes them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.export.exporter import Tower
from contrastive.export.source import Source


def computed(source: Source) -> Mapping[Tower, list[str]]:
    """Return by tower the names of blocks and single layers, as they end when one input is embedded.

    They are names within the open_clip model, or within our two encoders.
    """
    built = source.built
    module: nn.Module = built.model if source.inner is None else source.inner
    pixels, ids = torch.zeros(1, 3, built.preprocess.size, built.preprocess.size), built.tokenizer(["a"])
    return {
        "image": _ended(module, lambda: source.embed(pixels, None)),
        "text": _ended(module, lambda: source.embed(None, ids)),
    }


def _ended(module: nn.Module, embed: Callable[[], Any]) -> list[str]:
    ended: dict[str, None] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, Tensor):
                ended.setdefault(name)

        return hook

    parts = [(name, part) for name, part in module.named_modules() if name]
    shown = [(n, part) for n, part in parts if n.rpartition(".")[2].isdigit() or not any(part.children())]
    hooks = [part.register_forward_hook(note(name)) for name, part in shown]
    try:
        embed()
    finally:
        for hook in hooks:
            hook.remove()
    return list(ended)

"""What a model of transformers may say of its quantisation."""

from pathlib import Path
from typing import Any

from contrastive.errors import ModelError

KEY = "quantization_config"
METHOD = "torchao"
TYPES = frozenset({"Int8DynamicActivationInt8WeightConfig", "MappingType", "PerRow"})  # of what we write


def check(found: Any, folder: str | Path) -> None:
    """Refuse a `quantization_config` that is not one of ours.

    transformers would let torchao look up whatever name it says in torchao's modules and call it with what it says
    (torchao.core.config.config_from_dict), or import the library of another method.

    Raises:
        ModelError: naming the key.
    """
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method != METHOD:
        raise ModelError(f"{folder}: {KEY}.quant_method: {method!r} is not {METHOD!r}; give the model unquantised")
    foreign = sorted(_types(found) - TYPES)
    if foreign:
        known = ", ".join(sorted(TYPES))
        raise ModelError(f"{folder}: {KEY}: {foreign[0]!r} is not one of {known}; give the model unquantised")


def _types(found: Any) -> set[str]:
    """Return what every `_type` says, at any depth."""
    if isinstance(found, dict):
        own = {str(found["_type"])} if "_type" in found else set()
        return own.union(*(_types(value) for value in found.values()))
    return set().union(*(_types(value) for value in found)) if isinstance(found, list) else set()

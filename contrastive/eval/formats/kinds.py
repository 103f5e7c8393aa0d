"""Which annotations of a layout are read: those that the tasks ask for, or what it holds."""

from collections.abc import Sequence
from pathlib import Path

from contrastive.errors import ConfigError
from contrastive.eval.samples import Kind


def kinds_to_read(asked: Sequence[Kind], held: Sequence[Kind], where: Path) -> tuple[Kind, ...]:
    """Return the kinds asked for, or all that `where` holds when none is.

    Raises:
        ConfigError: a kind is asked for that is not held.
    """
    for kind in asked:
        if kind not in held:
            raise ConfigError(
                f"{where}: this layout has no {kind} data; it holds {', '.join(held)}; choose other tasks"
            )
    return tuple(asked) or tuple(held)

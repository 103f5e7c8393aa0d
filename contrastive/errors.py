"""Errors a user can mend: each is one line naming the key or file, the value, the rule, and what to do."""

import pickle
from typing import Self


class UserError(Exception):
    """What the user gave cannot be used. The command line prints the message alone and exits with `status`."""

    status: int = 2
    is_everywhere: bool = False  # every rank raises it, so that one has to say it

    def everywhere(self) -> Self:
        """Return the error, as one that all ranks raise alike."""
        self.is_everywhere = True
        return self


class ConfigError(UserError):
    """A configuration key, value or part name is wrong."""


class DataError(UserError):
    """A shard, sample, caption or dataset folder is wrong or missing."""


class ModelError(UserError):
    """A model, tokenizer or checkpoint is missing, damaged or of another kind."""


class MeaninglessError(ModelError):
    """Embeddings are not finite, zero or all the same: no figure made of them means anything. Exit status 4."""

    status = 4


class RunError(UserError):
    """A run directory, launch or process count is wrong."""


def why_unread(error: Exception) -> str:
    """Return in one line why a model could not be read; the libraries would say how to run the code that is in it."""
    said = (str(error).strip() or repr(error)).splitlines()[0]
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in said:
        return "it holds more than weights, or is damaged; save its tensors as .safetensors"
    return "it brings code of its own, which is never run" if "custom code" in said else said


class Preempted(Exception):  # noqa: N818  (nothing is wrong: somebody asked)
    """A signal asked the run to end. `signal` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal

"""All that a run needs in order to go on, as named tensors: weights, optimizer, average, random states. No pickles."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from contrastive.errors import RunError
from contrastive.models.checkpoint import EMA, WEIGHTS
from contrastive.train.ema import Ema
from contrastive.train.task import ContrastiveTask

TRAINING, RANDOM, FACTS = "training.safetensors", "random.safetensors", "training.json"
OPTIMIZER, LOSSES = "optimizer/", "losses/"


class TrainingState:
    """The tensors of a run that change from step to step. `task` is unwrapped, `optimizer` torch's own."""

    def __init__(self, task: ContrastiveTask, optimizer: torch.optim.Optimizer, ema: Ema | None) -> None:
        self.task, self.optimizer, self.ema = task, optimizer, ema
        self.names = {parameter: name for name, parameter in task.named_parameters()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the live tensors, by file and name; the next step changes them."""
        files = {WEIGHTS: dict(self.task.model.state_dict()), TRAINING: {**self._optimizer(), **self._losses()}}
        return files if self.ema is None else {**files, EMA: self.ema.state_dict()}

    def load(self, folder: Path) -> None:
        """Take over what a sound checkpoint holds; a run that newly averages its weights begins with these.

        Raises:
            RunError: the checkpoint is of another model. Nothing has been taken over then.
        """
        model = self.task.model.state_dict()
        losses = self._losses()
        with _opened(folder / WEIGHTS) as weights, _opened(folder / TRAINING) as training:
            names = set(training.keys())
            _require_equal(model, weights, folder / WEIGHTS)
            _require_equal(losses, training, folder / TRAINING, [name for name in names if name.startswith(LOSSES)])
            self._require_optimizer(training, names, folder / TRAINING)
            _copy(model, weights)
            _copy(losses, training)
            self._load_optimizer(training, names)
        if self.ema is not None and (folder / EMA).is_file():
            with _opened(folder / EMA) as average:
                _copy(self.ema.state_dict(), average)
        elif self.ema is not None:
            self.ema.begin()

    def _losses(self) -> dict[str, Tensor]:
        return {LOSSES + name: value for name, value in self.task.losses.state_dict().items()}

    def _optimizer(self) -> dict[str, Tensor]:
        return {
            f"{OPTIMIZER}{key}/{name}": value
            for parameter, name in self.names.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _require_optimizer(self, file: Any, names: Iterable[str], path: Path) -> None:
        shapes = {name: list(parameter.shape) for parameter, name in self.names.items()}
        for name in names:
            if name.startswith(OPTIMIZER):
                _, _, parameter = name.removeprefix(OPTIMIZER).partition("/")
                shape = file.get_slice(name).get_shape()
                if parameter not in shapes or shape not in ([], shapes[parameter]):
                    raise RunError(f"{path}: {name} {shape} belongs to another model")

    def _load_optimizer(self, file: Any, names: set[str]) -> None:
        """Set the optimizer's state; the tensors lie in memory as the parameters do, so that kernels run as before."""
        for parameter, name in self.names.items():
            held = [one for one in names if one.startswith(OPTIMIZER) and one.split("/", 2)[2] == name]
            for one in held:
                value = file.get_tensor(one)
                room = torch.empty_like(parameter, requires_grad=False) if value.ndim else torch.empty_like(value)
                self.optimizer.state[parameter][one.split("/", 2)[1]] = room.to(parameter.device).copy_(value)


def _opened(path: Path) -> Any:
    return safe_open(str(path), "pt")


def _require_equal(own: Mapping[str, Tensor], file: Any, path: Path, names: Iterable[str] | None = None) -> None:
    held = set(file.keys() if names is None else names)
    if held != set(own):
        odd = sorted(held ^ set(own))
        raise RunError(f"{path}: is of another model: {odd[0]} is only in {'it' if odd[0] in held else 'this run'}")
    for name, value in own.items():
        shape = file.get_slice(name).get_shape()
        if shape != list(value.shape):
            raise RunError(f"{path}: is of another model: {name} has shape {shape}, here {list(value.shape)}")


@torch.no_grad()
def _copy(own: Mapping[str, Tensor], file: Any) -> None:
    for name, value in own.items():
        value.copy_(file.get_tensor(name))


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return what the next random draws of this process will be: of torch, `device`, numpy and Python."""
    _, words, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  (a user's part may draw from it)
    version, state, following = random.getstate()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(words, dtype=np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor([version, *state], dtype=torch.int64),
        "python_rest": torch.tensor([] if following is None else [following], dtype=torch.float64),
    }
    if device.type != "cpu":
        found["device"] = torch.get_device_module(device).get_rng_state(device)
    return found


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go back to what `random_state` returned; a part that was not there then stays as it is."""
    torch.set_rng_state(state["torch"])
    position, has_gauss, gauss = state["numpy_rest"].tolist()
    words = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, int(position), int(has_gauss), gauss))  # noqa: NPY002
    version, *words_of_python = state["python"].tolist()
    rest = state["python_rest"].tolist()
    random.setstate((version, tuple(words_of_python), rest[0] if rest else None))
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], device)


def size_of(tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Return the bytes of all tensors."""
    return sum(value.numel() * value.element_size() for part in tensors.values() for value in part.values())

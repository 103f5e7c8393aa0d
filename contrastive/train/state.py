"""All that a run needs in order to go on, as named tensors: weights, optimizer, average, random states. No pickles."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from contrastive import distributed
from contrastive.errors import RunError
from contrastive.models.checkpoint import EMA, WEIGHTS
from contrastive.train import sharded_state
from contrastive.train.ema import Ema
from contrastive.train.saver import HostCopy
from contrastive.train.task import ContrastiveTask

TRAINING, RANDOM, FACTS = "training.safetensors", "random.safetensors", "training.json"
SHARDS = "optimizer"  # folder of a sharded optimizer's state, in torch's distributed format
OPTIMIZER, LOSSES = "optimizer/", "losses/"
Files = dict[str, dict[str, Tensor]]


class TrainingState:
    """The tensors of a run that change from step to step. `task` is unwrapped, `optimizer` torch's own.

    Every method is called by all ranks.
    """

    def __init__(self, task: ContrastiveTask, optimizer: torch.optim.Optimizer, ema: Ema | None) -> None:
        self.task, self.optimizer, self.ema = task, optimizer, ema
        self._host = HostCopy()

    def tensors(self) -> Files:
        """Return the live tensors, by file and name; the next step changes them."""
        training = {**self._losses(), **{OPTIMIZER + name: value for name, value in self._optimizer().items()}}
        files = {WEIGHTS: dict(self.task.model.state_dict()), TRAINING: training}
        return files if self.ema is None else {**files, EMA: self.ema.state_dict()}

    def copies(self) -> Files:
        """Return on rank 0 copies in host memory of all that it writes; see `HostCopy.take`."""
        return self._host.take(self.tensors()) if distributed.rank() == 0 else {}

    def shards(self) -> Callable[[Path], None] | None:
        """Return what writes the copies of this rank's shards into a checkpoint's folder; None where nothing is cut."""
        return None

    def size(self) -> int:
        """Return about how many bytes a checkpoint has."""
        return sum(v.numel() * v.element_size() for tensors in self.tensors().values() for v in tensors.values())

    def wait(self) -> None:
        """Wait until the copies are there."""
        self._host.wait()

    def load(self, folder: Path) -> None:
        """Take over what a sound checkpoint holds, sharded or not; an average that is new begins with its weights.

        Raises:
            RunError: the checkpoint is of another model. Nothing has been taken over then.
        """
        model, losses, own = self.task.model.state_dict(), self._losses(), self._optimizer()
        whole = {OPTIMIZER + name: value for name, value in own.items()}
        is_cut = (folder / SHARDS).is_dir()
        with _opened(folder / WEIGHTS) as weights, _opened(folder / TRAINING) as training:
            _require_equal(model, weights, folder / WEIGHTS)
            _require_equal(losses if is_cut else {**losses, **whole}, training, folder / TRAINING)
            if is_cut:
                sharded_state.load(folder / SHARDS, own)
            else:
                _copy(whole, training)
            _copy(model, weights)
            _copy(losses, training)
        if self.ema is not None and (folder / EMA).is_file():
            with _opened(folder / EMA) as average:
                _copy(self.ema.state_dict(), average)
        elif self.ema is not None:
            self.ema.begin()

    def _losses(self) -> dict[str, Tensor]:
        return {LOSSES + name: value for name, value in self.task.losses.state_dict().items()}

    def _optimizer(self) -> dict[str, Tensor]:
        return sharded_state.optimizer_tensors(self.task, self.optimizer)


class ShardedState(TrainingState):
    """The same where the parameters are cut over the ranks: rank 0 writes the weights whole, each its optimizer's part.

    `group` is a gloo group for the writing alone, so that it can go on in the background.
    """

    def __init__(
        self, task: ContrastiveTask, optimizer: torch.optim.Optimizer, ema: Ema | None, group: distributed.Group
    ) -> None:
        super().__init__(task, optimizer, ema)
        self.group = group

    def copies(self) -> Files:
        """Return on rank 0 the weights, gathered one tensor at a time; the others need room for one."""
        files = {WEIGHTS: dict(self.task.model.state_dict()), TRAINING: self._losses()}
        if self.ema is not None:
            files[EMA] = self.ema.state_dict()
        return {name: sharded_state.full_tensors(tensors) for name, tensors in files.items()}

    def shards(self) -> Callable[[Path], None]:
        """Return what writes the copies of this rank's shards of the optimizer's state."""
        own = sharded_state.staged(self._optimizer(), self.group)
        return lambda folder: sharded_state.save(folder / SHARDS, own, self.group)


def _opened(path: Path) -> Any:
    return safe_open(str(path), "pt")


def _require_equal(own: Mapping[str, Tensor], file: Any, path: Path) -> None:
    held = set(file.keys())
    if held != set(own):
        odd = sorted(held ^ set(own))
        raise RunError(f"{path}: is of another model: {odd[0]} is only in {'it' if odd[0] in held else 'this run'}")
    for name, value in own.items():
        shape = file.get_slice(name).get_shape()
        if shape != list(value.shape):
            raise RunError(f"{path}: is of another model: {name} has shape {shape}, here {list(value.shape)}")


def _copy(own: Mapping[str, Tensor], file: Any) -> None:
    """Fill tensors, one at a time, in place: what lies in memory in another order than in the file keeps its order."""
    for name, value in own.items():
        sharded_state.distribute({name: file.get_tensor(name)}, {name: value})


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

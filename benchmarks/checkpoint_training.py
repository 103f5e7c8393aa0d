"""The model in training that `checkpoint.py` saves."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from contrastive.config import load as load_config
from contrastive.models.build import Built, build
from contrastive.runs import machine
from contrastive.settings import Config
from contrastive.train import optim
from contrastive.train.caching import StepPlan
from contrastive.train.step import Step
from contrastive.train.task import ContrastiveTask


@dataclass(frozen=True)
class Trained:
    """A model in training: `step` takes a step on a fixed batch and returns when it is done."""

    config: Config
    accelerator: Accelerator
    built: Built
    task: ContrastiveTask
    own: torch.optim.Optimizer
    optimizer: torch.optim.Optimizer
    one_step: Step
    batch: dict[str, Tensor]

    def step(self) -> None:
        """Train on the batch."""
        self.one_step(self.batch, is_read=False)
        self.one_step.votes.read(everything=True)
        self.synchronize()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.accelerator.device.type != "cpu":
            torch.accelerator.synchronize()

    def numbers(self) -> list[Tensor]:
        """Return what a resume has to bring back: weights, then the optimizer's state."""
        states = [value for state in self.own.state.values() for value in state.values()]
        return [*self.task.state_dict().values(), *states]

    def size(self) -> int:
        """Return the bytes of these."""
        return sum(value.nbytes for value in self.numbers())


def trained(model: dict[str, Any], batch_size: int, precision: str, device: str) -> Trained:
    """Return a model with random weights and what trains it."""
    config = load_config([], [f"model.{key}={json.dumps(value)}" for key, value in model.items()])
    if device == "cpu":
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
    else:
        accelerator = machine.accelerator(precision)
    torch.manual_seed(0)
    built = build(config.model)
    task = ContrastiveTask(built.model, built.preprocess, config).train().to(accelerator.device)
    own = optim.optimizer(task, config.optim)
    wrapped, optimizer = accelerator.prepare(task, own)
    plan = StepPlan(batch_size, batch_size, batch_size)
    step = Step(accelerator, wrapped, optimizer, plan, clip=1.0)
    held = {name: value.to(accelerator.device) for name, value in batch(built, batch_size).items()}
    return Trained(config, accelerator, built, task, own, optimizer, step, held)


def batch(built: Built, size: int) -> dict[str, Tensor]:
    """Return random pictures and texts."""
    generator, numbers, side = torch.Generator().manual_seed(1), torch.arange(size), built.preprocess.size
    image = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    text = built.tokenizer([f"a picture of the number {number}" for number in range(size)])
    return {"image": image, "text": text, **dict.fromkeys(("seed", "caption_id", "image_id"), numbers)}

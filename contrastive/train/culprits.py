"""Which samples of a batch give features that are not finite."""

from contextlib import AbstractContextManager

import torch

from contrastive.data.rows import Batch
from contrastive.train.task import ContrastiveTask


@torch.no_grad()
def culprits(task: ContrastiveTask, batch: Batch, autocast: AbstractContextManager[None]) -> list[int]:
    """Return the rows of this rank's `batch` whose image or text features are not finite with the weights as they are.

    No random number is drawn; every rank calls it.
    """
    device = batch["image"].device
    training = task.training
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type), autocast:
        task.eval()
        try:
            features = task(batch, "features")
        finally:
            task.train(training)
    finite = torch.stack([value.float().isfinite().all(1) for value in features.values()]).all(0)
    return [int(row) for row in (~finite).nonzero().flatten()]

"""The stream as a webdataset stage: ordinary webdataset samples, in our order."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from contrastive.data.rows import Plan
from contrastive.data.stream import Reader


class PlannedSamples(IterableDataset[dict[str, Any]]):
    """The samples of steps first_step to last_step - 1 of a plan, raw: `__key__`, `__url__`, and bytes by extension.

    The first stage of a `webdataset.DataPipeline`, followed by maps that keep samples one to one and
    `webdataset.batched(plan.share)`: worker w of W then yields every W-th batch, and a loader with batch_size=None
    brings the batches in the order of the plan. A stage that drops samples would shift all batches after it.
    """

    def __init__(self, reader: Reader, plan: Plan, first_step: int, last_step: int) -> None:
        self.reader, self.plan, self.first_step, self.last_step = reader, plan, first_step, last_step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in range(self.first_step + number, self.last_step, count):
            for sample in self.plan.draws(step).number.tolist():
                yield self.reader.members(sample)

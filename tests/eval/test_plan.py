import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contrastive.eval.datasets import EvalDataset, open_dataset
from contrastive.eval.embed import Pass
from contrastive.eval.plan import plan
from contrastive.eval.spec import DatasetSpec
from tests.eval.toys import ToyModel, to_tensor, tokenize, write_classes, write_folder, write_tar

BATCH_SECONDS, IMAGE_SECONDS = 0.05, 0.004


class Slow(ToyModel):
    """Takes a known time for a batch, and for each image in it."""

    def encode_image(self, image: Tensor) -> Tensor:
        time.sleep(BATCH_SECONDS + IMAGE_SECONDS * len(image))
        return super().encode_image(image)


@pytest.fixture
def dataset(tmp_path: Path) -> EvalDataset:
    root = write_classes(write_folder(tmp_path / "data", [{"cls": str(i % 2)} for i in range(60)]), ["zero", "one"])
    return open_dataset(DatasetSpec("toy", str(root)))


@pytest.mark.parametrize("batch_size", [10, 60])
def test_the_cost_of_a_batch_is_told_from_that_of_its_images(dataset: EvalDataset, batch_size: int) -> None:
    (planned,) = plan(Slow(), to_tensor, tokenize, [dataset], Pass(batch_size=batch_size))
    expected = 60 * IMAGE_SECONDS + 60 // batch_size * BATCH_SECONDS
    assert planned.dataset is dataset
    assert expected * 0.8 < planned.seconds < expected * 2  # sleeping is never shorter; other work comes on top


def test_it_leaves_modes_and_random_states_alone_and_takes_unreadable_images(dataset: EvalDataset) -> None:
    write_tar(Path(dataset.spec.root) / "test" / "0.tar", {"x.png": b"no picture"})
    model, state = ToyModel(), torch.get_rng_state()
    assert plan(model, to_tensor, tokenize, [dataset])[0].seconds > 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)

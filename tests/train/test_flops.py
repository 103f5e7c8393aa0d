import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from contrastive.train import flops
from contrastive.train.flops import count, of_training, peak_flops, peak_of
from tests.toys import on_ranks
from tests.train import toys

B, I, H, O = 5, 4, 8, 3  # noqa: E741  (batch, width in, hidden, out)
LAYERS = 2 * B * I * H + 2 * B * H * O


class Layers(nn.Module):
    """Two layers, which may recompute the first one's activations."""

    def __init__(self, recomputes: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(I, H), nn.GELU()), nn.Linear(H, O)
        self.recomputes = recomputes

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["x"]
        x = checkpoint(self.first, x, use_reentrant=False) if self.recomputes else self.first(x)
        return {"loss": self.last(F.dropout(x, 0.5)).sum()}


def batch() -> dict[str, Tensor]:
    return {"x": torch.randn(B, I)}


def test_a_linear_layer_is_two_operations_a_weight_and_row_and_twice_that_backward():
    layer, x = nn.Linear(I, H), torch.randn(B, I, requires_grad=True)
    assert count(lambda: layer(x)) == 2 * B * I * H
    assert count(lambda: layer(x).sum().backward()) == 3 * 2 * B * I * H


def test_attention_backward_is_twice_its_forward():
    rows, width = 16, 8
    q, k, v = (torch.randn(2, 3, rows, width, requires_grad=True) for _ in range(3))
    forward = 2 * (2 * 2 * 3 * rows * rows * width)  # scores and their product with the values
    assert count(lambda: F.scaled_dot_product_attention(q, k, v)) == forward
    assert count(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == 3 * forward


def test_what_has_no_products_has_no_count():
    assert count(lambda: torch.ones(3) + 1) is None


def test_a_training_step_computes_no_gradient_of_its_input():
    assert of_training(Layers(), batch()) == 3 * LAYERS - 2 * B * I * H


def test_a_frozen_layer_has_no_backward():
    task = Layers()
    task.first.requires_grad_(False)
    assert of_training(task, batch()) == LAYERS + 2 * B * H * O  # of the last layer, no gradient of its input


def test_recomputed_activations_are_counted_once():
    task, given = Layers(recomputes=True), batch()
    useful = of_training(task, given)
    assert useful == 3 * LAYERS - 2 * B * I * H
    assert count(task(given)["loss"].backward) == useful - LAYERS + 2 * B * I * H


def test_compiled_and_plain_count_alike():
    task = Layers()
    plain = of_training(task, batch())
    task.compile(backend="eager")
    assert of_training(task, batch()) == plain


def test_counting_leaves_no_trace():
    class Normed(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.first.append(nn.BatchNorm1d(H))

    task = Normed()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    given = batch()
    state = torch.get_rng_state()
    assert of_training(task, given) == 3 * LAYERS - 2 * B * I * H
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in task.parameters())
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_a_contrastive_task_costs_three_times_its_towers_but_for_the_pixels_and_its_loss_once():
    task, given = toys.doubled(), toys.batch(4)
    forward = count(lambda: task(given))
    assert forward is not None
    loss = 3 * 2 * 4 * 4 * 16  # scores and two gradients, found in one go
    patches = 2 * 4 * (16 // 8) ** 2 * 3 * 8 * 8 * 32  # their layer has no gradient of its input
    assert of_training(task, given) == 3 * (forward - loss) - patches + loss


def _counted_on_a_rank() -> tuple[int | None, bool]:
    task = toys.doubled()
    return of_training(task, toys.batch(2)), all(parameter.grad is None for parameter in task.parameters())


def test_each_rank_counts_its_own_rows_against_the_features_of_all():
    alone = of_training(toys.doubled(), toys.batch(2))
    loss = 3 * 2 * 2 * 2 * 16
    assert alone is not None
    # Scores of 2 rows with 4, from the image's side and from the text's, and their gradients.
    for counted, is_clean in on_ranks(_counted_on_a_rank, 2):
        assert counted is not None
        assert loss < counted - (alone - loss) <= 8 * 2 * 4 * 16
        assert is_clean


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp16", 989),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA GeForce RTX 4090", "bf16", 165),
        ("AMD Instinct MI300X", "bf16", 1307),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
    ],
)
def test_known_devices_have_the_dense_peak_of_their_data_sheet(name: str, precision: str, teraflops: float):
    assert peak_of(name, precision) == teraflops * 1e12


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA H100 80GB HBM3", "fp32"),
        ("Tesla V100-SXM2-16GB", "bf16"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16"),
        ("NVIDIA A10G", "bf16"),
        ("NVIDIA GeForce RTX 4090 D", "no"),
        ("something of tomorrow", "bf16"),
        ("", "bf16"),
    ],
)
def test_what_the_table_does_not_know_has_no_peak(name: str, precision: str):
    assert peak_of(name, precision) is None


def test_a_processor_has_no_peak():
    assert peak_flops(torch.device("cpu"), "bf16") is None


def test_no_row_of_the_table_hides_a_later_one():
    for table in (flops.PEAKS, flops.FLOAT16_ONLY):
        names = [set(words) for words, _ in table]
        assert not [later for at, later in enumerate(names) for row in names[:at] if row <= later]

"""What every process of `loss.py` computes on, and the exact gradients that they are compared with.

python benchmarks/loss_reference.py '{"loss": "infonce", "n": 4096, "outputs": {"exact.pt": 100}}'
"""

import json
import math
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from loss_peers import Inputs
from torch import Tensor

SCALE = 1 / 0.07  # CLIP's at the start
BIAS = -10.0  # SigLIP's at the start
SAMPLED_ROWS = 128


def leaves(image: Tensor, text: Tensor, scale: float, first: int = 0) -> Inputs:
    """Return a call's inputs at a scale; `first` is the number of the first pair in the whole batch."""
    device = image.device
    log = torch.tensor([math.log(scale)], device=device)
    bias = torch.tensor([BIAS], device=device)
    for leaf in (image, text, log, bias):
        leaf.requires_grad_(True)
    return Inputs(image, text, log, bias, torch.arange(first, first + len(image), device=device))


def features(n: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Return the whole batch's unit-norm pairs of cosine about 0.3, the same in every process; bf16 on a GPU."""
    random = torch.Generator(device).manual_seed(n)
    image = F.normalize(torch.randn(n, dim, generator=random, device=device), dim=1)
    noise = F.normalize(torch.randn(n, dim, generator=random, device=device), dim=1)
    text = F.normalize(0.3 * image + 0.91**0.5 * noise, dim=1)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return image.to(dtype), text.to(dtype)


def sampled_rows(n: int) -> Tensor:
    """Return the numbers of the rows whose gradients are compared."""
    rows: Tensor = torch.linspace(0, n - 1, min(n, SAMPLED_ROWS)).long().unique()
    return rows


def exact(loss: str, image: Tensor, text: Tensor, scale: float) -> dict[str, Tensor]:
    """Return the float64 gradients of the sampled image rows, of `logit_scale` and of `logit_bias`, by streaming.

    exp(100) is far inside float64, so the sums need no maxima.
    """
    given = leaves(image[:0], text[:0], scale)  # for the float32 values that the losses see
    factor, bias = given.logit_scale.detach().double().exp(), given.logit_bias.detach().double()
    image, text, n = image.detach().double(), text.detach().double(), len(image)
    rows = sampled_rows(n).to(image.device)
    gradient = _exact_sigmoid if loss == "sigmoid" else _exact_infonce
    row_gradient, scale_gradient, bias_gradient = gradient(image, text, factor, bias, rows)
    return {"rows": rows, "image": factor * row_gradient @ text, "scale": scale_gradient, "bias": bias_gradient}


def _chunks(n: int, device: torch.device) -> Iterator[slice]:
    rows = max(1, 2**27 // n // (1 if device.type == "cuda" else 8))
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _exact_infonce(
    image: Tensor, text: Tensor, factor: Tensor, _: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = len(image)
    row_sum, row_moment = image.new_zeros(n), image.new_zeros(n)
    column_sum, column_moment = image.new_zeros(n), image.new_zeros(n)
    for part in _chunks(n, image.device):
        logits = factor * image[part] @ text.T
        odds = logits.exp()
        row_sum[part] = odds.sum(1)
        column_sum += odds.sum(0)
        odds *= logits
        row_moment[part] = odds.sum(1)
        column_moment += odds.sum(0)
    right = factor * (image * text).sum(1)
    scale_gradient = ((row_moment / row_sum + column_moment / column_sum).sum() - 2 * right.sum()) / (2 * n)
    odds = (factor * image[rows] @ text.T).exp()
    gradient = (odds / row_sum[rows, None] + odds / column_sum) / (2 * n)
    gradient[torch.arange(len(rows), device=rows.device), rows] -= 1 / n
    return gradient, scale_gradient, torch.zeros_like(scale_gradient)


def _exact_sigmoid(
    image: Tensor, text: Tensor, factor: Tensor, bias: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n = len(image)

    def gradient(numbers: Tensor) -> tuple[Tensor, Tensor]:
        cosines = factor * image[numbers] @ text.T
        odds = torch.sigmoid(cosines + bias)
        odds[torch.arange(len(numbers), device=numbers.device), numbers] -= 1
        return odds / n, cosines

    scale_gradient = bias_gradient = image.new_zeros(())
    every = torch.arange(n, device=image.device)
    for part in _chunks(n, image.device):
        odds, cosines = gradient(every[part])
        scale_gradient = scale_gradient + (odds * cosines).sum()
        bias_gradient = bias_gradient + odds.sum()
    return gradient(rows)[0], scale_gradient, bias_gradient


def main() -> None:
    """Write the exact gradients of the job in the first argument: a file for every scale."""
    job = {"dim": 512, "device": "cpu"} | json.loads(sys.argv[1])
    image, text = features(job["n"], job["dim"], job["device"])
    for output, scale in job["outputs"].items():
        found = exact(job["loss"], image, text, scale)
        torch.save({name: value.cpu() for name, value in found.items()}, output)


if __name__ == "__main__":
    main()

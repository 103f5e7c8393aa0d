"""The floating-point operations of a step, counted, and what devices could do: the two sides of MFU."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, flop_registry

# Dense peaks in TFLOP/s, without the sparsity that the large print of data sheets counts in: bfloat16 (and float16)
# with float32 accumulation, else as marked. Sources: the vendors' data sheets ("NVIDIA H100 Tensor Core GPU", "H200",
# "A100 80GB", "V100", "L40S", "L4", "T4", "A10", "A30", "HGX B200", the Ada (table 2) and Ampere GA102 (table 3)
# architecture papers for GeForce; "AMD Instinct MI250X", of which torch sees two halves, "MI300X", "MI325X").
# A row applies to a device whose name has all its words; the first row that applies is the one.
PEAKS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("B200",), 2250),
    (("GH200",), 989),
    (("H200", "NVL"), 836),
    (("H200",), 989),
    (("H100", "PCIe"), 756),
    (("H100", "NVL"), 836),
    (("H100",), 989),
    (("H800", "PCIe"), 756),
    (("H800",), 989),
    (("A100",), 312),
    (("A800",), 312),
    (("A30",), 165),
    (("A10",), 125),
    (("L40S",), 362),
    (("L40",), 181),
    (("L4",), 121),
    (("RTX", "A6000"), 155),
    (("RTX", "4090"), 165),
    (("RTX", "3090"), 71),
    (("MI325X",), 1307),
    (("MI300X",), 1307),
    (("MI250X",), 191.5),
)
FLOAT16_ONLY: tuple[tuple[tuple[str, ...], float], ...] = (
    (("V100", "PCIE"), 112),
    (("V100",), 125),
    (("T4",), 65),
)


def count(run: Callable[[], object], *, recomputed: bool = True) -> int | None:
    """Return the floating-point operations of what `run` does, None where nothing could be counted.

    They are those of matrix products, convolutions and attention, a multiplication and an addition as two; all else
    is little. The kernels of recurrent networks are unknown to the counter. With `recomputed=False`, what runs with
    gradients enabled is left out: in a backward pass that is the second forward of activation checkpointing.
    """
    formulas = _formulas()
    if not recomputed:
        formulas = {op: _without_gradients(formula) for op, formula in {**flop_registry, **formulas}.items()}
    # A compiled kernel may hold operations that the counter does not see.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return counter.get_total_flops() or None


def of_training(task: nn.Module, batch: Mapping[str, Tensor]) -> int | None:
    """Return the useful floating-point operations of one forward and backward of `task(batch)["loss"]`.

    Each is counted once, as MFU wants it (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), also where activations
    are recomputed; frozen parts have no backward. It leaves no trace: no gradient, buffer or random number is
    another afterwards. `task` is the bare module, not one that DDP or FSDP has wrapped. Where its loss exchanges
    features, all ranks call this. A part of a batch will do, for the towers' work is in proportion to it.
    """
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}  # batch norm changes its own
    devices = [value.device for value in batch.values() if value.device.type == "cuda"][:1]
    losses: list[Tensor] = []
    with torch.random.fork_rng(devices), torch.enable_grad():
        forward = count(lambda: losses.append(functional_call(task, buffers, (batch,))["loss"]))
        # Not backward(), which would add to .grad.
        backward = count(lambda: torch.autograd.grad(losses[0], parameters, allow_unused=True), recomputed=False)
    return (forward or 0) + (backward or 0) or None


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the FLOP/s that a device could do in "bf16" or "fp16", None for what the table does not know."""
    return peak_of(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def peak_of(name: str, precision: str) -> float | None:
    """Return the dense peak in FLOP/s of a device by its name; see `peak_flops`."""
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", name)}
    known = {"bf16": PEAKS, "fp16": PEAKS + FLOAT16_ONLY}.get(precision, ())
    if "mig" in words:  # a slice of a device has a slice of its peak
        return None
    return next((peak * 1e12 for row, peak in known if all(word.lower() in words for word in row)), None)


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return what torch's own formulas lack or see otherwise: they are given tensors, not their shapes."""
    found: dict[Any, Callable[..., int]] = {torch.ops.aten.addmm_: _addmm}  # how a loss sums its gradients
    for kernel in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention"):
        operator = f"_scaled_dot_product_{kernel}"
        found[getattr(torch.ops.aten, operator)] = _attention
        found[getattr(torch.ops.aten, f"{operator}_backward")] = _attention_backward
    for formula in found.values():
        formula._get_raw = True  # type: ignore[attr-defined]
    return found


def _addmm(_: Tensor, left: Tensor, right: Tensor, **__: Any) -> int:
    return 2 * left.shape[0] * left.shape[1] * right.shape[1]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    batch, heads, rows, width = query.shape
    return int(2 * batch * heads * rows * key.shape[2] * (width + value.shape[3]))


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    """Twice the forward; torch's formula counts the scores that the kernel computes again as well."""
    return 2 * _attention(query, key, value)


def _without_gradients(formula: Callable[..., int]) -> Callable[..., int]:
    def counted(*args: Any, **kwargs: Any) -> int:
        return 0 if torch.is_grad_enabled() else formula(*args, **kwargs)

    counted._get_raw = True  # type: ignore[attr-defined]
    return counted

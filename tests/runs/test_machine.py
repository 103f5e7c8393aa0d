from pathlib import Path

import pytest
import torch

from contrastive.runs import machine


@pytest.mark.parametrize(("wanted", "word"), [("fp32", "no"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_a_named_precision_is_taken(wanted: str, word: str):
    assert machine.resolve_precision(wanted) == word


@pytest.mark.parametrize(
    ("flags", "word"), [("fpu avx2", "no"), ("fpu avx512_bf16", "bf16"), ("fpu amx_bf16 amx_tile", "bf16")]
)
def test_auto_takes_bf16_only_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, flags: str, word: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: f"model name : x\nflags : {flags}\n")
    assert machine.resolve_precision("auto") == word


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(machine, "cores", lambda: 8)
    try:
        for processes, wanted, expected in ((1, None, 8), (4, None, 2), (100, None, 1), (4, 3, 3)):
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
            machine.set_threads(wanted)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_a_launch_without_a_gpu_runs_on_the_cpu():
    accelerator = machine.accelerator("no")
    assert accelerator.num_processes == 1
    assert torch.accelerator.is_available() or accelerator.device.type == "cpu"

"""The loss comparison: exact gradients, arguments, goals and figures, and one tiny run; the comparison is no test."""

import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import loss
import loss_peers
import loss_reference
import loss_report
import loss_turns
import loss_worker
from trainers import BenchmarkError

N, DIM = 40, 16


def row(name: str, n: int = 16384, seconds=(), mib=None, kind="infonce", **more) -> loss_report.Row:
    return loss_report.Row(kind, name, n, seconds=list(seconds), cpu_seconds=list(seconds), mib=mib, **more)


def gradients(call, scale: float) -> dict[str, torch.Tensor]:
    """Return a loss's float64 gradients by autograd."""
    image, text = (x.double().requires_grad_() for x in loss_reference.features(N, DIM, "cpu"))
    log = torch.tensor([math.log(scale)]).double().requires_grad_()
    bias = torch.tensor([loss_reference.BIAS]).double().requires_grad_()
    call(loss_peers.Inputs(image, text, log, bias, torch.arange(N))).backward()
    return {"image": image.grad, "scale": log.grad, "bias": torch.zeros(1) if bias.grad is None else bias.grad}


def infonce_by_loop(x: loss_peers.Inputs) -> torch.Tensor:
    logits = x.logit_scale.exp() * x.image @ x.text.T
    return sum(-logits[i].log_softmax(0)[i] - logits[:, i].log_softmax(0)[i] for i in range(N)) / (2 * N)


def sigmoid_by_loop(x: loss_peers.Inputs) -> torch.Tensor:
    logits = x.logit_scale.exp() * x.image @ x.text.T + x.logit_bias
    signs = [[1 if i == j else -1 for j in range(N)] for i in range(N)]
    return sum(-F.logsigmoid(signs[i][j] * logits[i, j]) for i in range(N) for j in range(N)) / N


DEFINITIONS = {"infonce": infonce_by_loop, "sigmoid": sigmoid_by_loop}
ON_CPU = [
    (kind, name)
    for kind, table in loss_peers.IMPLEMENTATIONS.items()
    for name, implementation in table.items()
    if implementation.package is None and (name != "torch_linear_ce" or hasattr(F, "linear_cross_entropy"))
]


@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize("kind", ["infonce", "sigmoid"])
def test_the_streamed_gradients_are_those_of_autograd_on_the_definition(kind, scale, monkeypatch):
    monkeypatch.setattr(loss_reference, "_chunks", lambda n, device: (slice(0, 7), slice(7, n)))
    found = loss_reference.exact(kind, *loss_reference.features(N, DIM, "cpu"), scale)
    expected = gradients(DEFINITIONS[kind], scale)
    torch.testing.assert_close(found["image"], expected["image"][found["rows"]], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found["scale"].reshape(1), expected["scale"], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found["bias"].reshape(1).double(), expected["bias"].double(), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), ON_CPU)
def test_every_row_computes_the_same_loss(kind, name, monkeypatch):
    monkeypatch.setattr(loss_peers, "CHUNK", 16)
    image, text = loss_reference.features(N, DIM, "cpu")
    inputs = loss_reference.leaves(image, text, 1 / 0.07)
    value = loss_peers.IMPLEMENTATIONS[kind][name].build(loss_peers.Place())(inputs)
    torch.testing.assert_close(value.reshape(()), DEFINITIONS[kind](inputs).reshape(()), rtol=1e-5, atol=1e-6)


def test_pairs_are_unit_norm_of_cosine_near_three_tenths_and_repeat():
    image, text = loss_reference.features(256, 512, "cpu")
    torch.testing.assert_close(image.norm(dim=1), torch.ones(256))
    assert (image * text).sum(1).mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(text, loss_reference.features(256, 512, "cpu")[1])


def test_the_error_of_a_rank_s_rows_counts_the_mean_over_ranks(tmp_path):
    exact = loss_reference.exact("infonce", *loss_reference.features(N, DIM, "cpu"), 1 / 0.07)
    torch.save(exact, tmp_path / "exact.pt")
    subject = loss_worker.Subject(loss_worker.Job("infonce", N, DIM, name="plain"))
    inputs = subject.inputs()
    subject.run(inputs)
    found = subject.compare(inputs, str(tmp_path / "exact.pt"))
    assert math.sqrt(found["difference"] / found["norm"]) < 1e-6
    inputs.image.grad.mul_(1.5)
    found = subject.compare(inputs, str(tmp_path / "exact.pt"))
    assert math.sqrt(found["difference"] / found["norm"]) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a pass is read from /proc")
def test_the_growth_of_memory_is_that_of_what_is_held_at_the_peak():
    with loss_worker._growth("cpu") as growth:
        held = torch.ones(64 * 2**18)  # 64 MiB
        del held
    assert growth[0] / 2**20 == pytest.approx(64, abs=4)


@pytest.mark.parametrize("arguments", [["--sizes", "0"], ["--only", "mine"], ["--device", "cuda", "--world-size", "2"]])
def test_wrong_arguments_end_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        loss.parse(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_largest_size_runs_ours_alone():
    groups = loss.groups(loss.parse(["--loss", "infonce", "--world-size", "1"]))
    assert [(group.n, group.rounds) for group in groups] == [(4096, 3), (8192, 3), (16384, 2), (32768, 0), (65536, 0)]
    assert groups[-1].names == ("ours",)
    assert {"open_clip", "plain", "torch_linear_ce", "inf_cl"} < set(groups[-2].names)


def test_two_processes_compare_only_what_can_share_a_batch():
    groups = loss.groups(loss.parse(["--world-size", "2"]))
    assert {group.names for group in groups} == {("open_clip", "ours")}


def test_quick_stays_below_the_sizes_of_minutes():
    groups = loss.groups(loss.parse(["--quick"]))
    assert max(group.n for group in groups) == 8192
    assert {group.world_size for group in groups} == {1}


def test_a_loss_for_gpus_is_a_row_with_a_reason(tmp_path):
    bench = loss_turns.Bench("cpu", 512, 1, tmp_path, tmp_path, 10.0)
    assert loss_turns.obstacle(row("inf_cl"), bench) == "inf-cl: needs a GPU"


def test_a_loss_that_would_not_fit_is_a_row_with_a_reason(tmp_path):
    bench = loss_turns.Bench("cpu", 512, 1, tmp_path, tmp_path, 10.0)
    assert "skipped: takes about 17" in loss_turns.obstacle(row("open_clip", n=2**20), bench)
    assert loss_turns.obstacle(row("open_clip", n=256), bench) == ""


def test_packages_that_could_not_be_installed_are_rows_with_a_reason(tmp_path):
    bench = loss_turns.Bench("cpu", 512, 1, tmp_path, tmp_path, 10.0, missing="no network")
    assert loss_turns.obstacle(row("cut_cross_entropy", n=256), bench).endswith("is not installed: no network")


def test_a_ratio_is_the_median_of_rounds_not_the_ratio_of_medians():
    rows = [row("open_clip", seconds=(1, 10, 2)), row("ours", seconds=(0.5, 9, 0.2))]
    assert loss_report.ratio(rows[1], rows) == 0.5


def test_figures_name_size_and_number_of_processes():
    rows = [row("open_clip", seconds=[2.0], mib=400.0), row("ours", seconds=[1.0], mib=100.0)]
    rows += [row("open_clip", seconds=[4.0], mib=400.0, world_size=2), row("ours", seconds=[1.0], world_size=2)]
    found = loss_report.figures(rows)
    assert found["infonce_time_16384"] == 0.5
    assert found["infonce_memory_16384"] == 0.25
    assert found["open_clip_mib_16384"] == 400
    assert found["infonce_time_16384_x2"] == 0.25
    assert "infonce_mib_16384=100 " in loss_report.last_line(found)


@pytest.mark.parametrize(("ours", "missed"), [(3.9e-6, False), (4.1e-6, True)])
def test_our_error_may_be_twice_that_of_the_plain_loss(ours, missed):
    rows = [row("plain", error={"14": 2e-6}), row("ours", error={"14": ours})]
    assert bool(loss_report.verdicts(loss_report.figures(rows), rows)[0]) is missed


def test_an_error_at_the_rounding_of_float32_is_allowed_whatever_the_plain_loss_has():
    rows = [row("plain", error={"14": 1e-9}), row("ours", error={"14": 1.9e-6})]
    assert loss_report.figures(rows)["error_excess"] < 1


def test_a_missed_goal_is_named_and_a_size_that_did_not_run_is_not_judged():
    rows = [row("open_clip", seconds=[1.0], mib=4170.0), row("ours", seconds=[0.7], mib=150.0)]
    missed, unjudged = loss_report.verdicts(loss_report.figures(rows), rows)
    assert missed == ["infonce_time_16384 is 0.7, above 0.6"]
    assert "infonce_mib_65536" in unjudged


def test_our_own_failure_is_a_missed_goal_and_a_peer_s_is_not():
    rows = [row("open_clip", reason="out of memory"), row("ours", reason="ValueError: shape")]
    missed, _ = loss_report.verdicts(loss_report.figures(rows), rows)
    assert missed == ["infonce at N = 16384: ours gave up: ValueError: shape"]


def test_the_rank_that_is_slower_or_larger_is_noted():
    found = row("ours")
    loss_turns.note(found, [{"seconds": 1, "cpu_seconds": 1, "mib": 5}, {"seconds": 2, "cpu_seconds": 2, "mib": 4}])
    assert (found.seconds, found.cpu_seconds, found.mib) == ([2], [3], 5)


def test_the_tables_show_rows_without_figures_with_their_reason():
    console = Console(record=True, width=160, file=io.StringIO())
    rows = [row("open_clip", seconds=[2.0], mib=4000.0), row("inf_cl", reason="inf-cl: needs a GPU")]
    for table in loss_report.tables(rows, "cpu", 512):
        console.print(table)
    text = console.export_text()
    assert "needs a GPU" in text
    assert "4,000" in text


def test_what_a_rank_sends_is_the_volume_of_a_ring():
    sent = loss_worker.Sent(world_size=4)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        x = torch.zeros(1000)
        with sent:
            torch.distributed.all_reduce(x)
            torch.distributed.all_gather([torch.zeros(1000)], x)
    finally:
        torch.distributed.destroy_process_group()
    assert sent.bytes == 4000 * (2 * 3 / 4 + 3)


def test_a_tiny_run_measures_peers_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss, "peer_environment", lambda folder, console, packages: folder)
    arguments = "--sizes 64 --dim 32 --loss infonce --world-size 1 --only ours plain inf_cl --rounds 2 --threads 1"
    status = loss.main([*arguments.split(), "--json", str(tmp_path / "out.json"), "--cache", str(tmp_path)])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out.json").read_text())
    rows = {found["name"]: found for found in record["rows"]}
    assert status == 0
    assert len(rows["ours"]["seconds"]) == 2
    assert rows["ours"]["error"]["14"] < 2e-6
    assert rows["inf_cl"]["reason"] == "inf-cl: needs a GPU"
    assert "infonce_mib_64=" in printed.splitlines()[-1]


def test_a_loss_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    bench = loss_turns.Bench("cpu", 30, 1, tmp_path, tmp_path, 60.0)
    group = loss_turns.Group("infonce", 64, ("plain", "cut_cross_entropy"), rounds=1, scales=())
    plain, cut = loss_turns.measure(group, bench)
    assert len(plain.seconds) == 1
    assert "cut_cross_entropy" in cut.reason


def test_exact_gradients_that_fail_stop_the_benchmark(tmp_path):
    bench = loss_turns.Bench("nowhere", 8, 1, tmp_path, tmp_path, 60.0)
    with pytest.raises(BenchmarkError, match="exact gradients"):
        loss_turns.measure(loss_turns.Group("infonce", 64, (), rounds=1), bench)

import numpy as np
import pytest

from contrastive.recipes.doctor import (
    BadFacts,
    Finding,
    OrderFacts,
    RunFacts,
    ShardFacts,
    ends_run,
    interval,
    of_bad_samples,
    of_order,
    of_shards,
    ranked,
)

RUN = RunFacts("shards", "'shards'")
SUBSTITUTING = RunFacts("shards", is_substituting=True)


def shards(*counts: int, **more) -> ShardFacts:
    return ShardFacts(np.array(counts), more.pop("epoch_samples", sum(counts)), **more)


def bad(share: float, reason: str = "image: truncated", looked_at: int = 2000) -> BadFacts:
    return BadFacts(looked_at, 1_000_000, {reason: round(share * looked_at)}, {reason: f"a.tar:7: {reason}"})


def test_what_stops_a_run_comes_first_and_then_what_costs_most():
    findings = [
        Finding("note", 0.9, "n", "", ""),
        Finding("wastes", 0.1, "w1", "", ""),
        Finding("stops the run", 0.01, "s", "", ""),
        Finding("wastes", 0.5, "w2", "", ""),
    ]
    assert [one.what for one in ranked(findings)] == ["s", "w2", "w1", "n"]


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (1, 2000), (100, 2000), (10, 10)])
def test_the_interval_is_wilsons(hits: int, total: int):
    scipy = pytest.importorskip("scipy.stats")
    expected = scipy.binomtest(hits, total).proportion_ci(method="wilson")
    assert interval(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_looked_at_says_nothing():
    assert interval(0, 0) == (0.0, 1.0)


def test_healthy_shards_have_no_finding():
    assert of_shards(shards(1000, 1000, 500), RUN) == []
    assert of_bad_samples(BadFacts(2000, 10**6, {}, {}), RUN) == []
    assert of_order(OrderFacts(0.3, 0.28, True), RUN) == []


def test_damaged_shards_stop_a_run_that_takes_no_substitutes():
    facts = shards(1000, 900, damaged={"b.tar": "is cut at byte 7"})
    (found,) = of_shards(facts, RUN)
    assert found.severity == "stops the run"
    assert "1 of 2 shards are damaged: b.tar is cut at byte 7" in found.what
    assert "data.damaged_shards=substitute" in found.fix
    assert of_shards(facts, SUBSTITUTING)[0].severity == "wastes"


def test_missing_shards_stop_a_run_that_takes_no_substitutes():
    facts = shards(1000, missing="b.tar does not exist")
    assert [of_shards(facts, run)[0].severity for run in (RUN, SUBSTITUTING)] == ["stops the run", "wastes"]


def test_rows_that_are_no_samples_are_told_by_reason_and_quarantined_ones_are_not():
    (found,) = of_shards(shards(900, unusable={"no caption": 80, "zero bytes": 20, "quarantined": 50}), RUN)
    assert found.severity == "wastes"
    assert found.share == pytest.approx(0.1)
    assert "100 of 1,000 rows are no samples: 80 no caption, 20 zero bytes" in found.what
    assert of_shards(shards(900, unusable={"quarantined": 50}), RUN) == []


@pytest.mark.parametrize(("is_remote", "severity"), [(False, "note"), (True, "wastes")])
def test_a_shard_ten_times_the_others_is_told(is_remote: bool, severity: str):
    (found,) = of_shards(shards(1000, 1000, 10_000, 1000, is_remote=is_remote), RUN)
    assert found.severity == severity
    assert "10,000 samples, 10.0 times the median of 1,000" in found.what
    assert found.fix == "contrastive data reshard shards --out equal"


def test_an_empty_shard_is_told():
    (found,) = of_shards(shards(1000, 0), RUN)
    assert "1 of 2 shards have no usable sample" in found.what


def test_a_batch_larger_than_an_epoch_stops_the_run():
    (found,) = of_shards(shards(100), RUN)
    assert (found.severity, found.fix) == ("stops the run", "data.global_batch_size=100, or more data")


def test_five_percent_of_bad_samples_end_a_run_and_are_projected():
    (found,) = of_bad_samples(bad(0.05), RUN)
    assert found.severity == "stops the run"
    assert "100 of 2,000 samples looked at cannot be used (5.00%, 95 % interval 4.13% to 6.04%)" in found.what
    assert "a.tar:7: image: truncated" in found.what
    assert found.gain.startswith("about 50,000 of 1,000,000 samples; more than data.max_bad_share=0.01")
    assert "contrastive data verify shards --quarantine bad.jsonl" in found.fix


def test_few_bad_samples_are_replaced_and_what_may_yet_end_the_run_is_said():
    (found,) = of_bad_samples(bad(0.002), RUN)
    assert found.severity == "wastes"
    assert "would end" not in found.gain
    assert "above data.max_bad_share=0.01 the run would end" in of_bad_samples(bad(0.01), RUN)[0].gain


def test_bytes_that_cannot_be_read_stop_a_run_without_substitutes():
    facts = bad(0.001, "shard: changed")
    assert [of_bad_samples(facts, run)[0].severity for run in (RUN, SUBSTITUTING)] == ["stops the run", "wastes"]


def test_where_no_sample_can_be_used_the_key_is_named():
    (found,) = of_bad_samples(bad(1.0, "caption: no such field"), RUN)
    assert (found.severity, found.gain) == ("stops the run", "no sample can be used")
    assert found.fix.startswith("see data.image_key and data.caption_key")


def test_a_short_run_ends_before_its_bad_samples_count():
    assert ends_run(0.05, RUN)
    assert not ends_run(0.05, RunFacts("shards", total_samples=100))
    assert not ends_run(0.05, RunFacts("shards", max_bad_share=1.0))


def test_sorted_shards_waste_where_the_order_does_not_mix_them():
    alike = OrderFacts(0.9, 0.2, True, ("raise data.window",))
    (found,) = of_order(alike, RUN)
    assert found.severity == "wastes"
    assert "share 90% of their words, others 20%" in found.what
    assert "raise data.window" in found.what
    assert of_order(OrderFacts(0.9, 0.2, True), RUN)[0].severity == "note"
    assert of_order(OrderFacts(0.2, 0.2, False, ("raise data.window",)), RUN)[0].severity == "note"

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from contrastive.data.quarantine import Quarantine, Tally
from contrastive.data.rows import Replaced
from contrastive.errors import DataError


def bad(number: int, reason: str = "image: truncated", shard: str = "/data/00001.tar") -> Replaced:
    return Replaced(shard, f"k{number}", number, 512 * number, reason, f"{shard}:k{number}: its image is cut", 7)


def test_each_bad_sample_is_written_once_and_counted_every_time(tmp_path: Path):
    quarantine = Quarantine(tmp_path / "q.jsonl", max_share=1)
    for _ in range(2):
        quarantine.note(100, [bad(1), bad(2, "caption: empty", "/data/00002.tar")])
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [(line["shard"], line["key"], line["row"], line["offset"]) for line in lines] == [
        ("00001.tar", "k1", 1, 512),
        ("00002.tar", "k2", 2, 1024),
    ]
    assert lines[1]["reason"] == "caption: empty"
    assert quarantine.replaced == 4
    assert quarantine.tally() == Tally(
        200,
        Counter({"image: truncated": 2, "caption: empty": 2}),
        Counter({"/data/00001.tar": 2, "/data/00002.tar": 2}),
    )


def test_a_shard_is_named_in_the_log_once(caplog: pytest.LogCaptureFixture):
    quarantine = Quarantine(max_share=1)
    with caplog.at_level(logging.WARNING, "contrastive"):
        quarantine.note(100, [bad(1), bad(2)])
        quarantine.note(100, [bad(3)])
    assert len(caplog.messages) == 1
    assert "replaced by sample 7: /data/00001.tar:k1: its image is cut" in caplog.messages[0]


def test_tallies_of_processes_add_up():
    total = sum([Tally(100, Counter(a=1), Counter(x=1)), Tally(50, Counter(a=2, b=1), Counter(y=3))], Tally())
    assert str(total) == "4 of 150 samples replaced (3 a, 1 b); most in y 3, x 1"


def test_a_share_above_the_limit_ends_the_run_and_names_the_last():
    quarantine = Quarantine(max_share=0.01)
    for _ in range(50):
        quarantine.note(100, [bad(1)])  # one of a hundred is allowed
    with pytest.raises(DataError) as caught:
        quarantine.note(100, [bad(n) for n in range(3)])
    message = "data: 53 of the last 5,100 samples cannot be used, more than 1.00%; the last is k2 at byte 1024 of"
    assert str(caught.value).startswith(message)
    assert "data.max_bad_share" in str(caught.value)


def test_the_share_is_of_recent_samples():
    quarantine = Quarantine(max_share=0.01)
    for _ in range(1000):
        quarantine.note(100, [])
    with pytest.raises(DataError, match="101 of the last 10,000 samples"):
        quarantine.note(1000, [bad(n) for n in range(101)])


def test_few_samples_are_not_judged_by_their_share():
    quarantine = Quarantine(max_share=0.01)
    quarantine.note(20, [bad(n) for n in range(10)])
    with pytest.raises(DataError, match="11 of the last 40 samples"):
        quarantine.note(20, [bad(n) for n in range(1)])


def test_a_hundred_in_a_row_end_the_run():
    quarantine = Quarantine(max_share=0.5)
    for _ in range(9):
        quarantine.note(10, [bad(n) for n in range(10)])
    with pytest.raises(DataError, match="data: 100 samples in a row cannot be used"):
        quarantine.note(10, [bad(n) for n in range(10)])


def test_a_limit_of_one_never_ends_a_run():
    quarantine = Quarantine(max_share=1.0)
    for _ in range(300):
        quarantine.note(10, [bad(n) for n in range(10)])
    assert quarantine.replaced == 3000

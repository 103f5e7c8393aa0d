import os
import subprocess
import sys
import zlib

import numpy as np
import torch

from contrastive.hashing import bytes_hash, mix, row_hash, uniform

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_mix_is_splitmix64_over_the_parts_in_big_integers():
    state = 0
    for part in (7, 2**63 + 5, 11):
        state = splitmix64(state ^ part)
    assert int(mix(7, 2**63 + 5, 11)) == state
    assert mix(7, np.arange(3), 11).tolist() == [int(mix(7, i, 11)) for i in range(3)]


def test_the_published_first_numbers_of_splitmix64_are_met():
    assert int(mix(0)) == 0xE220A8397B1DCDAF  # the reference generator seeded with 0


def test_uniform_is_a_pure_function_of_each_row_in_big_integers():
    seeds = [0, 1, -5, 2**62]
    found = uniform(torch.tensor(seeds), 3)
    expected = [[(splitmix64((s + i * 0x9E3779B97F4A7C15) & MASK) >> 40) / 2**24 for i in range(3)] for s in seeds]
    np.testing.assert_array_equal(found.numpy(), np.array(expected, dtype=np.float32))
    torch.testing.assert_close(uniform(torch.tensor(seeds[2:3]), 3), found[2:3], rtol=0, atol=0)


def test_uniform_numbers_fill_the_interval_evenly_and_without_correlation():
    numbers = uniform(torch.from_numpy(mix("test", np.arange(50_000)).view(np.int64)), 2).double()
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()
    assert torch.corrcoef(numbers.T)[0, 1].abs() < 0.02
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_the_hash_of_a_row_is_that_of_the_sum_of_its_numbers_in_their_places():
    rows = torch.tensor([[3, 5, 0], [3, 5, 0], [5, 3, 0], [3, 5, 1], [-1, 2**62, 7]])
    found = row_hash(rows)
    for row, own in zip(rows.tolist(), found.numpy().view(np.uint64).tolist(), strict=True):
        mixed = [splitmix64((splitmix64(place * GOLDEN) ^ number) & MASK) for place, number in enumerate(row)]
        assert own == splitmix64(sum(mixed) & MASK)
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 4


def test_rows_of_few_numbers_have_hashes_of_their_own():
    rows = torch.cartesian_prod(*[torch.arange(20)] * 4)
    assert len(row_hash(rows).unique()) == 20**4


def test_the_hash_of_bytes_is_that_of_another_python_run_and_fills_int64():
    contents = [b"", b"a", b"b", bytes(1000)]
    code = f"from contrastive.hashing import bytes_hash; print([bytes_hash(c) for c in {contents!r}])"
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    mine = [bytes_hash(content) for content in contents]
    assert found.stdout.strip() == str(mine)
    assert torch.tensor(mine).dtype == torch.int64
    assert len(set(mine)) == 4


def test_a_hash_of_bytes_is_two_checksums():
    for content in (b"", b"a", b"abc", bytes(range(256)) * 41 + b"rest"):
        half = zlib.crc32(content[: len(content) // 2])
        assert bytes_hash(content) % 2**64 == half * 2**32 + zlib.crc32(content)


def test_one_changed_bit_changes_the_hash_of_bytes():
    content = bytes(range(256)) * 40
    for bit in (4, 128):
        changed = {bytes_hash(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]) for at in range(10240)}
        assert len(changed | {bytes_hash(content)}) == 10241

import torch

from contrastive.eval.pool import Pool
from tests.eval.toys import unit


def test_distinct_documents_are_the_pool_themselves() -> None:
    documents = unit(50, 8, 0)
    pool = Pool.of(documents)
    assert pool.rows is documents
    assert pool.first.tolist() == pool.place.tolist() == list(range(50))


def test_each_distinct_document_knows_its_copies_and_the_first_of_them() -> None:
    documents = unit(3, 8, 0)[[2, 0, 2, 1, 0, 2]]
    pool = Pool.of(documents)
    assert sorted(zip(pool.first.tolist(), pool.copies.tolist(), strict=True)) == [(0, 3.0), (1, 2.0), (3, 1.0)]
    assert torch.equal(pool.rows[pool.place], documents)


def test_equal_rows_are_found_among_ones_that_differ_little() -> None:
    # few values with short fractions, as quantised features have
    rows = torch.randint(-2, 3, (5000, 6), generator=torch.Generator().manual_seed(0)).float() / 4
    rows[rows == 0] *= -1  # some zeros have a sign
    pool = Pool.of(rows)
    distinct, place, copies = torch.unique(rows + 0.0, dim=0, return_inverse=True, return_counts=True)
    assert len(pool.rows) == len(distinct)
    assert torch.equal(copies[place], pool.copies[pool.place].long())
    assert torch.equal(pool.rows[pool.place], rows)
    assert all(torch.equal(rows[first], row) for first, row in zip(pool.first.tolist(), pool.rows, strict=True))


def test_equal_rows_are_found_and_zero_has_no_sign() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -0.0], [2.0, 0.0]])
    distinct, place = Pool.of(rows)[:2]
    assert len(distinct) == 3
    torch.testing.assert_close(distinct[place], rows)
    assert place[0] == place[2]


def test_rows_that_all_differ_are_returned_as_they_are() -> None:
    rows = unit(5, 3, 0)
    distinct, place = Pool.of(rows)[:2]
    assert distinct is rows
    assert place.tolist() == [0, 1, 2, 3, 4]

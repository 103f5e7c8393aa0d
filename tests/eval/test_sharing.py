from typing import Any

import numpy as np
import pytest
import torch

from contrastive import distributed
from contrastive.errors import ConfigError, DataError
from contrastive.eval.cache import Rows
from contrastive.eval.sharing import Computed, everywhere, spread
from tests.toys import on_ranks

COUNT = 11


def rows(ids: list[int]) -> Rows:
    """Row i is (i, -i)."""
    return Rows(
        torch.tensor(ids, dtype=torch.int64), torch.tensor(ids, dtype=torch.float32)[:, None] * torch.tensor([1, -1])
    )


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_ranks_hold_all_end_with_all_rows(world_size: int, seed: int) -> None:
    """Ranks hold random parts, in random orders, and one id is broken."""

    def work() -> tuple[Any, ...]:
        own = np.random.default_rng([seed, distributed.rank()])
        held = own.permutation(COUNT - 1)[: own.integers(COUNT)] if seed else []
        asked: list[int] = []

        def compute(ids: list[int]) -> Computed:
            asked.extend(ids)
            return Computed(rows([i for i in ids if i != COUNT - 1]), {i: "broken" for i in ids if i == COUNT - 1})

        found, broken, computed = spread(
            "toy", COUNT, lambda: (rows([int(i) for i in held]), "same"), compute, torch.device("cpu")
        )
        return [int(i) for i in held], asked, found.ids.tolist(), found.features.tolist(), broken, computed

    answers = on_ranks(work, world_size)
    held = {id_ for answer in answers for id_ in answer[0]}
    asked = [id_ for answer in answers for id_ in answer[1]]
    assert sorted(asked) == sorted(set(range(COUNT)) - held)
    assert max(len(answer[1]) for answer in answers) - min(len(answer[1]) for answer in answers) <= 1
    for _, _, ids, features, broken, computed in answers:
        assert ids == list(range(COUNT - 1))
        assert features == [[float(i), float(-i)] for i in ids]
        assert broken == {COUNT - 1: "broken"}
        assert computed == len(asked) - 1


def test_what_all_hold_nobody_computes_or_sends() -> None:
    def refuse(ids: list[int]) -> Computed:
        assert not ids
        return Computed(Rows.joined([]))

    def work() -> bool:
        held = rows(list(range(COUNT)))
        return torch.equal(
            spread("toy", COUNT, lambda: (held, "same"), refuse, torch.device("cpu"))[0].features, held[1]
        )

    assert on_ranks(work, 2) == [True, True]


def test_ranks_that_hold_other_roundings_end_with_the_same_bits() -> None:
    def work() -> tuple[list[list[float]], int]:
        ids, features = rows(list(range(COUNT)))
        held = Rows(ids, features + 1e-7 * distributed.rank())
        found, _, computed = spread(
            "toy", COUNT, lambda: (held, "same"), lambda ids: Computed(rows(ids)), torch.device("cpu")
        )
        return found.features.tolist(), computed

    expected = rows(list(range(COUNT))).features.tolist()
    assert on_ranks(work, 2) == [(expected, 0)] * 2


def test_nothing_to_share_gives_nothing() -> None:
    found, broken, computed = spread(
        "toy", 0, lambda: (rows([]), "same"), lambda ids: Computed(rows(ids)), torch.device("cpu")
    )
    assert (len(found.ids), broken, computed) == (0, {}, 0)


def test_other_data_are_refused_on_all() -> None:
    def work() -> str:
        try:
            spread(
                "toy",
                1,
                lambda: (rows([]), str(distributed.rank())),
                lambda ids: Computed(rows(ids)),
                torch.device("cpu"),
            )
        except DataError as error:
            return str(error)
        return ""

    assert set(on_ranks(work, 2)) == {"toy: rank 1 sees other data than rank 0; give all machines the same copy"}


def test_an_error_keeps_its_type_on_all_ranks() -> None:
    def fails() -> tuple[None, None]:
        if distributed.rank() == 1:
            raise ConfigError("eval.k: 0 must be at least 1")
        return None, None

    def work() -> tuple[str, bool]:
        with pytest.raises(ConfigError) as raised:
            everywhere(fails)
        return str(raised.value), raised.value.is_everywhere

    assert on_ranks(work, 2) == [("eval.k: 0 must be at least 1", True)] * 2

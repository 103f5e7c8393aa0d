from pathlib import Path

import pytest

from contrastive.errors import ConfigError
from contrastive.eval.formats.kinds import kinds_to_read


def test_without_a_wish_all_that_is_held_is_read() -> None:
    assert kinds_to_read((), ("retrieval", "multilabel"), Path("x")) == ("retrieval", "multilabel")


def test_only_the_wished_kinds_are_read() -> None:
    assert kinds_to_read(["multilabel"], ("retrieval", "multilabel"), Path("x")) == ("multilabel",)


def test_a_kind_that_is_not_held_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"^x: this layout has no choice data; it holds retrieval, multilabel"):
        kinds_to_read(["choice"], ("retrieval", "multilabel"), Path("x"))

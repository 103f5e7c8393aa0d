from pathlib import Path

import pytest
import torch

from contrastive.models.identity import identity, saved

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}


def test_the_order_of_names_and_the_layout_in_memory_do_not_matter():
    other = {"b": torch.ones(1), "a": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    assert identity(other, {"x": 1, "y": (2,)}) == identity(WEIGHTS, {"y": [2], "x": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", torch.arange(6.0).reshape(3, 2)),
        ("a", torch.arange(6.0).reshape(2, 3).double()),
        ("a", torch.arange(6.0).reshape(2, 3).nextafter(torch.tensor(9.0))),
        ("c", torch.zeros(0)),
        ("b", torch.tensor(1.0)),
    ],
)
def test_every_change_of_the_weights_shows(name: str, value: torch.Tensor):
    assert identity({**WEIGHTS, name: value}, {}) != identity(WEIGHTS, {})


def test_a_change_of_the_description_shows():
    assert identity(WEIGHTS, {"size": 32}) != identity(WEIGHTS, {"size": 33})


def test_types_that_numpy_lacks_are_hashed():
    assert identity({"a": torch.ones(2).bfloat16()}, {}) != identity({"a": torch.zeros(2).bfloat16()}, {})


def test_what_is_saved_is_known_by_name_and_content():
    def save(folder: Path, content: str = "x") -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "vocabulary").write_text(content)

    assert list(saved(save)) == ["deep/vocabulary"]
    assert saved(save) == saved(save) != saved(lambda folder: save(folder, "y"))

from typing import Any, Literal

import pytest

from contrastive import registry
from contrastive.errors import ConfigError
from contrastive.registry import bind, build, convert, find


class Part:
    """A part as someone outside would write it."""

    def __init__(
        self, width: int, rate: float = 0.5, mode: Literal["a", "b"] = "a", sizes: tuple[int, ...] = ()
    ) -> None:
        if width > 100:
            raise ValueError(f"width {width} is too wide")
        self.options = (width, rate, mode, sizes)


TABLE = {"part": f"{__name__}:Part"}


def test_every_name_of_every_table_resolves():
    for table in registry.TABLES.values():
        for name in table:
            assert callable(find(table, name, "key"))


def test_options_reach_the_constructor_in_its_types():
    part = build(TABLE, {"name": "part", "width": 3, "rate": 1, "sizes": [1, 2]}, "key")
    assert part.options == (3, 1.0, "a", (1, 2))


def test_a_path_from_outside_needs_no_table():
    assert build({}, {"name": f"{__name__}:Part", "width": 3}, "key").options[0] == 3


def test_given_values_fill_what_the_constructor_asks_for():
    assert build(TABLE, {"name": "part"}, "key", width=7, unused=1).options[0] == 7


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "key: give it a name; known: part, or package.module:Class"),
        ({"name": "prt"}, "key.name: 'prt' is not one of part, nor package.module:Class; did you mean part?"),
        ({"name": "no.such:Thing"}, "key.name: 'no.such:Thing' cannot be imported"),
        ({"name": f"{__name__}:Nothing"}, f"key.name: module {__name__} has no 'Nothing'"),
        ({"name": "part", "widht": 3}, "key.widht: part has no such option; did you mean width?"),
        ({"name": "part", "width": "3"}, "key.width: '3' is not int"),
        ({"name": "part", "width": True}, "key.width: True is not int"),
        ({"name": "part", "width": 3, "mode": "c"}, "key.mode: 'c' is not one of 'a', 'b'"),
        ({"name": "part", "width": 3, "sizes": "12"}, "key.sizes: '12' is not a list"),
        ({"name": "part", "width": 3, "sizes": [1, "x"]}, "key.sizes[1]: 'x' is not int"),
        ({"name": "part"}, "key.width: part needs it and it is not set"),
        ({"name": "part", "width": 101}, "key: part refused its options: width 101 is too wide"),
    ],
)
def test_a_bad_spec_is_one_line(spec: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        build(TABLE, spec, "key")
    assert message in str(caught.value)


def test_what_the_run_decides_is_not_an_option():
    with pytest.raises(ConfigError, match=r"key\.width: is decided by the rest of the run"):
        bind(TABLE, {"name": "part", "width": 3}, "key", width=7)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, 1.0),
        (None, int | None, None),
        (3, int | None, 3),
        ([1, 2], tuple[int, int], (1, 2)),
        ([1], list[float], [1.0]),
        ({"a": 1}, dict[str, Any], {"a": 1}),
        ("x", str | tuple[str, ...] | None, "x"),
    ],
)
def test_conversion(value: Any, annotation: Any, expected: Any):
    found = convert(value, annotation, "key")
    assert found == expected
    assert type(found) is type(expected)


def test_a_fixed_length_is_held():
    with pytest.raises(ConfigError, match="has 3 items, not 2"):
        convert([1, 2, 3], tuple[int, int], "key")

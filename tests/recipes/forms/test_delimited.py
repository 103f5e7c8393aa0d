import csv
import io

import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms import delimited
from contrastive.recipes.forms.cells import BadRowError


def parsed(text: str, width: int = 2, delimiter: str = ",") -> list[tuple[int, list[str] | str]]:
    lines = iter(io.StringIO(text, newline=""))
    found = delimited.rows(lines, delimiter, width)
    return [(number, cells.reason if isinstance(cells, BadRowError) else cells) for number, cells in found]


def test_whatever_the_csv_module_writes_is_read_back() -> None:
    cells = ["plain", "a, b", 'says "hi"', '"', "", "two\nlines", "three\r\nmore\nlines", "tab\there", "ä", "a;b|c"]
    wanted = [[one, other] for one in cells for other in cells if one or other]
    for delimiter in delimited.DELIMITERS:
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            file = io.StringIO(newline="")
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(wanted)
            assert [cells for _, cells in parsed(file.getvalue(), 2, delimiter)] == wanted


def test_a_row_is_named_by_its_first_line() -> None:
    assert parsed('a,b\n\nc,"d\ne"\nf,g\n') == [(1, ["a", "b"]), (3, ["c", "d\ne"]), (5, ["f", "g"])]


def test_a_quote_that_is_never_closed_takes_one_row() -> None:
    text = 'a,"one\nb,two\nc,three\n'
    assert parsed(text) == [(1, "row: quote not closed"), (2, ["b", "two"]), (3, ["c", "three"])]


def test_a_quote_that_would_swallow_rows_up_to_the_next_one_takes_one_row() -> None:
    text = 'a,"one\nb,two\nc,"three, four"\nd,five\n'
    wanted = [(1, "row: quote not closed"), (2, ["b", "two"]), (3, ["c", "three, four"]), (4, ["d", "five"])]
    assert parsed(text) == wanted


def test_open_quotes_in_many_rows_are_told_one_by_one() -> None:
    rows = [f'{number},"open {number}' for number in range(3000)]
    found = parsed("\n".join(rows) + "\nlast,row\n")
    assert [reason for _, reason in found[:-1]] == ["row: quote not closed"] * 3000
    assert found[-1] == (3001, ["last", "row"])


def test_a_text_that_begins_with_a_quote_and_goes_on_is_taken_as_it_stands() -> None:
    assert parsed('a,"nice" cat\nb,dog\n') == [(1, ["a", '"nice" cat']), (2, ["b", "dog"])]


def test_a_text_behind_a_closing_quote_that_cannot_be_parted_is_told() -> None:
    assert parsed('a,"one, two" three\nb,dog\n') == [(1, "row: stray quote"), (2, ["b", "dog"])]


def test_between_tabs_a_lone_quote_is_text() -> None:
    assert parsed('a\t"one\nb\ttwo\n', 2, "\t") == [(1, ["a", '"one']), (2, ["b", "two"])]


def test_a_row_of_too_few_or_too_many_cells_is_told() -> None:
    found = parsed("a\nb,c,d\ne,f\n")
    assert found == [(1, "row: wrong number of cells"), (2, "row: wrong number of cells"), (3, ["e", "f"])]


def test_bytes_that_are_no_utf8_are_told_where_they_stand() -> None:
    text = b"a,one\nb,caf\xe9\nc,three\n".decode("utf-8", "surrogateescape")
    assert parsed(text) == [(1, ["a", "one"]), (2, "row: not UTF-8"), (3, ["c", "three"])]


@pytest.mark.parametrize("delimiter", delimited.DELIMITERS)
def test_the_delimiter_of_a_header_is_found(delimiter: str) -> None:
    line = delimiter.join(["image", "caption", "width"]) + "\n"
    assert delimited.header_of(line, "a.csv", ["image"], None) == (delimiter, ["image", "caption", "width"])


def test_the_delimiter_is_the_one_that_gives_the_columns_asked_for() -> None:
    assert delimited.header_of("image;a,b,c,d;e\n", "a.csv", ["image"], None)[0] == ";"


def test_a_column_that_stands_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.csv: line 1: column 'a' stands twice"):
        delimited.header_of("a,b,a\n", "a.csv", [], None)


def test_a_header_that_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.csv: is not UTF-8 text"):
        delimited.header_of("a\0,\0b\0\n", "a.csv", [], None)

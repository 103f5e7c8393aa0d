"""CSV and TSV files, row by row; what is broken in one row does not reach the next.

Python's csv module decides what a quoted cell is. A quote that is never closed would swallow all rows up to the next
quote: such a row is told by what follows that quote, and reading goes on at the line behind its first.
"""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.forms.cells import BadRowError, shown

DELIMITERS = (",", "\t", ";", "|")
MOST_LINES = 1000  # that one quoted cell may run over
MOST_CELL = 2**31 - 1  # characters, for images in base64; the csv module's own limit is 131,072


def rows(lines: Iterator[str], delimiter: str, width: int) -> Iterator[tuple[int, list[str] | BadRowError]]:
    """Yield the number of each row's first line, counted from the line that comes next as 1, and its `width` cells.

    Empty lines are passed over.
    """
    ahead: deque[str] = deque()
    number = 0
    while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
        number += 1
        if '"' not in line:  # the module would return the same, in twelve times the time
            if bare := line.rstrip("\r\n"):
                yield number, _checked(bare.split(delimiter), width)
            continue
        further: list[str] = []
        first = number
        cells, why = _parsed(line, chain(_drained(ahead), lines), further, delimiter)
        if cells is None:
            ahead.extendleft(reversed(further))
            yield first, _literal(line, delimiter, width, is_open="end of data" in why or bool(further))
        else:
            number += len(further)
            yield first, _checked(cells, width)


def _drained(ahead: deque[str]) -> Iterator[str]:
    while ahead:
        yield ahead.popleft()


def _parsed(line: str, more: Iterator[str], further: list[str], delimiter: str) -> tuple[list[str] | None, str]:
    """Return the cells of the row that begins with `line`, or why there are none; `further` takes its other lines."""

    def feed() -> Iterator[str]:
        yield line
        for one in islice(more, MOST_LINES):
            further.append(one)
            yield one

    csv.field_size_limit(MOST_CELL)
    try:
        return next(csv.reader(feed(), delimiter=delimiter, strict=True, skipinitialspace=True)), ""
    except csv.Error as error:
        return None, str(error)


def _literal(line: str, delimiter: str, width: int, is_open: bool) -> list[str] | BadRowError:
    """Return the cells of a line whose quotes are part of the text, if it can be read so, or what is wrong with it.

    Text that nobody quoted may begin with a quote; a quote that is never closed is one of those where tabs part cells.
    """
    cells = line.rstrip("\r\n").split(delimiter)
    if len(cells) == width and (delimiter == "\t" or not is_open):
        return _checked(cells, width)
    if is_open:
        rule = f"opens a quote in {shown(line)} and does not close it; double a quote that is part of a text"
        return BadRowError("row: quote not closed", rule)
    rule = f"has text behind a closing quote in {shown(line)}; double a quote that is part of a text"
    return BadRowError("row: stray quote", rule)


def _checked(cells: list[str], width: int) -> list[str] | BadRowError:
    if len(cells) != width:
        rule = "quote a cell that holds the separator"
        return BadRowError("row: wrong number of cells", f"has {len(cells)} cells instead of {width}; {rule}")
    return undecoded("".join(cells)) or cells


def undecoded(text: str) -> BadRowError | None:
    """Return what is wrong with a text that was read from bytes which are no UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return BadRowError("row: not UTF-8", f"{shown(text)} is not UTF-8; save the table as UTF-8")
    return None


def header_of(line: str, where: str, wanted: Sequence[str], delimiter: str | None) -> tuple[str, list[str]]:
    """Return the delimiter and the column names of a first line.

    The delimiter is the one that gives most of the `wanted` columns, then the one that gives most columns.

    Raises:
        ConfigError: a name stands twice.
        DataError: it is no text.
    """
    if "\0" in line or undecoded(line):
        raise DataError(f"{where}: is not UTF-8 text; save it as CSV in UTF-8")

    def worth(sign: str) -> tuple[int, int]:
        names = _split(line, sign)
        return len(set(wanted) & set(names)), len(names)

    chosen = max(DELIMITERS, key=worth) if delimiter is None else delimiter
    names = _split(line, chosen)
    for name in names:
        if name and names.count(name) > 1:
            raise ConfigError(f"{where}: line 1: column {name!r} stands twice; rename one of them")
    return chosen, names


def delimiter_of(line: str, width: int) -> str:
    """Return which delimiter gives so many cells, of a file without a header."""
    return next((sign for sign in DELIMITERS if len(_split(line, sign)) == width), ",")


def _split(line: str, delimiter: str) -> list[str]:
    csv.field_size_limit(MOST_CELL)
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip() for cell in cells]

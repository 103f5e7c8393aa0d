"""The table of faults is whole: each number has tests, and the document shows it as it is."""

from tests.faults.faults import FAULTS, in_document, injected, table


def test_every_fault_of_the_table_is_injected():
    assert list(injected()) == list(FAULTS) == list(range(1, 41))


def test_the_document_has_the_table_as_it_is():
    assert in_document() == table(), "run .venv/bin/python tests/faults/faults.py --write"

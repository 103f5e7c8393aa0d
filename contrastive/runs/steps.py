"""What all steps of curation begin and end with: an engine, a report, a page, a table."""

import sys
from pathlib import Path
from typing import cast

from rich.table import Table

from contrastive import registry
from contrastive.errors import DataError
from contrastive.recipes.engine import Engine
from contrastive.recipes.step import REPORT, Step
from contrastive.report.step_page import write_step_page
from contrastive.runs.opening import console
from contrastive.tracking.redaction import redacted_argument

PAGE = "report.html"


def open_engine(name: str, processes: int | None) -> Engine:
    """Return where the work is done: by default a process for each core.

    Raises:
        ConfigError: there is no such engine.
        DataError: what it needs is not installed.
    """
    made = registry.find(registry.ENGINES, name, "--engine")
    return cast(Engine, made(processes))


def command_line() -> list[str]:
    """Return how this program was called, without what must stay secret: for reports and provenance."""
    return [Path(sys.argv[0]).name, *map(redacted_argument, sys.argv[1:])]


def new_folder(out: Path, is_refreshed: bool = False) -> None:
    """Refuse a folder that holds a report already, so that no step overwrites another's.

    Raises:
        DataError: it does.
    """
    if (out / REPORT).exists() and not is_refreshed:
        raise DataError(f"--out {out}: holds the report of an earlier step; name a new folder")


def conclude(step: Step, out: Path) -> None:
    """Write a step's report as JSON and as a page, and print it."""
    step.write(out)
    page = write_step_page(out / REPORT, out / PAGE)
    grid = Table("", show_header=False)
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    total = max(step.samples, 1)
    for name, count in (("samples", step.samples), ("kept", step.kept), *step.dropped.items()):
        grid.add_row(name, f"{count:,}", f"{count / total:.2%}")
    for name, value in step.figures.items():
        grid.add_row(name, f"{value:,}" if isinstance(value, int) else str(value), "")
    out_console = console()
    out_console.print(step.title, style="italic", soft_wrap=True, highlight=False)
    out_console.print(grid)
    for note in step.notes:
        out_console.print(note, soft_wrap=True, highlight=False)
    out_console.print(f"report: {page}", soft_wrap=True, highlight=False)

"""One self-contained HTML page about a run: `write_report(run_directory)`."""

from contrastive.report.page import write_report

__all__ = ["write_report"]

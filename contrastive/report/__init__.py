"""Self-contained HTML pages: `write_report(run_directory)` of a run, `write_evaluation_report(folder)` of results."""

from contrastive.report.evaluation_page import write_evaluation_report
from contrastive.report.page import write_report

__all__ = ["write_evaluation_report", "write_report"]

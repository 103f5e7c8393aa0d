"""What a run writes down: metrics for JSONL, TensorBoard and trackers, its environment, and lines for people."""

from contrastive.tracking.external import check_trackers
from contrastive.tracking.facts import environment
from contrastive.tracking.progress import CountLine, ProgressLine
from contrastive.tracking.redaction import redacted
from contrastive.tracking.tracker import Tracker

__all__ = ["CountLine", "ProgressLine", "Tracker", "check_trackers", "environment", "redacted"]

import json
from pathlib import Path

import pytest

from tests.report.toys import PIXEL, eval_row, result, train_row, write_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run directory."""
    write_lines(tmp_path, [train_row(step) for step in range(1, 50)] + [eval_row(20), eval_row(40)])
    (tmp_path / "config.yaml").write_text("data:\n  batch_size: 64\n")
    (tmp_path / "environment.json").write_text(json.dumps({"world_size": 2, "parameters": 1234567}))
    query = {"image": PIXEL, "answers": [{"text": "digit seven", "score": 0.31, "correct": True}]}
    confusion = {"classes": ["zero", "one"], "counts": [[9, 1], [2, 8]]}
    (tmp_path / "evaluation.json").write_text(json.dumps([result(gallery=[query], confusion=confusion)]))
    return tmp_path

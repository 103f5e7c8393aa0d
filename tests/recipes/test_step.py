import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from contrastive.recipes.step import Step, chosen, example, histogram


def test_a_report_holds_all_that_was_said(tmp_path: Path):
    step = Step("Filter", ["data", "filter"], 10, 7, {"too small": 3})
    step.figures["seconds"] = 1.5
    step.histograms["side"] = histogram(np.array([1, 2, 2, 3, np.nan]), 2.5, bins=2)
    step.examples["kept"] = [example("a", "é" * 400, Image.new("RGB", (320, 10)), "note")]
    found = json.loads(step.write(tmp_path / "new").read_text(encoding="utf-8"))
    assert found["dropped"] == {"too small": 3}
    assert found["histograms"]["side"] == {"edges": [1.0, 2.0, 3.0], "counts": [1, 3], "limit": 2.5}
    (one,) = found["examples"]["kept"]
    assert (one["key"], one["caption"], one["note"]) == ("a", "é" * 300, "note")
    with Image.open(io.BytesIO(base64.b64decode(one["image"]))) as image:
        assert image.size == (160, 5)


def test_an_empty_distribution_counts_nothing():
    assert sum(histogram(np.array([np.nan, np.inf])).counts) == 0


def test_examples_are_drawn_alike_and_stand_in_order():
    numbers = list(range(0, 3000, 3))
    found = chosen(numbers, 5)
    assert found == chosen(numbers, 5)
    assert found == sorted(found)
    assert len(set(found)) == 5
    assert set(found) <= set(numbers)
    assert chosen(numbers, 5, seed=1) != found
    assert chosen([4, 2], 5) == [2, 4]

from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.runs.deduplication import Request, deduplicate
from contrastive.runs.opening import configuration


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "embedding"}, "--method embedding compares features; make them with contrastive data embed"),
        ({"features": Path("x")}, "--features is for --method embedding or both, not perceptual"),
        ({"of": "pair"}, "--of pair is for --method exact, not perceptual"),
        ({"method": "exact", "of": "caption", "keep": "largest"}, "--keep largest looks at images"),
        ({"keep": "score"}, "--keep score and --score FILE:COLUMN belong together"),
        ({"score": "a:b"}, "--keep score and --score FILE:COLUMN belong together"),
        ({"keep": "score", "score": "scores.parquet"}, "--score scores.parquet: must be FILE:COLUMN"),
        ({"engine": "lcal"}, "did you mean local"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(shards: Path, tmp_path: Path, options: dict[str, Any], said: str):
    with pytest.raises((ConfigError, DataError), match=said):
        deduplicate(configuration([], [], [str(shards)]), Request(tmp_path / "out", **{"processes": 1, **options}))

"""Small folders in the layouts of evaluation data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from contrastive.errors import UserError
from contrastive.eval.samples import Content, Format, Kind
from tests.eval.toys import png


def write_images(root: Path, *names: str) -> Path:
    """Write one PNG a name, whatever its ending; image i has the pixels of png(i)."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    return root


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refused(
    layout: Format, root: Path, split: str = "test", kinds: Sequence[Kind] = (), error: type[UserError] = UserError
) -> str:
    with pytest.raises(error) as caught:
        layout.read(root, split, kinds)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(content: Content) -> list[str]:
    return [sample.image.name for sample in content.samples]


def texts(content: Content) -> list[list[str]]:
    return [[caption.text for caption in sample.captions] for sample in content.samples]

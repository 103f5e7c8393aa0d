"""Filters of image sizes."""

from pathlib import Path

import pytest

from contrastive.errors import ConfigError
from contrastive.recipes.curation.image_filters import Aspect, Resolution
from tests.recipes.curation.pools import Made, made


def test_resolution_looks_at_both_sides(tmp_path: Path):
    sizes = [(10, 30), (30, 10), (11, 31), (9, 20)]
    samples = made(tmp_path, *(Made(f"k{at}", width=w, height=h) for at, (w, h) in enumerate(sizes)))
    found = [Resolution(min_side=10, max_side=30).judge(sample) for sample in samples]
    assert [one.reason for one in found] == ["", "", "image: too large", "image: too small"]
    assert [(one.scores["side"], one.scores["longer_side"]) for one in found] == [(10, 30), (10, 30), (11, 31), (9, 20)]


def test_aspect_is_of_the_longer_side_and_its_limit_passes(tmp_path: Path):
    samples = made(
        tmp_path, Made("a", width=30, height=10), Made("b", width=10, height=30), Made("c", width=31, height=10)
    )
    found = [Aspect(3).judge(sample) for sample in samples]
    assert [one.reason for one in found] == ["", "", "image: too narrow"]
    assert found[2].scores == {"aspect": 3.1}


def test_limits_stand_in_the_report():
    assert Resolution(min_side=200).scores == {"side": 200}
    assert Resolution(min_side=2, max_side=5).scores == {"side": 2, "longer_side": 5}
    assert Aspect(2.5).scores == {"aspect": 2.5}


def test_impossible_limits_are_refused():
    with pytest.raises(ConfigError, match="set min_side or max_side; both are unset"):
        Resolution()
    with pytest.raises(ConfigError, match="min_side 9 is more than max_side 8"):
        Resolution(9, 8)
    with pytest.raises(ConfigError, match=r"resolution.min_side: 0 must be at least 1"):
        Resolution(0)
    with pytest.raises(ConfigError, match=r"aspect.max: 0.5 must be at least 1"):
        Aspect(0.5)

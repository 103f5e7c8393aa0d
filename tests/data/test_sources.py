from typing import Any

import pytest

from contrastive.config import load
from contrastive.data.sources import source_specs
from contrastive.errors import ConfigError
from contrastive.settings import DataConfig


def test_one_source_has_the_settings_of_the_run():
    (spec,) = source_specs(DataConfig(train="a.tar", image_key="PNG; jpg", caption_key="json.c", label_key="json.l"))
    assert (spec.shards, spec.weight, spec.image) == ("a.tar", 1.0, ("png", "jpg"))
    assert (spec.selection.captions, spec.selection.label, spec.setting) == (("json",), "json", "data.train")


def test_a_source_of_a_mixture_says_what_is_its_own():
    sources = {
        "cc": {"shards": ["a", "b"], "weight": 2},
        "own": {"shards": "c", "caption_key": {"txt": 1, "json.x": 1}},
    }
    cc, own = source_specs(DataConfig(sources=sources, caption_key="json.c"))
    assert (cc.shards, cc.weight, cc.captions.keys) == (("a", "b"), 2.0, ("json.c",))
    assert (own.shards, own.weight, own.captions.shares) == ("c", 1.0, (0.5, 0.5))
    assert own.setting == "data.sources.own.shards"


def test_a_mixture_can_be_written_on_the_command_line():
    config = load([], ["data.sources.a=x.tar", "data.sources.b={shards: y.tar, weight: 0.5}"])
    assert [(spec.name, spec.shards, spec.weight) for spec in source_specs(config.data)] == [
        ("a", "x.tar", 1.0),
        ("b", "y.tar", 0.5),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "x", "sources": {"a": "y"}}, "data.sources: stands beside data.train"),
        ({"sources": {"a": {"weight": 1}}}, r"data.sources.a: \{'weight': 1\} must be a mapping like"),
        ({"sources": {"a": {"shards": "x", "wieght": 1}}}, "data.sources.a: unknown key 'wieght'; did you mean weight"),
        ({"sources": {"a": {"shards": "x", "weight": 0}}}, "data.sources.a.weight: 0.0 must be more than 0"),
        ({"sources": {"a": {"shards": "x", "weight": "x"}}}, "data.sources.a.weight: 'x' is not float"),
        ({"sources": {"a": {"shards": 3}}}, "data.sources.a: 3 must be a text or a list of texts"),
        ({"train": {0: None}}, "data.train: .* must be a text or a list of texts; quote a value"),
        ({"sources": {"a": "x", "b": {"shards": "y", "label_key": "cls"}}}, "data.sources.a.label_key: unset"),
        ({"train": "x", "image_key": " ; "}, "data.image_key: names no member"),
    ],
)
def test_a_wrong_source_is_named(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        source_specs(DataConfig(**options))

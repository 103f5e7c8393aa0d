import dataclasses

import pytest

from contrastive.settings import Config, option


def test_every_setting_says_what_it_means():
    for section in dataclasses.fields(Config):
        if section.name == "losses":
            continue
        for spec in dataclasses.fields(section.default_factory):  # type: ignore[arg-type]
            assert spec.metadata["help"], f"{section.name}.{spec.name}"


def test_a_mutable_default_is_a_copy_each_time():
    @dataclasses.dataclass(frozen=True)
    class Section:
        values: dict = option({"a": 1}, "some")

    assert Section().values == {"a": 1}
    assert Section().values is not Section().values


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().data.workers = 3  # type: ignore[misc]

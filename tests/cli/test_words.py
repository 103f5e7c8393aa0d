import argparse
from pathlib import Path

import pytest

from contrastive.cli import words
from contrastive.errors import ConfigError


def test_settings_may_stand_anywhere_among_the_words():
    parser = argparse.ArgumentParser()
    words.add_shards(parser)
    words.add_engine(parser)
    words.add_out(parser, "the list")
    found, settings = words.parsed(
        parser, ["data.caption_key=json.captions", "a.tar", "--out", "o", "run.yaml", "data.image_key=png", "b=c.tar"]
    )
    assert found == {"shards": ["a.tar", "run.yaml", "b=c.tar"], "processes": None, "engine": "local", "out": Path("o")}
    assert settings == ["data.caption_key=json.captions", "data.image_key=png"]


def test_a_file_of_a_run_gives_its_data_and_shards_take_their_place(tmp_path: Path):
    run = tmp_path / "run.yaml"
    run.write_text("data: {train: /a, caption_key: json.b}\n")
    assert words.configuration([str(run)], []).data.train == "/a"
    found = words.configuration([str(run), "/c.tar"], ["data.image_key=png"]).data
    assert (found.train, found.caption_key, found.image_key) == (["/c.tar"], "json.b", "png")
    with pytest.raises(ConfigError, match="names no shards"):
        words.configuration([], [])


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (words.positive, "0", "0 must be at least 1"),
        (words.count, "-1", "-1 must not be negative"),
        (words.count, "1.5", "'1.5' is no whole number"),
        (words.share, "1.1", "1.1 must lie between 0 and 1"),
        (words.share, "x", "'x' is no number"),
        (words.share, "nan", "nan must lie between 0 and 1"),
    ],
)
def test_numbers_are_checked(kind, text: str, said: str):
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        kind(text)


def test_numbers_are_read():
    assert (words.positive("3"), words.count("0"), words.share("0.25")) == (3, 0, 0.25)

"""Rules of a user: presets and files."""

import hashlib
from pathlib import Path

import pytest

from contrastive.errors import ConfigError
from contrastive.recipes.curation.filter_rules import (
    PRESET_NOTES,
    PRESETS,
    Rule,
    build_judge,
    check_rules,
    digests,
    preset,
    read_rules,
)
from contrastive.recipes.samples import Sample
from tests.recipes.curation.pools import Made, opened, write


def written(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text)
    return path


def test_rules_are_read_and_built_in_their_order(tmp_path: Path):
    text = "- {name: resolution, min_side: 20}\n- name: tests.recipes.curation.test_filtering:Odd\n"
    rules = read_rules(written(tmp_path, text))
    check_rules(rules)
    reader = opened(write(tmp_path / "s", [Made("a", width=20, height=20), Made("b", width=20, height=20), Made("c")]))
    judge = build_judge(rules, reader.pool)
    found = [judge.judge(Sample(reader, number)).reason for number in range(3)]
    assert found == ["", "odd", "image: too small"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: resolutoin, min_side: 2}", r"rules.yaml\[0\].name: 'resolutoin' .*did you mean resolution\?"),
        (
            "- {name: aspect, max: 2}\n- {name: resolution, minside: 2}",
            r"rules.yaml\[1\].minside: .*did you mean min_side",
        ),
        ("- {name: resolution, min_side: many}", r"rules.yaml\[0\].min_side: 'many' is not"),
        ("- {min_side: 2}", r"rules.yaml\[0\]: give it a name"),
        ("- {name: text_overlap, file: a.txt}", r"rules.yaml\[0\].overlapping: text_overlap needs it"),
        ("- {name: text_overlap, file: a.txt, overlapping: maybe}", "'maybe' is not one of 'keep', 'drop'"),
        ("- {name: column, pool: 3, column: json.a, max: 1}", "decided by the rest of the run"),
        ("resolution: 2", "must be a list of filters"),
        ("[]", "must be a list of filters"),
        ("- [", "cannot be read: while parsing"),
    ],
)
def test_rules_that_are_wrong_are_refused_before_any_shard_is_opened(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        check_rules(read_rules(written(tmp_path, text)))


def test_no_rule_and_no_file_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="filter: no rule; give --preset, --rules or some of the flags"):
        check_rules([])
    with pytest.raises(ConfigError, match=r"--rules .*absent.yaml: cannot be read: No such file"):
        read_rules(tmp_path / "absent.yaml")


def test_the_preset_is_datacomps_basic_filter(tmp_path: Path):
    good = "two dogs run along the beach in the evening"
    samples = [
        Made("good", good, 600, 200),
        Made("narrow", good, 601, 200),
        Made("small", good, 300, 199),
        Made("two words", "hello, everybody", 300, 300),
        Made("five characters", "a b c", 300, 300),
        Made("german", "zwei Hunde laufen abends am Strand entlang", 300, 300),
    ]
    check_rules(preset("datacomp-basic"))
    reader = opened(write(tmp_path, samples))
    judge = build_judge(preset("datacomp-basic"), reader.pool)
    found = [judge.judge(Sample(reader, number)).reason for number in range(len(samples))]
    assert found == [
        "", "image: too narrow", "image: too small", "caption: too few words", "caption: too few characters",
        "caption: other language",
    ]  # fmt: skip
    assert judge.scores["aspect"] == 3
    assert set(PRESET_NOTES) == set(PRESETS)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"--preset: 'datacomp-basics' .*did you mean datacomp-basic"):
        preset("datacomp-basics")


def test_files_of_rules_are_known_by_their_content(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("dog")
    rules = [Rule("r", {"name": "words", "drop": str(path), "keep": ["cat"]}), *preset("datacomp-basic")]
    assert digests(rules) == {str(path): hashlib.sha256(b"dog").hexdigest()}

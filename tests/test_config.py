from pathlib import Path

import pytest
import yaml

from contrastive.config import describe, load, to_dict, to_yaml
from contrastive.errors import ConfigError
from contrastive.settings import Config


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_later_files_and_overrides_win(tmp_path: Path):
    first = write(tmp_path, "optim: {learning_rate: 0.1, beta1: 0.5}\ntrain: {seed: 3}\n", "a.yaml")
    second = write(tmp_path, "optim: {learning_rate: 0.2}\n", "b.yaml")
    config = load([first, second], ["train.seed=9"])
    assert (config.optim.learning_rate, config.optim.beta1, config.train.seed) == (0.2, 0.5, 9)


def test_exponents_without_a_dot_are_numbers(tmp_path: Path):
    assert load([write(tmp_path, "optim: {learning_rate: 1e-4}")]).optim.learning_rate == 1e-4
    assert load([], ["optim.learning_rate=1e-4"]).optim.learning_rate == 1e-4


def test_a_resolved_run_is_itself_a_valid_file(tmp_path: Path):
    config = load([], ["model.image={name: cnn, width: 3}", "data.random_crop=[0.9, 1.0]", "data.train=a{0..3}.tar"])
    again = load([write(tmp_path, to_yaml(config))])
    assert again == config
    expected = to_dict(config)
    del expected["data"]["allow_pipes"]  # a shell command is allowed on a command line, each time anew
    del expected["run"]["resume"], expected["run"]["accept_changes"]  # they concern one launch
    assert yaml.safe_load(to_yaml(config)) == expected


def test_part_mappings_start_empty_so_that_nothing_needs_to_be_taken_out():
    defaults = to_dict(Config())
    assert [defaults["losses"], defaults["model"]["image"], defaults["data"]["augment"]] == [{}, {}, {}]


def test_null_empties_a_mapping_that_an_earlier_file_filled(tmp_path: Path):
    first = write(tmp_path, "model: {model_cfg: {embed_dim: 3}}\nlosses: {a: {name: infonce}}\n")
    config = load([first], ["model.model_cfg=null", "losses=null", "model.image={name: cnn}"])
    assert (config.model.model_cfg, config.losses, config.model.image) == ({}, {}, {"name": "cnn"})


def test_help_has_a_meaning_for_every_leaf_of_the_saved_file():
    def leaves(section: dict, prefix: str = "") -> set[str]:
        nested = {k: v for k, v in section.items() if isinstance(v, dict) and v}
        flat = {prefix + k for k in section if k not in nested}
        return flat.union(*(leaves(v, f"{prefix}{k}.") for k, v in nested.items()))

    described = {key: meaning for key, _, meaning in describe()}
    assert described.keys() == leaves(to_dict(Config()))
    assert all(described.values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learningrate=3", "optim.learningrate: unknown key; did you mean optim.learning_rate?"),
        ("optim.lr=1", "optim.lr: unknown key; did you mean optim.learning_rate?"),
        ("optim.rate=1", "optim.rate: unknown key; known: optim.learning_rate, optim.final_learning_rate"),
        ("modl.name=x", "modl: unknown key; did you mean model?"),
        ("optim.learning_rate=fast", "optim.learning_rate: Value 'fast' of type 'str' could not be converted to Float"),
        ("optim.learning_rate=nan", "optim.learning_rate: nan must be at least 0"),
        ("optim.beta2=1.5", "optim.beta2: 1.5 must be at least 0 and at most 1"),
        ("train.seed=1.5", "train.seed: Value '1.5' of type 'float' could not be converted to Integer"),
        ("train.seed=-1", "train.seed: -1 must be at least 0"),
        ("train.compile=maybe", "train.compile: Value 'maybe' is not a valid bool"),
        (
            "train.precision=fp8",
            "train.precision: Invalid value 'fp8', expected one of ['auto', 'fp32', 'bf16', 'fp16']",
        ),
        ("optim=3", "optim: 3 must be a mapping of keys to values"),
        ("seed", "'seed': overrides are key=value, files end in .yaml"),
        ("eval.datasets=[1", "the value is not valid YAML; quote it"),
    ],
)
def test_a_bad_override_is_one_line_with_key_value_and_rule(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load([], [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {allow_pipes: true}", "lets shards run shell commands; write data.allow_pipes=true on"),
        ("data:\n  trian: x", "data.trian: unknown key; did you mean data.train?"),
        ("- a", "must be a mapping of keys to values"),
        ("a: [", "not valid YAML"),
        ("a: 1\na: 2", "duplicate"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load([path])
    assert message in str(caught.value)
    assert path in str(caught.value)


def test_a_missing_file_is_refused():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load(["nowhere.yaml"])

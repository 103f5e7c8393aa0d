import json
import platform
import shutil
import sys
from pathlib import Path

import pytest

from contrastive.tracking import environment, facts


def test_the_environment_names_what_a_result_may_depend_on():
    found = environment(2, "cpu", "bf16")
    assert found["world_size"] == 2
    assert found["packages"]["torch"] is not None
    assert found["host"] == platform.node()
    json.dumps(found)


def test_the_command_is_kept_without_its_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/x/pretrain.py", "data.storage.token=hunter2", "data.image_key=png"])
    assert environment(1, "cpu", "no")["command"] == ["pretrain.py", "data.storage.token=…", "data.image_key=png"]


def test_another_line_of_code_is_another_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = tmp_path / "contrastive"
    shutil.copytree(facts.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    here = facts.code_fingerprint()
    monkeypatch.setattr(facts, "PACKAGE", copy)
    assert facts.code_fingerprint() == here
    with (copy / "errors.py").open("a") as file:
        file.write("# another line\n")
    assert facts.code_fingerprint() != here

"""Planted fault: pairs of picture and caption that do not belong together, and the CLIP score that finds them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mismatched
from tests import toys

ROOT = Path(__file__).parents[2]


def glyphs(folder: Path, names: list[str]) -> Path:
    for shard in range(2):
        members = []
        for number in range(shard, len(names), 2):
            said = json.dumps({"captions": [names[number], f"bold {names[number]}"]})
            content = {"png": toys.encode(toys.image(number)), "txt": names[number].encode(), "json": said.encode()}
            members += [(f"g{number:03d}.{extension}", one) for extension, one in content.items()]
        toys.write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def held(folder: Path) -> dict[str, dict[str, bytes]]:
    return {key: one for path in sorted(folder.glob("*.tar")) for key, one in mismatched.read(path).items()}


def test_a_share_of_the_samples_gets_captions_that_others_gave_away(tmp_path: Path):
    names = [f"letter {number % 15}" for number in range(100)]
    before = held(glyphs(tmp_path / "right", names))
    wrong = mismatched.plant(tmp_path / "right", tmp_path / "wrong", 0.2)
    after = held(tmp_path / "wrong")
    assert len(wrong) == 20
    assert list(after) == list(before)
    for key, members in before.items():
        assert after[key]["png"] == members["png"]
        assert (after[key]["txt"] != members["txt"]) == (key in wrong)
        assert json.loads(after[key]["json"])["captions"][0] == after[key]["txt"].decode()
    for table in ("txt", "json"):  # nothing is lost, nothing is there twice
        assert sorted(one[table] for one in after.values()) == sorted(one[table] for one in before.values())


def test_the_same_pairs_are_mismatched_in_every_run_in_the_same_bytes(tmp_path: Path):
    source = glyphs(tmp_path / "right", [f"letter {number % 15}" for number in range(60)])
    first = mismatched.plant(source, tmp_path / "a", 0.2)
    assert mismatched.plant(source, tmp_path / "b", 0.2) == first
    for name in ("00000.tar", "00001.tar"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_part_keeps_whole_names(tmp_path: Path):
    source = glyphs(tmp_path / "right", [f"letter {number % 30}" for number in range(120)])
    mismatched.plant(source, tmp_path / "part", 0.2, part=3)
    kept = [members["txt"] for members in held(tmp_path / "part").values()]
    assert 0 < len(kept) < 120
    assert all(kept.count(name) == 4 for name in kept)


@pytest.mark.slow
def test_a_model_trained_on_mismatched_pairs_finds_them(tmp_path: Path):
    words = [sys.executable, "benchmarks/mismatched.py", "--quick", "--json", str(tmp_path / "found.json")]
    words += ["--data", str(tmp_path / "glyphs"), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["auc_noisy"] >= 0.9
    assert done.stdout.splitlines()[-1].startswith("mismatched_share=0.2 auc_noisy=0.9")

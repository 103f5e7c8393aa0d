"""The house rules that tools can hold: floors, shipped configurations, launch files."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from contrastive import config
from contrastive.eval.spec import DatasetSpec
from contrastive.models import build
from contrastive.train import task

ROOT = Path(__file__).parents[1]
RUNS = sorted((ROOT / "configs").glob("*.yaml"))
DATASETS = sorted((ROOT / "configs" / "eval").glob("*.yaml"))
LAUNCHES = sorted((ROOT / "configs" / "launch").glob("*.yaml"))


def test_imports_only_go_down_and_only_config_knows_omegaconf():
    tool = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_only_one_module_talks_to_other_processes():
    """Sharding wraps what torch offers for it, and talks through that."""
    users = {p.name for p in (ROOT / "contrastive").rglob("*.py") if "torch.distributed" in p.read_text()}
    assert users <= {"distributed.py", "sharding.py", "sharded_state.py"}


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
def test_every_shipped_run_is_accepted(path: Path):
    run = config.load([str(path)])
    build.check(run.model)
    task.check(run)
    assert all((ROOT / dataset) in DATASETS for dataset in run.eval.datasets)


@pytest.mark.parametrize("path", DATASETS, ids=lambda p: p.name)
def test_every_shipped_dataset_is_accepted_and_says_how_to_get_its_data(path: Path):
    spec = DatasetSpec.from_dict(config.read_yaml(path), str(path))
    assert spec.name == path.stem
    assert spec.hint


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda p: p.name)
def test_every_launch_file_is_one_that_accelerate_reads(path: Path):
    launch = load_config_from_file(str(path))
    content = yaml.safe_load(path.read_text())
    assert launch.num_processes == content["num_processes"]
    # accelerate 1.15 starts one process for MULTI_CPU, whatever it is told.
    assert content["distributed_type"] == ("NO" if content["num_processes"] == 1 else "MULTI_GPU")


def test_there_is_something_to_check():
    assert RUNS
    assert DATASETS
    assert LAUNCHES

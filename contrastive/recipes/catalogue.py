"""What the files of data_recipes/ share: steps of exact commands, which can be shown, run one by one, and checked."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from contrastive.errors import DataError, UserError

Commands: TypeAlias = Callable[[Sequence[str]], int]  # `contrastive …` in this process: contrastive.cli.main
VERIFIED = 20_000  # samples that `verify` decodes: 1 % of damage is found for certain, and it takes a minute


@dataclass(frozen=True)
class Action:
    """One command of a step. `line` is what --dry-run shows; `run` returns its exit status.

    With `is_finding` a status of 1 is what it found: the rest still happens, and the recipe ends with that status.
    """

    line: str
    run: Callable[[], int]
    is_finding: bool = False


Steps: TypeAlias = Mapping[str, Callable[[], Sequence[Action]]]  # by name, in their order; made when they are reached


def program(*words: str) -> Action:
    """Return an action that runs a program, looked for beside this Python first, and shows what it says."""

    def run() -> int:
        beside = Path(sys.executable).parent / words[0]
        found = str(beside) if beside.is_file() else shutil.which(words[0])
        if found is None:
            raise DataError(f"{words[0]}: no such program; install it, or run the line yourself: {shlex.join(words)}")
        return subprocess.run([found, *words[1:]], check=False).returncode  # noqa: S603  (the recipe's own words)

    return Action(shlex.join(words), run)


def ours(commands: Commands, *words: str, is_finding: bool = False) -> Action:
    """Return an action that runs `contrastive WORDS` in this process."""
    return Action(shlex.join(["contrastive", *words]), lambda: commands(words), is_finding)


def work(line: str, done: Callable[[], str | None]) -> Action:
    """Return an action of the recipe itself; what it returns is said."""

    def run() -> int:
        said = done()
        if said:
            say(said)
        return 0

    return Action(f"# {line}", run)


def unzip(archive: Path, folder: Path) -> Action:
    """Return an action that unpacks a zip, unless its files are there."""
    action = program(sys.executable, "-m", "zipfile", "-e", str(archive), str(folder))
    return Action(action.line, lambda: 0 if _is_unpacked(archive, folder) else action.run())


def _is_unpacked(archive: Path, folder: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as held:
            return all((folder / one.filename).stat().st_size == one.file_size for one in held.infolist()
                       if not one.is_dir())  # fmt: skip
    except (OSError, zipfile.BadZipFile):
        return False  # the program says what is wrong


def fetch(url: str, path: Path) -> Action:
    """Return an action that downloads a file unless it is there, and goes on where an earlier try stopped."""
    part = path.with_name(path.name + ".part")  # servers answer with an error when a whole file is to be continued
    words = ["curl", "--fail", "--location", "--retry", "5", "--continue-at", "-", "--create-dirs"]
    action = program(*words, "--output", str(part), url)

    def run() -> int:
        status = 0 if path.exists() else action.run()
        if not status and part.exists():
            part.replace(path)
        return status

    return Action(f"{action.line} && {shlex.join(['mv', str(part), str(path)])}", run)


def hub_fetch(repository: str, patterns: Sequence[str], folder: Path) -> Action:
    """Return an action that downloads files of a dataset of the Hugging Face hub."""
    includes = [word for pattern in patterns for word in ("--include", pattern)]
    return program("hf", "download", repository, "--repo-type", "dataset", *includes, "--local-dir", str(folder))


def say(text: str) -> None:
    """Show a line on the standard output."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def recipe_parser(about: str | None, out: str) -> argparse.ArgumentParser:
    """Return a parser of the options that every recipe has; `steps` are added by `add_steps`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help=f"default: {out}")
    parser.add_argument("--dry-run", action="store_true", help="show the exact commands, and run nothing")
    return parser


def add_steps(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Declare `--step`, which may be given several times."""
    parser.add_argument(
        "--step", choices=names, action="append", default=[], help="one of them; default: all, in order"
    )


def follow(steps: Steps, chosen: Sequence[str], is_dry: bool) -> int:
    """Run the chosen steps, or all; return the exit status: that of a command that failed, or 1 for a finding.

    Raises:
        UserError: a step cannot be done.
    """
    worst = 0
    for name, actions in steps.items():
        if chosen and name not in chosen:
            continue
        say(f"== {name}")
        for action in actions():
            say(action.line)
            status = 0 if is_dry else action.run()
            if status and not (action.is_finding and status == 1):
                say(f"{name}: ended with status {status}; mend what it says, and run --step {name} again")
                return status
            worst = max(worst, status)
    return worst


def guarded(run: Callable[[], int]) -> int:
    """Return what a recipe returns, or 2 after one line that says what the user has to mend."""
    try:
        return run()
    except UserError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.status


def samples_in(folder: Path) -> int:
    """Return how many samples the indexed shards below a folder hold, by their sizes.json.

    Raises:
        DataError: there are none, or one is damaged.
    """
    total, found = 0, sorted(folder.rglob("sizes.json"))
    for path in found:
        try:
            sizes = json.loads(path.read_text(encoding="utf-8"))
            total += sum(int(size) for name, size in sizes.items() if (path.parent / name).exists())
        except (OSError, ValueError, TypeError, AttributeError):
            raise DataError(f"{path}: cannot be read; run contrastive data index {path.parent}") from None
    if not found:
        raise DataError(f"{folder}: holds no indexed shards; run the step pack first")
    return total


def counted(folder: Path, expected: int, of: str, at_least: float) -> Action:
    """Return an action that compares the samples of shards with what is expected: a share of so many."""

    def run() -> int:
        samples = samples_in(folder)
        share = samples / expected
        say(f"{folder}: {samples:,} samples, {share:.1%} of {expected:,} {of}")
        if share >= at_least:
            return 0
        say(f"{folder}: fewer than {at_least:.0%}; see which rows failed, and why, before you train")
        return 1

    return Action(f"# count the samples of {folder}: at least {at_least:.0%} of {expected:,} {of}", run, True)


def verifying(commands: Commands, folder: Path, sample: int = VERIFIED) -> Action:
    """Return an action that decodes samples of shards."""
    return ours(commands, "data", "verify", str(folder), "--sample", str(sample), is_finding=True)


def split_folders(shards: Path) -> list[Path]:
    """Return the folders of packed shards: one for each split, or the folder itself."""
    splits = sorted({path.parent for path in shards.glob("*/*.tar")})
    return splits or [shards]

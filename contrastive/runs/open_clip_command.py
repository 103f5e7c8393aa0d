"""An open_clip training command as a person types it: its launcher's words, and its flags as open_clip reads them."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, NoReturn

from open_clip_train.params import parse_args  # type: ignore[import-untyped]

from contrastive.errors import ConfigError
from contrastive.registry import suggest

MODULES = ("open_clip_train.main", "training.main")  # the trainer, and its name until 2024
SCRIPT = re.compile(r"(.*/)?(open_clip_train|training)/main\.py")
SHELL = re.compile(r"\d?&?>|\||&|;")  # what follows is no longer the trainer's
ASK = "say how many processes train with --processes N"
_UNSET = object()


@dataclass(frozen=True)
class Command:
    """`flags` are as open_clip's trainer has them, `given` names those of them that the command line says.

    `options` has the spelling of every flag by its name; `launched` says where the number of `processes` comes from.
    """

    flags: argparse.Namespace
    given: frozenset[str]
    options: Mapping[str, str]
    processes: int
    launched: str
    text: str = ""

    @property
    def batch(self) -> int:
        """Samples of one step of the optimizer, over all processes."""
        return int(self.flags.batch_size * self.processes * self.flags.accum_freq)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-int(self.flags.train_num_samples) // self.batch)

    def said(self, name: str) -> str:
        """Return a flag with its value, and whether open_clip decided it."""
        value = getattr(self.flags, name)
        words = [self.options[name]]
        if isinstance(value, Mapping):
            words += [f"{key}={one}" for key, one in value.items()]
        elif not isinstance(value, bool):
            words += map(str, value) if isinstance(value, (list, tuple)) else [str(value)]
        text = " ".join(words)
        text = text if len(text) <= 60 else text[:57] + "…"
        return text if name in self.given else f"{text} (open_clip's default)"


def read(text: str, processes: int | None = None) -> Command:
    """Return what a command line says; its flags alone will do.

    Raises:
        ConfigError: quotes do not end, there is no trainer in it, a flag that open_clip does not know or refuses, or
            the number of processes is neither given nor said.
    """
    launcher, flags = _parts(_words(text))
    parser, found = _parsed(flags)
    if processes is not None and processes < 1:
        raise ConfigError(f"--processes: {processes} must be at least 1")
    count, launched = _processes(launcher) if processes is None else (processes, f"--processes {processes}")
    options = {name: spellings[0] for name, spellings in parser.spellings.items()}
    return Command(found, frozenset(parser.given), options, count, launched, " ".join([*launcher, *flags]))


def parser() -> "FlagParser":
    """Return open_clip's own parser with all of its flags."""
    return _parsed(())[0]


class FlagParser(argparse.ArgumentParser):
    """open_clip's parser, which also knows what was given, and refuses as we do."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.spellings: dict[str, list[str]] = {}
        self.given: dict[str, Any] = {}
        super().__init__(*arguments, **{**options, "add_help": False})

    def add_argument(self, *arguments: Any, **options: Any) -> argparse.Action:
        """Add a flag as argparse does, and remember its name and spellings."""
        action = super().add_argument(*arguments, **options)
        self.spellings[action.dest] = list(action.option_strings)
        return action

    def parse_args(self, args: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Return the flags with their defaults.

        Raises:
            ConfigError: one is unknown or has a value that it does not take.
        """
        try:
            found, unknown = self.parse_known_args(args, argparse.Namespace(**dict.fromkeys(self.spellings, _UNSET)))
        except ValueError as error:  # of open_clip's own reading of KEY=VALUE
            raise ConfigError(f"--aug-cfg: must be KEY=VALUE …: {error}") from error
        for word in unknown:
            self._refuse(word)
        self.given = {name: value for name, value in vars(found).items() if value is not _UNSET}
        filled = {name: self.given.get(name, self.get_default(name)) for name in self.spellings}
        return argparse.Namespace(**filled)

    def error(self, message: str) -> NoReturn:
        """Refuse.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(message.removeprefix("argument "))

    def _refuse(self, word: str) -> NoReturn:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            raise ConfigError(f"{word!r}: belongs to no flag of open_clip; is a quote or a flag missing before it?")
        known = [spelling for spellings in self.spellings.values() for spelling in spellings]
        raise ConfigError(f"{name}: open_clip's trainer has no such flag{suggest(name, known).split('; known')[0]}")


def _parsed(flags: Sequence[str]) -> tuple[FlagParser, argparse.Namespace]:
    """Return open_clip's parser and what it makes of flags.

    It is made inside a function that parses at once; a copy of that function which sees another argparse hands it over.
    """
    made: list[FlagParser] = []

    def make(*arguments: Any, **options: Any) -> FlagParser:
        made.append(FlagParser(*arguments, **options))
        return made[-1]

    names = {**parse_args.__globals__, "argparse": SimpleNamespace(ArgumentParser=make)}
    found = FunctionType(parse_args.__code__, names)(list(flags))
    return made[0], found


def _words(text: str) -> list[str]:
    joined = text.replace("\\\n", " ").replace("\\\r\n", " ")
    joined = re.sub(r"^\s*#SBATCH\s", "SBATCH ", joined, flags=re.MULTILINE)
    try:
        return shlex.split(joined, comments=True)
    except ValueError as error:
        raise ConfigError(f"the command line: {str(error).lower()}; a quote is opened and not closed") from error


def _parts(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before the trainer and its flags."""
    place = next((i for i, word in enumerate(words) if word in MODULES or SCRIPT.fullmatch(word)), None)
    if place is None and not (words and words[0].startswith("--")):
        rule = "give a command of open_clip_train.main, or its flags alone"
        raise ConfigError(f"the command line: trains nothing: {rule}")
    launcher = [] if place is None else list(words[: place + 1])
    flags = list(words) if place is None else list(words[place + 1 :])
    end = next((i for i, word in enumerate(flags) if SHELL.match(word)), len(flags))
    return launcher, [word for word in flags[:end] if word != "--"]


@dataclass(frozen=True)
class _Launcher:
    """A program that starts processes: as many as `total` says, or the product of what each of `words` says."""

    program: str
    words: Sequence[Sequence[str]]
    needs_one: bool = False
    total: Sequence[str] = field(default=())


LAUNCHERS = (  # the first that stands in a command decides: srun may start torchrun
    _Launcher("torchrun", [("--nproc_per_node", "--nproc-per-node"), ("--nnodes",)]),
    _Launcher("distributed.run", [("--nproc_per_node", "--nproc-per-node"), ("--nnodes",)]),
    _Launcher("distributed.launch", [("--nproc_per_node", "--nproc-per-node"), ("--nnodes",)]),
    _Launcher("accelerate", [("--num_processes", "--num-processes")], needs_one=True),
    _Launcher("horovodrun", [("-np", "--num-proc")], needs_one=True),
    _Launcher("mpirun", [("-np", "-n")], needs_one=True),
    _Launcher("mpiexec", [("-np", "-n")], needs_one=True),
    _Launcher("srun", [("--nodes", "-N"), ("--ntasks-per-node",)], needs_one=True, total=("--ntasks", "-n")),
)


def _processes(words: Sequence[str]) -> tuple[int, str]:
    programs = {Path(word).name.removeprefix("torch.") for word in words}
    for launcher in LAUNCHERS:
        if launcher.program in programs:
            return _count(launcher, words)
    return 1, "no launcher is in the command line"


def _count(launcher: _Launcher, words: Sequence[str]) -> tuple[int, str]:
    total = _value(words, launcher.total)
    found = [total] if total else [one for one in (_value(words, names) for names in launcher.words) if one]
    if launcher.needs_one and not found:
        raise ConfigError(f"{launcher.program}: the command line does not say how many processes it starts; {ASK}")
    count = 1
    for name, value in found:
        if not value.isdecimal() or not int(value):
            raise ConfigError(f"{name} {value}: is no number of processes; {ASK}")
        count *= int(value)
    return count, " ".join([launcher.program, *(f"{name} {value}" for name, value in found)])


def _value(words: Sequence[str], names: Sequence[str]) -> tuple[str, str] | None:
    """Return the last of these options with its value."""
    found = None
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            found = (name, value if equals else after)
    return found

"""Recipes of datasets that are lists of addresses: list, download, pack, verify; see data_recipes/."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from contrastive.errors import DataError
from contrastive.recipes.catalogue import (
    Action,
    Commands,
    Steps,
    add_steps,
    counted,
    follow,
    guarded,
    hub_fetch,
    ours,
    program,
    recipe_parser,
    verifying,
    work,
)
from contrastive.recipes.downloads import (
    Download,
    claim,
    environment_commands,
    fetched,
    forget_shards,
    img2dataset_command,
    move_finished,
)
from contrastive.recipes.url_lists import Condition, Item, known_list, listed_columns, write_list
from contrastive.tracking import CountLine

STEPS = ("list", "download", "pack", "verify")


@dataclass(frozen=True)
class WebList:
    """A published list of images on the web.

    `samples` is its published number of rows, `files` patterns of its files within a folder, `read` what yields
    their rows. `get` returns the actions that download it into a folder, none where that takes a browser; `where_from`
    says so. `hub` is a repository of ready shards and the pattern of its tars. `in_place`: the downloaded tars are used
    as they are, for disks that do not hold them twice. `at_least`: the share of the rows below which links have rotted
    more than was seen so far. `detail` is whatever else decides which rows `read` yields.
    """

    name: str
    samples: int
    files: tuple[str, ...]
    read: Callable[[Sequence[Path]], Iterator[Item]]
    where_from: str
    get: Callable[[Path], Sequence[Action]] | None = None
    hub: tuple[str, str] | None = None
    download: Download = Download()
    in_place: bool = False
    at_least: float = 0.5
    detail: str = ""


def run_web_list(recipe: WebList, about: str | None, arguments: Sequence[str] | None, commands: Commands) -> int:
    """Run a recipe by its command line; return the exit status."""
    options = _parser(recipe, about).parse_args(arguments)
    return guarded(lambda: follow(_Run(recipe, options, commands).steps(), options.step, options.dry_run))


def _parser(recipe: WebList, about: str | None) -> argparse.ArgumentParser:
    parser = recipe_parser(about, f"data/{recipe.name}")
    add_steps(parser, STEPS)
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="the list: a file, or a folder; default: OUT/source"
    )
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN>=VALUE", help="list only these rows")
    parser.add_argument("--limit", type=int, metavar="N", help="list only the first N rows: for a try")
    size = recipe.download.size
    parser.add_argument(
        "--size", type=int, default=size, metavar="PIXELS", help=f"{size}; 0 keeps all bytes as they are"
    )
    parser.add_argument("--processes", type=int, default=recipe.download.processes, metavar="N", help="that download")
    parser.add_argument("--threads", type=int, default=recipe.download.threads, metavar="N", help="of each process")
    parser.add_argument("--img2dataset", metavar="PROGRAM", help="default: installed beside OUT, in a venv of its own")
    parser.add_argument("--retry-below", type=float, metavar="SHARE", help="download again shards with fewer successes")
    parser.add_argument("--allow-partial", action="store_true", help="pack although shards are still to be downloaded")
    if recipe.download.hashes:
        parser.add_argument(
            "--verify-hash", action="store_true", help="leave out images that are not those of the list"
        )
    if recipe.hub:
        parser.add_argument(
            "--from", dest="origin", choices=("web", "hub"), default="web", help=f"hub: {recipe.hub[0]}"
        )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--in-place", action="store_true", default=recipe.in_place, help="use the downloaded tars")
    where.add_argument("--repack", dest="in_place", action="store_false", help="write equal, shuffled tars")
    return parser


class _Run:
    """The steps of a recipe with the options of one call."""

    def __init__(self, recipe: WebList, options: argparse.Namespace, commands: Commands) -> None:
        self.recipe, self.options, self.commands = recipe, options, commands
        self.out: Path = options.out
        self.list, self.images, self.shards = self.out / "list", self.out / "download", self.out / "shards"
        self.source: Path = options.source or self.out / "source"

    def steps(self) -> Steps:
        """Return the steps by name."""
        if getattr(self.options, "origin", "web") == "hub":
            return {"download": self._from_hub, "verify": self._verify_hub}
        return {"list": self._list, "download": self._download, "pack": self._pack, "verify": self._verify}

    def _list(self) -> list[Action]:
        here = self.options.source is None and not self._files()
        get = list(self.recipe.get(self.source)) if here and self.recipe.get else []
        return [
            *get,
            work(f"write {self.list}/*.parquet, what img2dataset reads, from {self.source}", self._write_list),
        ]

    def _files(self) -> list[Path]:
        return (
            [self.source]
            if self.source.is_file()
            else sorted({path for pattern in self.recipe.files for path in self.source.rglob(pattern)})
        )

    def _write_list(self) -> str:
        paths = self._files()
        if not paths:
            raise DataError(
                f"--source {self.source}: holds no {' or '.join(self.recipe.files)}; {self.recipe.where_from}"
            )
        sizes = [[path.name, path.stat().st_size] for path in paths]
        identity = {"dataset": self.recipe.name, "source": sizes, "detail": self.recipe.detail}
        where = [Condition.parse(text) for text in self.options.where]
        with CountLine("listing rows") as line:
            progress = partial(_told, line, self.options.limit or self.recipe.samples)
            rows = self.recipe.read(paths)
            listed = write_list(self.list, rows, identity, where=where, limit=self.options.limit, progress=progress)
        said = f"{listed}, of {self.recipe.samples:,} that were published"
        return f"{said}; rejected rows: {self.list / 'rejected.jsonl'}" if listed.rejected else said

    def _download(self) -> list[Action]:
        given = self.options.img2dataset
        name, made = (given, []) if given else environment_commands(self.out.parent)
        how = self._how()
        begin = work(f"make {self.images}", partial(self._begin, how))
        command = program(*img2dataset_command(name, self.list, self.images, how))
        return [*(program(*words) for words in made), begin, command, work("say what came", self._fetched)]

    def _how(self) -> Download:
        """Return how to download, with the columns that this list has."""
        how = replace(
            self.recipe.download,
            size=self.options.size or None,
            processes=self.options.processes,
            threads=self.options.threads,
            hashes=self.recipe.download.hashes if getattr(self.options, "verify_hash", False) else None,
        )
        if self.options.dry_run and not self.list.exists():
            return how
        present = listed_columns(self.list)
        for option, column in (("--verify-hash", how.hashes), ("blurring faces", how.boxes)):
            if column is not None and column not in present:
                raise DataError(
                    f"{self.list}: has no column {column}, which {option} needs; it has {', '.join(present)}"
                )
        return replace(how, columns=tuple(column for column in how.columns if column in present))

    def _begin(self, how: Download) -> str | None:
        listed = (self.list / "manifest.json").read_text(encoding="utf-8")
        claim(self.images, {"list": listed, "size": how.size, "hashes": how.hashes})
        if self.options.retry_below is not None:
            return f"{forget_shards(self.images, self.options.retry_below):,} shards are downloaded again"
        return None

    def _fetched(self) -> str:
        found, listed = fetched(self.images), known_list(self.list)
        if not found.successes:
            raise DataError(f"{self.images}: nothing came ({found}); is there a network?")
        return f"{found}; {listed.rows - found.tried:,} of {listed.rows:,} rows are still to be tried"

    def _pack(self) -> list[Action]:
        check = work(f"see that all rows of {self.list} were tried", self._finished)
        if self.options.in_place:
            move = work(f"move {self.images}/*.tar to {self.shards}", self._move)
            return [check, move, ours(self.commands, "data", "index", str(self.shards))]
        words = ["data", "pack", str(self.images), "--from", "shards", "--out", str(self.shards)]
        return [check, ours(self.commands, *words)]

    def _finished(self) -> None:
        found, listed = fetched(self.images), known_list(self.list)
        if found.tried < listed.rows and not self.options.allow_partial:
            left = f"{listed.rows - found.tried:,} of {listed.rows:,} rows are still to be tried"
            raise DataError(f"{self.images}: {left}; run --step download again, or give --allow-partial")

    def _move(self) -> str:
        return f"{move_finished(self.images, self.shards):,} tars moved"

    def _verify(self) -> list[Action]:
        if self.options.dry_run and not self.list.exists():
            expected = self.options.limit or self.recipe.samples
        else:
            expected = known_list(self.list).rows
        check = counted(self.shards, expected, "listed rows", self.recipe.at_least)
        return [verifying(self.commands, self.shards), check]

    def _from_hub(self) -> list[Action]:
        assert self.recipe.hub is not None  # else there is no such option
        repository, pattern = self.recipe.hub
        return [hub_fetch(repository, [pattern], self.shards), ours(self.commands, "data", "index", str(self.shards))]

    def _verify_hub(self) -> list[Action]:
        check = counted(self.shards, self.recipe.samples, "published rows", self.recipe.at_least)
        return [verifying(self.commands, self.shards), check]


def _told(line: CountLine, total: int, done: int) -> None:
    line(done, max(done, total))

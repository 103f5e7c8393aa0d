"""Where shards lie: from what a user writes to a list of locations."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import braceexpand
import fsspec

from contrastive.data.sidecars import is_sidecar
from contrastive.errors import DataError

log = logging.getLogger("contrastive")
SUFFIXES = ("*.tar", "*.tar.gz", "*.tgz")
PIPE, FILE = "pipe:", "file://"
HTTP = ("http", "https")  # read through the standard library; fsspec needs aiohttp to list them only
MOST = 1_000_000  # shards of one brace pattern; {0..999999999} is a slip, and would fill the memory
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")


def expand(
    spec: str | Sequence[str], setting: str = "data.train", *, allow_pipes: bool = False, skip_missing: bool = False
) -> list[str]:
    """Return the locations that a path, directory, glob, brace pattern, URL or `pipe:` command names.

    Several may be joined by `::` or given as a list. A location is a path, a URL that fsspec opens, or a shell command
    behind `pipe:`. With `skip_missing` files that do not exist are left out, with a warning.

    Raises:
        DataError: a part names nothing, a missing file or an unknown kind of URL; a shard stands twice; or a part is a
            shell command and `allow_pipes` is off.
    """
    joined = "::".join([spec] if isinstance(spec, str) else spec)
    found: list[str] = []
    for part in filter(None, (one.strip() for one in joined.split("::"))):
        if part.lower().startswith(PIPE):
            found += _pipes(part, setting, allow_pipes)
        elif "://" in part and not part.startswith(FILE):
            found += _urls(part, setting)
        else:
            found += _files(os.path.expanduser(part.removeprefix(FILE)), setting, skip_missing)
    if not found:
        raise DataError(
            f"{setting}: names no shards; give a path, a directory, a glob or a brace pattern of .tar files"
        )
    _refuse_doubles(found, setting)
    return found


def _refuse_doubles(locations: Sequence[str], setting: str) -> None:
    places = Counter(one if "://" in one or one.startswith(PIPE) else os.path.abspath(one) for one in locations)
    place, count = places.most_common(1)[0]
    if count > 1:
        raise DataError(f"{setting}: names {place} twice; to see its samples more often, give a source a weight")


def _braces(part: str, setting: str) -> list[str]:
    widest = max((abs(int(first) - int(last)) for first, last in RANGE.findall(part)), default=0)
    try:
        names = list(islice(braceexpand.braceexpand(part), MOST + 1)) if widest <= MOST else []
    except ValueError as error:
        raise DataError(f"{setting}: {part!r} opens a brace and does not close it, or the other way round") from error
    if max(len(names), widest) > MOST:
        raise DataError(f"{setting}: {part!r} names more than {MOST:,} shards; is a bound wrong?")
    return names


def _pipes(part: str, setting: str, allow_pipes: bool) -> list[str]:
    if not allow_pipes:
        rule = "would run a shell command; if you trust it, allow it with data.allow_pipes=true on the command line"
        raise DataError(f"{setting}: {part!r} {rule}")
    return [PIPE + command for command in _braces(part[len(PIPE) :], setting)]


def _urls(part: str, setting: str) -> list[str]:
    scheme = part.partition("://")[0]
    try:
        if scheme.lower() not in HTTP:
            fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise DataError(f"{setting}: {part}: {scheme}:// cannot be read here: {_line(error)}") from error
    return [place for name in _braces(part, setting) for place in _listed(name, setting)]


def _listed(url: str, setting: str) -> list[str]:
    """Return what a pattern or a folder (`…/`) behind a URL holds; any other URL is taken as it is."""
    patterns = [url + suffix for suffix in SUFFIXES] if url.endswith("/") else [url]
    if not glob.has_magic(patterns[0].partition("?")[0]):  # in a URL, ? begins the query
        return [url]
    try:
        system = fsspec.core.url_to_fs(url)[0]
        hits = {hit for pattern in patterns for hit in system.glob(fsspec.core.url_to_fs(pattern)[1])}
        found = [str(system.unstrip_protocol(hit)) for hit in sorted(hits) if not is_sidecar(hit)]
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{setting}: {url} cannot be listed: {_line(error)}") from error
    if not found:
        raise DataError(f"{setting}: {url} names no shard")
    return found


def _files(part: str, setting: str, skip_missing: bool) -> list[str]:
    paths = [path for name in _literal_or_braces(part, setting) for path in _matches(name, setting)]
    missing = [path for path in paths if not os.path.exists(path)]
    if len(missing) < len(paths) and missing and skip_missing:
        log.warning(
            "%s: %s does not exist (%d of %d shards are missing)", setting, missing[0], len(missing), len(paths)
        )
        gone = set(missing)
        return [path for path in paths if path not in gone]
    if missing or not paths:
        count = f" ({len(missing)} of {len(paths)} shards are missing)" if len(paths) > 1 else ""
        raise DataError(f"{setting}: {missing[0] if missing else part} does not exist{count}")
    return paths


def _literal_or_braces(part: str, setting: str) -> list[str]:
    return [part] if os.path.exists(part) else _braces(part, setting)  # some names hold braces


def _matches(name: str, setting: str) -> list[str]:
    """Return what a path, directory or glob stands for; a plain path may not exist."""
    hits = sorted(glob.glob(name)) if glob.has_magic(name) and not os.path.exists(name) else [name]
    return [path for hit in hits if not is_sidecar(hit) for path in _tars(hit, setting)]


def _tars(path: str, setting: str) -> list[str]:
    if not os.path.isdir(path):
        return [str(Path(path))]
    found = sorted(str(one) for suffix in SUFFIXES for one in Path(path).glob(suffix))
    if not found:
        raise DataError(f"{setting}: the directory {path} holds no .tar file")
    return found


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

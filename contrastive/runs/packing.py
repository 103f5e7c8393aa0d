"""`contrastive data pack`: any source to shards, with a report of what was packed and what was not."""

import glob
import hashlib
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from contrastive import registry
from contrastive.data.sidecars import is_sidecar
from contrastive.recipes.forms.detect import detect
from contrastive.recipes.packing.pack import Packing, pack
from contrastive.recipes.records import Form, Record, Rejected
from contrastive.runs import steps
from contrastive.runs.opening import write_figures
from contrastive.runs.packing_report import figures, report

RANGE = 1 << 18  # bytes of a URL that are fetched at once where samples are read in any order


@dataclass(frozen=True)
class Request:
    """What is to be packed: `form` None is told from the source, `options` are the words KEY=VALUE of its form."""

    source: str
    out: Path
    how: Packing
    form: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    engine: str = "local"
    processes: int | None = None
    restart: bool = False
    json: Path | None = None


def pack_source(request: Request) -> int:
    """Pack a source, leave a report beside its shards, and return 0.

    Raises:
        ConfigError: an option of the form cannot be used.
        DataError: see `contrastive.recipes.packing.pack.pack`.
    """
    name = request.form or detect(request.source)
    options = _typed(name, request.options)
    form: Form = registry.build(registry.PACK_FORMS, {"name": name, **options}, "pack", source=request.source)
    how, is_url = request.how, "://" in request.source
    if is_url and how.seed is not None:
        how = replace(how, storage=replace(how.storage, chunk_bytes=RANGE))
    source = request.source if is_url else os.path.normpath(request.source)
    with steps.open_engine(request.engine, request.processes) as engine:
        packed = pack(
            _rows(form),
            request.out,
            how,
            engine,
            identity={"source": source, "form": name, "options": options},
            state=partial(state_of, request.source, request.out.expanduser().resolve()),
            restart=request.restart,
        )
    report(packed, f"{request.source} as {name}")
    write_figures(request.json, figures(packed))
    return 0


def state_of(source: str, out: Path) -> str:
    """Return a digest of what a source looks like: names, sizes and times of its files, and of the folders in it.

    Of what lies deeper only its folder's time is seen, and of URLs nothing. `out` is no part of it, nor are sidecars,
    which reading writes.
    """
    digest = hashlib.blake2b(digest_size=16)
    path = os.path.expanduser(source)
    hits = sorted(glob.glob(path)) if glob.has_magic(path) and not os.path.exists(path) else [path]
    for hit in hits:
        if os.path.isdir(hit):
            names = sorted(name for name in os.listdir(hit) if not name.startswith(".") and not is_sidecar(name))
            below = [f"{hit}/{name}" for name in names if Path(hit, name).resolve() != out]
        else:
            below = [hit]
        for one in below:
            if os.path.exists(one):
                found = os.stat(one)
                size = 0 if os.path.isdir(one) else found.st_size
                digest.update(f"{os.path.basename(one)!r} {size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _rows(form: Form) -> Iterator[Record | Rejected]:
    """Yield the rows of a form, which begins to read them when somebody asks for the first."""
    yield from form.records()


def _typed(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a form's options: as YAML, but a text where the option takes a text and no number."""
    part = registry.find(registry.PACK_FORMS, name, "--from")
    hints = typing.get_type_hints(part.__init__)
    return {key: _value(text, hints.get(key, Any)) for key, text in options.items()}


def _value(text: str, hint: Any) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:  # a comma or a tab, which are delimiters
        return text
    if value is None:
        return None if text in ("null", "~", "None") else text
    kinds = typing.get_args(hint) or (hint,)
    is_plain = not isinstance(value, str) or text[:1] not in "'\""
    return text if str in kinds and is_plain and type(value) not in set(kinds) - {str} else value

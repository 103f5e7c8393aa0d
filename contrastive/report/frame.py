"""The frame of every page: one file that loads nothing and runs nothing."""

import json
from importlib.resources import files
from pathlib import Path

from contrastive.errors import RunError
from contrastive.files import write_whole
from contrastive.report.markup import Markup, tag

# The page needs no script and no network; the policy makes a browser enforce it even if escaping had a hole.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, *sections: Markup | None) -> str:
    """Return the text of a page that says `title` in the browser's tab."""
    style = Markup(files("contrastive.report").joinpath("style.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        Markup(f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        tag("style", style),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", tag("main", *sections)), lang="en") + "\n"


def disclosed(title: str, content: object) -> Markup | None:
    """Return text, or values as JSON, behind a title to be opened; None where there is nothing."""
    if not content:
        return None
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False)
    return tag("details", tag("summary", title), tag("pre", text))


def write_page(path: Path, content: str) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises:
        RunError: it cannot be written.
    """
    try:
        write_whole(path, content.encode(errors="replace").decode())  # half a surrogate pair is no text
    except OSError as error:
        raise RunError(f"report: {str(path)!r} cannot be written ({error}): free or unlock the directory") from error
    return path

"""An export as a repository of the hub of Hugging Face, where the user asks for it. Nothing there is ever deleted."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # theirs, listed nowhere

from contrastive.errors import ConfigError, RunError
from contrastive.export.folder import RECORD

# What the hub's client lets through of its HTTP library, which is httpx or httpx2 by version: no server answers.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
ANYBODYS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", ".gitattributes", ".gitignore")
TOKENS = "https://huggingface.co/settings/tokens"
NAMED = 5  # files in a message
MOST_SAID = 300  # characters of an answer: the hub lists all the licences it knows


@dataclass(frozen=True)
class Pushed:
    """Where an export is to be had.

    `replaced`: files that were there before, whose history the repository keeps. `left`: files of an earlier export
    that this one has not, and that are still there.
    """

    url: str
    replaced: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def check_push(repo: str) -> None:
    """Refuse what cannot be pushed, before any work; nothing is asked of the network.

    Raises:
        ConfigError: `repo` is no ORG/NAME, nobody is logged in, or the hub is switched off.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--push {repo}: {_first_line(error)}; give ORG/NAME") from None
    if "/" not in repo:
        raise ConfigError(f"--push {repo}: names no owner; give ORG/NAME, where ORG may be your user name")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            f"--push {repo}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it, or leave --push out"
        )
    if get_token() is None:
        raise ConfigError(f"--push {repo}: nobody is logged in; run hf auth login, or set HF_TOKEN")


def push(folder: Path, repo: str, private: bool, message: str) -> Pushed:
    """Upload an export as a new commit of the model repository `repo`, which is made where there is none.

    A repository that holds an earlier export to the same format gets this one on top; one that holds anything else is
    left alone. `folder` stays as it is, whatever happens.

    Raises:
        RunError: it could not be uploaded, and why; the message says where the export is and how to upload it later.
    """
    with _explained(folder, repo):
        api = HfApi(token=get_token())
        present = _present(api, folder, repo, private)
        # None: as the owner's settings have it, which may keep everything private.
        url = str(api.create_repo(repo, private=private or None, repo_type="model", exist_ok=True))
        api.upload_folder(folder_path=folder, repo_id=repo, repo_type="model", commit_message=message)
    own = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    replaced = sorted(own & present - {".gitattributes"})
    return Pushed(url, tuple(replaced), tuple(sorted(present - own - set(ANYBODYS))))


def _present(api: HfApi, folder: Path, repo: str, private: bool) -> set[str]:
    """Return the files of the repository, none where there is no such one yet.

    Raises:
        RunError: it holds something that an export of this format does not follow on, or everybody can read it.
    """
    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return set()  # or one that this token may not see: making it says which
    if private and not info.private:
        raise RunError(
            "it is public already, and --private was given; make it private on the hub, or take another name"
        )
    files = {sibling.rfilename for sibling in info.siblings or ()}
    if foreign := sorted(files - set(ANYBODYS)):
        _check_follows(api, folder, repo, foreign)
    return files


def _check_follows(api: HfApi, folder: Path, repo: str, files: list[str]) -> None:
    """Refuse a repository that holds something else than an export to the same format."""
    if RECORD not in files:
        named = ", ".join(files[:NAMED]) + (", …" if len(files) > NAMED else "")
        raise RunError(f"it holds files of another origin ({named}); give the name of a new repository")
    with TemporaryDirectory() as scratch:
        there = _format(Path(api.hf_hub_download(repo, RECORD, local_dir=scratch)))
    ours = _format(folder / RECORD)
    if there != ours:
        raise RunError(f"it holds an export to {there}, this one is to {ours}; give the name of another repository")


def _format(path: Path) -> str:
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    return str(content.get("format")) if isinstance(content, dict) else "?"


@contextmanager
def _explained(folder: Path, repo: str) -> Iterator[None]:
    """Turn whatever the hub and the way to it answer into one line, with what to do."""
    try:
        yield
    except (RunError, OSError, ValueError, RuntimeError, HTTP_ERROR) as error:
        later = f"the export is whole in {folder}; later: hf upload {repo} {folder}"
        raise RunError(f"--push {repo}: {_reason(error)}; {later}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, HfHubHTTPError):
        return _refusal(error)
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading FILE"
        return f"{_first_line(error)} {_reason(error.__cause__)}"
    if isinstance(error, HTTP_ERROR):
        return f"{constants.ENDPOINT} does not answer ({_first_line(error)})"
    if isinstance(error, ValueError):  # a head of the card that the hub refuses: the second line says what of it
        return " ".join(str(error).split())[:MOST_SAID]
    return _first_line(error)


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = _first_line(error.server_message) if error.server_message else ""
    if status == 401:
        return "the hub does not know the token; run hf auth login"
    if status == 403 or isinstance(error, RepositoryNotFoundError):  # a repository that one may not see
        return f"the token may not write there{f' ({said})' if said else ''}; take one with write access from {TOKENS}"
    return f"the hub answered {status}{f': {said}' if said else ''}"


def _first_line(said: object) -> str:
    return (str(said).strip() or repr(said)).splitlines()[0].rstrip(". ")

"""Text files of one entry a line, as class names, templates and candidates come."""

from pathlib import Path

from contrastive.errors import DataError


def read_lines(path: Path, what: str, content: str, hint: str | None) -> list[str]:
    """Return the stripped lines of a text file; an empty line inside would shift every label after it.

    `what` begins the message ("dataset pets: classnames"), `content` says what belongs into the file, `hint` is the
    command that makes it.

    Raises:
        DataError: there is no such file, it is not UTF-8, or it has no lines or an empty one.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except FileNotFoundError:
        raise DataError(f"{what}: there is no file {path}; write it ({content}){how_to_make(hint, ' or ')}") from None
    except IsADirectoryError:
        raise DataError(f"{what}: {path} is a folder; give a text file ({content})") from None
    except ValueError:
        raise DataError(f"{what}: {path} is not UTF-8 text; save it as UTF-8") from None
    if not lines:
        raise DataError(f"{what}: {path} is empty; it must hold {content}")
    if "" in lines:
        raise DataError(f"{what}: {path}: line {lines.index('') + 1} is empty; remove it")
    return lines


def how_to_make(hint: str | None, start: str = "; ") -> str:
    """Return the words that say how to make a missing file, if the YAML knows."""
    return f"{start}make it with: {hint}" if hint else ""

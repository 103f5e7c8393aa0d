"""The key of a sample in a tar: the source's own name wherever it fits, else percent-encoded as in a URL."""

import hashlib
import re

# webdataset cuts a name at the first dot of its last part; a folder `..` or an empty one leads elsewhere when a tar is
# unpacked; and a backslash is a folder on some systems.
UNFIT = r"%\\\x00-\x1f\x7f-\x9f\ud800-\udfff"
FOLDER = rf"(?!\.\.?/)[^/{UNFIT}]+/"
FIT = re.compile(rf"(?:{FOLDER})*[^./{UNFIT}]+")
FOLDERS = re.compile(r"(?:(?!\.\.?/)[^/]+/)*")
LONGEST = 88  # bytes: with an ending of at most eleven, a name fits the hundred of a plain tar header
LONGEST_KEPT = 240  # of a key that stands in a tar already
DIGEST = 6  # bytes of the hash at the end of what was cut


def fit(key: str, longest: int = LONGEST) -> str:
    """Return the key under which a sample named `key` is packed; not empty, and at most `longest` bytes of UTF-8.

    A key that fits stays as it is, folders included. Of others a percent sign, a backslash, control characters, bytes
    that are no text and the dots of the last part are percent-encoded, and slashes where they name no plain folders;
    `urllib.parse.unquote` gives the name back. A longer one is cut, and ends in a hash of all of it. Different names
    therefore have different keys, as far as 48 bits tell those that were cut.
    """
    found = key if FIT.fullmatch(key) else _escaped(key)
    content = found.encode()
    if len(content) <= longest:
        return found
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST).hexdigest()
    begin = content[: longest - 2 * DIGEST - 1].decode(errors="ignore")
    return f"{re.sub('%[0-9A-F]?$', '', begin)}-{digest}"


def key_hash(key: str) -> int:
    """Return a hash of a key, 64 bits."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _escaped(key: str) -> str:
    folders, _, last = key.rpartition("/")
    if folders and last and FOLDERS.fullmatch(f"{folders}/"):
        return f"{re.sub(f'[{UNFIT}]', _percent, folders)}/{re.sub(f'[.{UNFIT}]', _percent, last)}"
    return re.sub(f"[./{UNFIT}]", _percent, key)


def _percent(found: re.Match[str]) -> str:
    try:
        content = found[0].encode("utf-8", "surrogateescape")  # a byte of a file name that is no UTF-8
    except UnicodeEncodeError:
        content = found[0].encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in content)

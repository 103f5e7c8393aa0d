"""Configurations without their secrets, for whoever may read along."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "…"
WORDS = {"token", "key", "secret", "password", "passwd", "passphrase", "credential", "credentials"}
JOINED = ("apikey", "accesskey", "secretkey", "accountkey", "privatekey")
# A key by which samples are found, in our own vocabulary. Any other that is called a key is taken for a secret: what
# options a storage takes is not known here, and a value too many that is hidden harms nobody.
NO_SECRETS = {"image_key", "caption_key", "label_key"}


def redacted(value: Any, name: str = "") -> Any:
    """Return a copy of a configuration in which secrets are `…`: values by their key, and what URLs carry of them."""
    if isinstance(value, Mapping):
        return {key: redacted(item, str(key)) for key, item in value.items()}
    if value is not None and not isinstance(value, bool) and _is_secret(name):
        return HIDDEN
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return _without_credentials(value) if isinstance(value, str) else value


def redacted_argument(argument: str) -> str:
    """Return a word of a command line, `data.storage.token=…`, without its secret."""
    name, equals, value = argument.partition("=")
    return f"{name}={redacted(value, name.rpartition('.')[2])}" if equals else _without_credentials(argument)


def _is_secret(name: str) -> bool:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    words = snake.split("_")
    return snake not in NO_SECRETS and (any(word in WORDS for word in words) or "".join(words).endswith(JOINED))


def _without_credentials(text: str) -> str:
    """Hide user and password of `scheme://user:password@host`, and queries, which sign the URLs of object stores."""
    text = re.sub(r"(?<=://)[^/@\s]+@", f"{HIDDEN}@", text)
    return re.sub(r"(://[^\s?]+\?)\S+", rf"\1{HIDDEN}", text)

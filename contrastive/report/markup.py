"""HTML and SVG that cannot be broken by what it shows: every string is escaped unless it is already Markup."""

import re
from html import escape

BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
IMAGE_KINDS = {"/9j/": "jpeg", "UklGR": "webp"}


class Markup(str):
    """Text that is already HTML; only `tag` and `join` make it, so that data never becomes markup by accident."""

    __slots__ = ()


def join(*children: object) -> Markup:
    """The children one after the other; a str is escaped, Markup is kept, None is left out."""
    kept = (child for child in children if child is not None)
    return Markup("".join(child if isinstance(child, Markup) else escape(str(child)) for child in kept))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element; `class_` stands for class, `_` in other names for `-`, and an attribute that is None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def image(base64_data: object, label: str) -> Markup:
    """An inline picture from base64 data (PNG, JPEG or WebP); anything else becomes a grey square with the label."""
    if not isinstance(base64_data, str) or BASE64.fullmatch(base64_data) is None:
        return tag("span", label, class_="no-image", title=label)
    kind = next((kind for start, kind in IMAGE_KINDS.items() if base64_data.startswith(start)), "png")
    return Markup(f'<img src="data:image/{kind};base64,{base64_data}" alt="{escape(label)}">')

import re
from pathlib import Path

import pytest

from contrastive.export.markdown import bare, escaped, on_one_line, place, shown, table, without_paths

HOSTILE = [
    "a|b",
    "a\\|b",
    "a\nb\r\n# c",
    "<script>alert(1)</script>",
    "![x](http://a/b.png)",
    "`code` *bold* _slanted_ ~gone~ $x$",
    "a\u2028b\u202ec",
    "&lt;",
]


def cells(line: str) -> list[str]:
    """Split a line of a table as GitHub does: at bars that no backslash precedes, which may itself be escaped."""
    return re.sub(r"\\.", "", line).strip("|").split("|")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_adds_a_cell_a_line_or_a_tag(name: str) -> None:
    lines = table(("dataset", "value"), [(name, 1)])
    assert len(lines) == 3
    assert all(len(cells(line)) == 2 and len(line.splitlines()) == 1 for line in lines)
    assert "<" not in lines[2]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reader_of_markdown_gets_the_very_name(name: str) -> None:
    reader = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    inline = reader.parse(f"x {escaped(name)}")[1].children
    assert {token.type for token in inline} <= {"text", "text_special"}
    assert "".join(token.content for token in inline) == "x " + " ".join(
        "".join(c if c.isprintable() else " " for c in name).split()
    )


def test_snake_case_and_plain_text_are_left_as_they_are() -> None:
    assert escaped("image_to_text_recall@1 (naïve, 95 %)") == "image_to_text_recall@1 (naïve, 95 %)"


def test_a_name_without_end_is_cut() -> None:
    assert len(escaped("x" * 10_000)) < 400


def test_a_bare_name_is_a_line_without_tags() -> None:
    assert bare("a|b\n<script> *c*") == "a|b script *c*"


def test_our_own_markdown_is_kept_on_one_line_and_without_html() -> None:
    assert on_one_line('Use `backend="pil"`\n<b>') == 'Use `backend="pil"` &lt;b&gt;'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("data/glyphs/train", "data/glyphs/train"),
        ("/home/joe/data/cc12m", "cc12m"),
        ("/home/joe doe/data/cc 12m/", "cc 12m"),
        ("~/cc12m/{000..999}.tar", "{000..999}.tar"),
        ("../../joe/cc12m", "cc12m"),
        ("data/../../joe/cc12m", "cc12m"),
        (r"C:\Users\joe\cc12m", "cc12m"),
        ("file:///home/joe/cc12m", "cc12m"),
        ("/a/x.tar::/b/y.tar", "x.tar::y.tar"),
        (["/a/x.tar", "s3://bucket/y.tar"], "x.tar, s3://bucket/y.tar"),
        ("https://joe:secret@host/a/b.tar?sig=secret", "https://…@host/a/b.tar?…"),
        ("pipe:aws s3 cp s3://bucket/x - --key secret", "pipe:…"),
        ("local-dir:/home/joe/model", "local-dir:model"),
        ("ViT-B-32@/home/joe/model.pt", "ViT-B-32@model.pt"),
        ("hf-hub:timm/ViT-B-16-SigLIP", "hf-hub:timm/ViT-B-16-SigLIP"),
        ("/", "…"),
    ],
)
def test_a_place_says_nothing_of_the_machine(value: object, expected: str) -> None:
    assert place(value) == expected


def test_paths_within_a_text_lose_their_folders_and_words_do_not() -> None:
    text = f"see '/data/private/x.json', {Path.home()}/y.bin and https://host/a/b, 1/2 or image/text"
    assert without_paths(text) == "see 'x.json', y.bin and https://host/a/b, 1/2 or image/text"


def test_a_mapping_is_said_in_words() -> None:
    assert shown({"txt": 0.3, "json.recaption": [0.5, "/home/joe/a"]}) == "txt: 0.3, json.recaption: 0.5, a"

import tarfile
from pathlib import Path

import pytest

from contrastive.data.tar import key_and_extension, members
from contrastive.errors import DataError
from tests import toys

FORMS = pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def write(path: Path, form: int, names: list[str], mtime: float = 0) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        tar.addfile(folder := tarfile.TarInfo("folder"))
        folder.type = tarfile.DIRTYPE
        for number, name in enumerate(names):
            content = toys.encode(toys.image(number))
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            with (path.parent / "member").open("wb") as file:
                file.write(content)
            with (path.parent / "member").open("rb") as file:
                tar.addfile(info, file)
    return path


@FORMS
@pytest.mark.parametrize("mtime", [0, 1.5])
def test_members_are_those_of_tarfile_in_every_form(tmp_path: Path, form: int, mtime: float):
    if form != tarfile.PAX_FORMAT:
        mtime = int(mtime)
    names = [
        "a.png",
        "sub/b.png",
        "é.png",
        "f" * 90 + "/" + "k" * (40 if form == tarfile.USTAR_FORMAT else 150) + ".png",
    ]
    path = write(tmp_path / "a.tar", form, names, mtime)
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert [tuple(member) for member in members(path)] == expected
    data = path.read_bytes()
    for number, member in enumerate(m for m in members(path) if m.name.endswith(".png")):
        assert data[member.offset : member.offset + member.size] == toys.encode(toys.image(number))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", ("a", "png")),
        ("dir.x/a.JSON", ("dir.x/a", "json")),
        ("a.seg.png", ("a", "seg.png")),
        ("plain", ("plain", "")),
        (".hidden", ("", "hidden")),
    ],
)
def test_a_name_is_split_at_the_first_dot_of_its_last_part(name: str, expected: tuple[str, str]):
    assert key_and_extension(name) == expected


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@FORMS
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data, third: flip(data, third + 5), "is damaged: there is no header at byte"),
        (lambda data, third: data[:third], "is cut short: there is no closing block at byte"),
        (lambda data, third: data[: third + 100], "is cut short: there is no closing block at byte"),
        (lambda data, third: data[: third - 300], "cut short"),
        (lambda data, third: b"", "is no"),
        (lambda data, third: b"<html>" + b"not found " * 300, "is no"),
    ],
)
def test_a_damaged_tar_is_refused_and_never_read_in_part(tmp_path: Path, form: int, damage, message: str):
    path = write(tmp_path / "a.tar", form, [f"{n}.png" for n in range(5)])
    third = members(path)[3].offset - 512
    path.write_bytes(damage(path.read_bytes(), third))
    with pytest.raises(DataError) as caught:
        members(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_damaged_tar_with_extensions_is_refused_too(tmp_path: Path):
    path = write(tmp_path / "a.tar", tarfile.PAX_FORMAT, [f"{n}.png" for n in range(5)], mtime=1.5)
    data = path.read_bytes()
    path.write_bytes(flip(data, members(path)[3].offset - 512 + 5))
    with pytest.raises(DataError, match="is damaged: there is no header at byte"):
        members(path)
    path.write_bytes(data[: members_end(data)])
    with pytest.raises(DataError, match=r"is cut short inside member 4\.png at byte"):
        members(path)


def members_end(data: bytes) -> int:
    return len(data.rstrip(b"\0")) // 512 * 512

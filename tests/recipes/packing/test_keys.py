"""Names become keys that a tar and webdataset can hold."""

import hashlib
from urllib.parse import unquote

import pytest

from contrastive.data.tar import key_and_extension
from contrastive.recipes.packing.keys import LONGEST, fit, key_hash

ODD = ["a.b", "a/b.c", "a.b/c", "50%", "%2E", "a\\b", "a\nb", "/a", "a//b", "../a", "a/..", "./a", "a/", ".", "x\x85y"]


@pytest.mark.parametrize("key", ["000012", "cats/001", "a b", "ünï", "a.b/c", "-", "…/x"])
def test_what_fits_stays_as_it_is(key: str):
    assert fit(key) == key


@pytest.mark.parametrize("key", ODD)
def test_what_does_not_fit_is_encoded_as_in_a_url(key: str):
    found = fit(key)
    assert unquote(found) == key
    assert key_and_extension(f"{found}.jpg") == (found, "jpg")
    assert ".." not in found.split("/")
    assert all(found.split("/"))


def test_different_names_have_different_keys():
    names = [*ODD, *(f"{name}%2E" for name in ODD), "a%2Eb", "a%252Eb", "x" * 200, "x" * 201, "x" * 88]
    assert len({fit(name) for name in names}) == len(names)


def test_bytes_that_are_no_text_are_encoded():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert fit(name) == "caf%E9"
    assert fit("half \ud83d") == "half %ED%A0%BD"


@pytest.mark.parametrize("name", ["x" * 300, "ü" * 100, "%" * 80, "a/" * 100 + "b"])
def test_long_names_are_cut_and_end_in_a_hash(name: str):
    found = fit(name)
    assert len(found.encode()) <= LONGEST
    assert unquote(found)[:20] == name[:20]
    assert found != fit(name[:-1])
    assert fit(name, 500).startswith(found[:30])


def test_a_hash_has_64_bits_and_is_the_same_everywhere():
    assert key_hash("ü") == int.from_bytes(hashlib.blake2b("ü".encode(), digest_size=8).digest(), "little")
    assert len({key_hash(str(n)) for n in range(1000)}) == 1000

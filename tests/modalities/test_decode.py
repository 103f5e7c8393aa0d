import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from contrastive.modalities import decode as module
from contrastive.modalities.decode import BadImageError, as_rgb, decode
from tests import toys

PHOTO = load_sample_images().images[1][:200, :301]
ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"


@pytest.fixture(params=["simplejpeg", "torchvision", "pillow"])
def _decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    monkeypatch.setattr(module, "HAS_SIMPLEJPEG", request.param == "simplejpeg")
    monkeypatch.setattr(module, "HAS_TORCHVISION", module.HAS_TORCHVISION and request.param != "pillow")


def encoded(mode: str, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(content, kind, **options)
    return content.getvalue()


PLAIN = [
    *(("RGB", "PNG", {}), ("L", "PNG", {}), ("P", "PNG", {}), ("P", "PNG", {"transparency": 3}), ("LA", "PNG", {})),
    *(("RGBA", "PNG", {}), ("1", "PNG", {}), ("RGB", "JPEG", {"quality": 95}), ("L", "JPEG", {}), ("CMYK", "JPEG", {})),
    *(("RGB", "JPEG", {"progressive": True, "quality": 60}), ("RGB", "JPEG", {"subsampling": 0}), ("RGB", "WEBP", {})),
    *(("RGBA", "WEBP", {}), ("RGB", "GIF", {}), ("RGB", "BMP", {}), ("RGB", "TIFF", {})),
    ("RGB", "PNG", {"transparency": (1, 2, 3)}),
]  # fmt: skip


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize(("mode", "kind", "options"), PLAIN)
def test_pixels_are_pillows(mode: str, kind: str, options: dict):
    data = encoded(mode, kind, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)  # torchvision 0.29
        found = decode(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(found, np.array(image.convert("RGB")))


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_pillows_and_stored_ignores_exif(kind: str, orientation: int):
    data = encoded("RGB", kind, exif=ROTATED % orientation)
    plain = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), plain)
    turned = decode(data, "upright")
    assert turned.shape == (plain.shape if orientation < 5 else (301, 200, 3))
    np.testing.assert_array_equal(np.array(as_rgb(Image.open(io.BytesIO(data)), "upright")), turned)
    if orientation == 6:
        np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize("level", [0, 255, 36_000, 65_535])
def test_16_bits_become_8(level: int):
    content = io.BytesIO()
    Image.fromarray(np.full((4, 5), level, np.uint16)).save(content, "PNG")
    assert (decode(content.getvalue()) == round(level / 257)).all()


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(factor: int):
    data = encoded("RGB", "JPEG", quality=95)
    found = decode(data, reduce=lambda height, width: factor)
    assert found.shape == (-(-200 // factor), -(-301 // factor), 3)
    expected = np.array(Image.fromarray(PHOTO).resize(found.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 6


@pytest.mark.usefixtures("_decoder")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff\xe0 oops", "truncated"),
        (b"\x89PNG\r\n\x1a\n oops and a little more, so that there is a header", "not an image"),
        (encoded("RGB", "JPEG")[:4000], "truncated"),
        (encoded("RGB", "JPEG", progressive=True)[:4000], "truncated"),
        (encoded("RGB", "PNG")[:4000], "truncated"),
        (encoded("RGBA", "PNG")[:4000], "truncated"),
        (encoded("RGB", "WEBP")[:2000], "damaged"),
    ],
)
def test_what_cannot_be_decoded_says_why_in_one_line(data: bytes, reason: str):
    with pytest.raises(BadImageError) as caught:
        decode(data)
    assert caught.value.reason == reason, caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_decoder")
def test_damage_inside_is_the_same_to_all_decoders():
    data = bytearray(encoded("RGB", "JPEG", quality=80))
    for at in range(1000, len(data) - 100, 997):
        data[at] ^= 0x55
    try:
        expected = np.array(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
    except OSError:
        with pytest.raises(BadImageError):
            decode(bytes(data))
    else:
        np.testing.assert_array_equal(decode(bytes(data)), expected)


def claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(20)


@pytest.mark.parametrize(("width", "height"), [(11_000, 11_000), (8_001, 8_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_from_its_header_without_a_warning(width: int, height: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImageError, match=f"{width} x {height} pixels, more than 64,000,000") as caught:
            decode(claims(width, height))
    assert caught.value.reason == "too many pixels"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_the_limit_holds_for_every_format(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 99)
    with pytest.raises(BadImageError, match="10 x 10 pixels, more than 99"):
        decode(toys.encode(toys.image(0, 10), kind))

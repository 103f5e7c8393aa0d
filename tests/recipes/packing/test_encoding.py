import io
import subprocess
import sys
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from torchvision.transforms import InterpolationMode, v2

from contrastive.errors import ConfigError
from contrastive.modalities.decode import BadImageError, decode
from contrastive.recipes.packing import encoding as module
from contrastive.recipes.packing.encoding import Encoding, encode, ending_of, made_with
from tests.toys import encode as encoded


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return smooth pixels, so that resamplers may be compared."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def tagged(pixels: np.ndarray, orientation: int, kind: str = "JPEG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, kind, exif=exif, **options)


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def png(**options: Any) -> Encoding:
    return Encoding(format="png", **options)


@pytest.mark.parametrize(
    ("fit", "size"),
    [("shortest", (68, 50)), ("longest", (50, 37)), ("crop", (50, 50)), ("squash", (50, 50))],
)
def test_each_fit_gives_the_pixels_of_torchvision(fit: Any, size: tuple[int, int]):
    pixels = photo(151, 111)
    reference = {
        "shortest": v2.Resize(50, InterpolationMode.BICUBIC),
        "longest": v2.Resize(None, InterpolationMode.BICUBIC, max_size=50),
        "crop": v2.Compose([v2.Resize(50, InterpolationMode.BICUBIC), v2.CenterCrop(50)]),
        "squash": v2.Resize((50, 50), InterpolationMode.BICUBIC),
    }[fit]
    expected = reference(torch.from_numpy(pixels.copy()).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    made = encode(encoded(pixels), png(size=50, fit=fit))
    assert (made.width, made.height) == size == opened(made.content).size
    if fit in ("shortest", "longest"):  # torchvision cuts the other side off, we round it, as open_clip does
        assert abs(expected.shape[0] - size[1]) <= 1
        expected = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        assert np.abs(decode(made.content).astype(int) - expected).max() <= 1
    elif fit == "squash":
        np.testing.assert_array_equal(decode(made.content), expected)
    else:
        assert np.abs(decode(made.content).astype(int) - expected).max() <= 3


@pytest.mark.parametrize(("kind", "ending"), [("JPEG", "jpg"), ("WEBP", "webp")])
def test_the_bytes_are_those_that_pillow_writes_of_these_pixels(kind: str, ending: Any):
    content = encoded(photo(90, 60))
    exact = decode(encode(content, png(size=30)).content)
    made = encode(content, Encoding(size=30, format=ending, quality=80))
    assert made.content == encoded(exact, kind, quality=80)
    assert made.ending == ending
    assert opened(made.content).format == kind


def test_the_size_of_open_clip_is_ours():
    for width, height in ((151, 111), (111, 151), (1, 999), (640, 427)):
        scale = 64 / min(width, height)
        expected = (max(1, round(width * scale)), max(1, round(height * scale)))
        assert Encoding(size=64, only_larger=False).kept(width, height) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("fit", ["shortest", "longest", "crop", "squash"])
def test_an_image_that_is_small_enough_keeps_its_bytes(kind: str, fit: Any):
    content = encoded(photo(40, 40), kind)
    made = encode(content, Encoding(size=40, fit=fit))
    assert made == (content, ending_of(content), 40, 40)


def test_a_jpeg_that_is_small_enough_keeps_its_bytes_where_jpeg_is_asked_for():
    content = encoded(photo(40, 30), "JPEG", quality=40)
    assert encode(content, Encoding(size=64, format="jpg")).content == content
    assert encode(content, Encoding(size=64, format="png")).ending == "png"


def test_an_image_grows_only_when_asked_to():
    content = encoded(photo(40, 30))
    assert encode(content, Encoding(size=60)).content == content
    made = encode(content, Encoding(size=60, only_larger=False))
    assert (made.width, made.height) == (80, 60)


@pytest.mark.parametrize(
    ("fit", "expected"), [("shortest", (200, 40)), ("longest", (60, 12)), ("crop", (60, 40)), ("squash", (60, 40))]
)
def test_no_side_grows_with_only_larger(fit: Any, expected: tuple[int, int]):
    made = encode(encoded(photo(200, 40)), Encoding(size=60, fit=fit))
    assert (made.width, made.height) == expected == opened(made.content).size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_as_its_exif_says(orientation: int, kind: str):
    content = tagged(photo(48, 30), orientation, kind)
    expected = ImageOps.exif_transpose(opened(content)).convert("RGB")
    made = encode(content, png())
    np.testing.assert_array_equal(decode(made.content), np.asarray(expected))
    assert (made.width, made.height) == expected.size
    assert opened(made.content).getexif().get(0x0112, 1) in (1, orientation if made.content == content else 1)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_that_shrinks_is_what_its_upright_copy_becomes(orientation: int):
    content = tagged(photo(49, 31), orientation, "PNG")
    upright = encoded(np.asarray(ImageOps.exif_transpose(opened(content))))
    assert encode(content, png(size=16, fit="crop")) == encode(upright, png(size=16, fit="crop"))


def test_a_small_jpeg_that_is_turned_is_written_anew_and_loses_its_tag():
    made = encode(tagged(photo(48, 30), 6), Encoding(size=64))
    assert (made.width, made.height, made.ending) == (30, 48, "jpg")
    assert 0x0112 not in opened(made.content).getexif()


def test_a_jpeg_whose_tag_says_upright_keeps_its_bytes():
    content = tagged(photo(48, 30), 1)
    assert encode(content, Encoding(size=64)).content == content


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_stored_pixels_keep_their_tag(ending: Any):
    content = tagged(photo(48, 30), 6)
    assert encode(content, Encoding(orientation="stored")).content == content
    made = encode(content, Encoding(size=15, format=ending, orientation="stored"))
    assert (made.width, made.height) == (24, 15)
    assert opened(made.content).getexif()[0x0112] == 6


def test_an_orientation_that_does_not_exist_means_upright():
    content = tagged(photo(48, 30), 9)
    assert encode(content, Encoding()).content == content


def odd(kind: str) -> bytes:
    pixels = photo(60, 40)
    image = Image.fromarray(pixels)
    if kind == "cmyk":
        image, options = image.convert("CMYK"), {"format": "JPEG"}
    elif kind == "16 bit":
        image, options = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {"format": "PNG"}
    elif kind == "alpha":
        image.putalpha(Image.fromarray(pixels[..., 1]))
        options = {"format": "PNG"}
    elif kind == "palette":
        image, options = image.quantize(16), {"format": "PNG"}
    elif kind == "grey":
        image, options = image.convert("L"), {"format": "JPEG"}
    else:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        options = {"format": "JPEG", "icc_profile": profile}
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["cmyk", "16 bit", "alpha", "palette", "grey", "profile"])
def test_odd_images_become_the_rgb_that_training_sees(kind: str):
    content = odd(kind)
    made = encode(content, png(size=20))
    expected = Image.fromarray(decode(content)).resize((30, 20), Image.Resampling.BICUBIC)
    image = opened(made.content)
    assert image.mode == "RGB"
    assert "icc_profile" not in image.info
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_kept(kind: str):
    frames = [Image.fromarray(photo(40, 30, seed)) for seed in range(3)]
    out = io.BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    made = encode(out.getvalue(), Encoding(size=20, format="png"))
    image = opened(made.content)
    assert getattr(image, "n_frames", 1) == 1
    expected = Image.fromarray(decode(out.getvalue())).resize((27, 20), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize(
    ("kind", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "jpg"), ("GIF", "jpg")]
)
def test_what_must_change_keeps_its_format_where_training_reads_it(kind: str, ending: str):
    made = encode(encoded(photo(60, 40), kind), Encoding(size=20))
    assert (made.ending, ending_of(made.content)) == (ending, ending)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_tiny_and_narrow_images_are_written(size: tuple[int, int], ending: Any):
    content = encoded(photo(*size))
    made = encode(content, Encoding(size=16, fit="longest", format=ending))
    assert (made.width, made.height) == tuple(max(1, min(side, 16)) for side in size)
    assert opened(made.content).size == (made.width, made.height)
    if ending != "png":
        content = encoded(photo(*size), "JPEG")
        assert encode(content, Encoding(size=5000)).content == content


def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(monkeypatch: pytest.MonkeyPatch):
    asked = []
    content = encoded(photo(840, 480), "JPEG", quality=95)

    def watched(data: bytes, reduce: Any) -> np.ndarray:
        asked.append(reduce(480, 840))
        return decode(data, reduce=reduce)

    monkeypatch.setattr(module, "decode", watched)
    made = decode(encode(content, png(size=40)).content)
    expected = Image.fromarray(decode(content)).resize((70, 40), Image.Resampling.BICUBIC)
    assert asked == [4]
    assert np.abs(made.astype(int) - np.asarray(expected)).max() <= 4
    for size, factor in ((20, 8), (80, 2), (81, 1)):
        encode(content, png(size=size))
        assert asked.pop() == factor


RESIZE = (
    "import numpy, hashlib, torch; from contrastive.recipes.packing.encoding import _resize; "
    "draw = numpy.random.default_rng(0); digest = hashlib.sha256(); "
    "[digest.update(_resize(draw.integers(0, 256, (97 + n, 211, 3), dtype=numpy.uint8), (3 * n + 1, 71)).tobytes())"
    " for n in range(40)]; said = digest.hexdigest(), torch.backends.cpu.get_cpu_capability()"
)
RESIZED = "8f63b7dc0d7de789ab82fa9682a4e5311fffa7a874cd681b17b6dfa9d2d849ff"


def test_the_resize_is_the_same_on_every_machine():
    found: dict[str, Any] = {}
    exec(RESIZE, found)
    assert found["said"][0] == RESIZED


@pytest.mark.slow
def test_the_resize_is_the_same_without_the_instructions_of_newer_processors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    command = [sys.executable, "-c", f"{RESIZE}; print(*said)"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == [RESIZED, "DEFAULT"]


@pytest.mark.parametrize("options", [{}, {"size": 20}, {"format": "webp"}])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not an image"),
        (encoded(photo(90, 60), "JPEG")[:-300], "truncated"),
        (encoded(photo(90, 60), "JPEG")[:400], "truncated"),
        (encoded(photo(90, 60), "PNG")[:-300], "truncated"),
    ],
)
def test_a_bad_image_is_refused_even_where_its_bytes_would_be_kept(content: bytes, reason: str, options: Any):
    with pytest.raises(BadImageError) as caught:
        encode(content, Encoding(**options))
    assert caught.value.reason in (reason, "damaged" if reason == "truncated" else reason)


def test_an_image_that_would_grow_beyond_all_bounds_is_refused():
    with pytest.raises(BadImageError, match="has 1 x 3000 pixels, and would have 256 x 768000, more than") as caught:
        encode(encoded(photo(1, 3000)), Encoding(size=256, only_larger=False))
    assert caught.value.reason == "too many pixels"


def test_an_image_that_a_format_cannot_hold_is_refused():
    with pytest.raises(BadImageError, match=r"would have 17000 x 2 pixels, and WEBP holds 16,383 a side"):
        encode(encoded(photo(17_000, 2)), Encoding(format="webp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: 0 pixels; it must be 1 to 16,383 for format keep"),
        ({"size": 70_000, "format": "jpg"}, "size: 70000 pixels; it must be 1 to 65,500 for format jpg"),
        ({"quality": 0}, "quality: 0 must be 1 to 100"),
        ({"quality": 101}, "quality: 101 must be 1 to 100"),
        ({"fit": "border"}, "fit: 'border' is not one of shortest, longest, crop, squash"),
        ({"format": "gif"}, "format: 'gif' is not one of keep, jpg, png, webp"),
        ({"orientation": "left"}, "orientation: 'left' is not one of stored, upright"),
    ],
)
def test_an_encoding_that_cannot_be_is_refused_at_the_door(options: Any, message: str):
    with pytest.raises(ConfigError) as caught:
        Encoding(**options)
    assert str(caught.value) == message


def test_the_ending_comes_from_the_bytes():
    kinds = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "PPM": "ppm"}
    assert {kind: ending_of(encoded(photo(9, 9), kind)) for kind in kinds} == kinds
    with pytest.raises(BadImageError, match=r"is not an image: it begins with b'a,b"):
        ending_of(b"a,b\n1,2\n")


def test_provenance_names_the_library_that_wrote_the_bytes():
    assert made_with() == {"pillow": PIL.__version__}

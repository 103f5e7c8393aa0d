import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.modalities import image as module
from contrastive.modalities.image import Preprocess, TrainTransform, crop_box, decode
from tests import toys

DRAWS = np.array([0.3, 0.6, 0.2, 0.9])


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("JPEG", "RGB"), ("WEBP", "RGB")]
)
def test_decoding_gives_pillows_pixels(kind: str, mode: str):
    content = io.BytesIO()
    Image.fromarray(toys.image(1, 40)).convert(mode).save(content, kind)
    expected = np.array(Image.open(content).convert("RGB"))
    np.testing.assert_array_equal(decode(content.getvalue()).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("data", [b"", b"not an image", toys.encode(toys.image(0, 64), "JPEG")[:300]])
def test_what_cannot_be_decoded_is_a_value_error(data: bytes):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(data)


def test_a_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 99)
    with pytest.raises(ValueError, match="10 x 10 pixels is more than 99"):
        decode(toys.encode(toys.image(0, 10)))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(40, 60), (64, 32), (20, 20), (32, 32)])
def test_the_training_pixels_without_a_crop_are_those_of_evaluation(mode: str, shape: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(pixels).resize((shape[1], shape[0])))
    preprocess = Preprocess(32, resize_mode=mode)
    trained = TrainTransform(preprocess, None)(toys.encode(pixels), DRAWS)
    evaluated = preprocess.evaluation_transform()(Image.fromarray(pixels))
    normalised = preprocess.normalise(trained[None].float() / 255)[0]
    # torchvision's uint8 resize and Pillow's agree within one level of 255, here divided by the smallest std.
    assert (normalised - evaluated).abs().max() <= 1.01 / 255 / min(preprocess.std)


def test_normalise_is_the_formula():
    preprocess = Preprocess(4, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    image = torch.rand(2, 3, 4, 4)
    for channel in range(3):
        expected = (image[:, channel] - preprocess.mean[channel]) / preprocess.std[channel]
        torch.testing.assert_close(preprocess.normalise(image)[:, channel], expected)


def test_crops_stay_inside_and_hold_the_share_of_the_area():
    shares = []
    for draws in np.random.default_rng(0).random((500, 4)):
        top, left, height, width = crop_box(300, 400, (0.3, 0.6), draws)
        assert top >= 0
        assert left >= 0
        assert top + height <= 300
        assert left + width <= 400
        assert 3 / 4 - 0.01 <= width / height <= 4 / 3 + 0.01
        shares.append(height * width / (300 * 400))
    assert min(shares) == pytest.approx(0.3, abs=0.01)
    assert max(shares) == pytest.approx(0.6, abs=0.01)


def test_the_smallest_image_can_be_cropped():
    assert crop_box(1, 1, (0.1, 1.0), DRAWS) == (0, 0, 1, 1)
    assert TrainTransform(Preprocess(8), (0.1, 1.0))(toys.encode(toys.image(0, 1)), DRAWS).shape == (3, 8, 8)


def test_the_evaluation_transform_travels_to_workers():
    transform = Preprocess(8).evaluation_transform()
    picture = Image.fromarray(toys.image(0))
    torch.testing.assert_close(pickle.loads(pickle.dumps(transform))(picture), transform(picture))

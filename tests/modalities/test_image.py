import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import RandomResizedCrop

from contrastive.modalities.image import CROP_DRAWS, Preprocess, TrainTransform, crop_box
from tests import toys

DRAWS = np.array([0.3, 0.6, 0.2, 0.9])


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
    for draws in np.random.default_rng(0).random((500, CROP_DRAWS)):
        top, left, height, width = crop_box(300, 400, (0.3, 0.6), draws)
        assert top >= 0
        assert left >= 0
        assert top + height <= 300
        assert left + width <= 400
        assert 3 / 4 - 0.01 <= width / height <= 4 / 3 + 0.01
        shares.append(height * width / (300 * 400))
    assert min(shares) == pytest.approx(0.3, abs=0.01)
    assert max(shares) == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0)])
@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (256, 256), (100, 1000), (700, 90)])
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int], scale: tuple[float, float]):
    torch.manual_seed(0)
    image = torch.zeros(3, *shape)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3)) for _ in range(3000)])
    ours = np.array([crop_box(*shape, scale, draws) for draws in np.random.default_rng(0).random((3000, CROP_DRAWS))])
    for name, a, b in zip(("top", "left", "height", "width"), theirs.T, ours.T, strict=True):
        values = np.union1d(a, b)
        apart = np.abs(
            np.searchsorted(np.sort(a), values, "right") - np.searchsorted(np.sort(b), values, "right")
        ).max()
        assert apart / 3000 < 0.05, name  # Kolmogorov and Smirnov: chance exceeds it once in a thousand times


def test_the_smallest_image_can_be_cropped():
    assert crop_box(1, 1, (0.1, 1.0), DRAWS) == (0, 0, 1, 1)
    assert TrainTransform(Preprocess(8), (0.1, 1.0))(toys.encode(toys.image(0, 1)), DRAWS).shape == (3, 8, 8)


def test_the_evaluation_transform_travels_to_workers():
    transform = Preprocess(8).evaluation_transform()
    picture = Image.fromarray(toys.image(0))
    torch.testing.assert_close(pickle.loads(pickle.dumps(transform))(picture), transform(picture))


PHOTO = load_sample_images().images[1]


def by_pillow(data: bytes, size: int, share: tuple[float, float], draws: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        top, left, height, width = crop_box(image.height, image.width, share, draws)
        crop = image.convert("RGB").crop((left, top, left + width, top + height))
        return np.array(crop.resize((size, size), Image.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize("share", [(0.9, 1.0), (0.08, 1.0)])
def test_random_crops_are_pillows_within_one_level(share: tuple[float, float]):
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, "JPEG", quality=90)
    transform = TrainTransform(Preprocess(224), share)
    off = []
    for draws in np.random.default_rng(3).random((20, CROP_DRAWS)):
        found = transform(content.getvalue(), draws).permute(1, 2, 0).numpy().astype(int)
        off.append(np.abs(found - by_pillow(content.getvalue(), 224, share, draws)))
    assert np.max(off) <= 2
    assert np.mean(np.array(off) > 1) < 1e-5
    assert np.mean(np.array(off) > 0) < 0.03


def test_pixels_are_written_into_a_row_of_a_batch():
    data = toys.encode(toys.image(1, 40))
    transform, batch = TrainTransform(Preprocess(16), (0.5, 1.0)), torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    transform.into(data, DRAWS, batch[1])
    assert torch.equal(batch[1].permute(2, 0, 1), transform(data, DRAWS))
    assert not batch[0].any()


def test_reduced_decoding_keeps_the_view_and_every_pixel_of_the_target():
    content = io.BytesIO()
    Image.fromarray(PHOTO).resize((1300, 900)).save(content, "JPEG", quality=90)
    exact = TrainTransform(Preprocess(64), (0.5, 1.0))
    fast = TrainTransform(Preprocess(64), (0.5, 1.0), decode_scale=True)
    elsewhere = exact(content.getvalue(), np.array([0.0, 0.5, 0.0, 0.0])).float()
    for draws in np.random.default_rng(0).random((10, 4)):
        assert fast._factor(900, 1300, draws) == 8
        a, b = exact(content.getvalue(), draws).float(), fast(content.getvalue(), draws).float()
        assert (a - b).abs().mean() < 0.25 * (a - elsewhere).abs().mean()
    assert fast._factor(100, 100, DRAWS) == 1
    assert TrainTransform(Preprocess(64), None, decode_scale=True)._factor(300, 260, DRAWS) == 4


def test_an_upright_model_trains_and_is_evaluated_upright():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = toys.encode(toys.image(2, 16), "JPEG", quality=95, exif=exif)
    for orientation in ("stored", "upright"):
        preprocess = Preprocess(16, orientation=orientation)
        trained = preprocess.normalise(TrainTransform(preprocess, None)(data, DRAWS)[None].float() / 255)[0]
        evaluated = preprocess.evaluation_transform()(Image.open(io.BytesIO(data)))
        torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=0)
        plain = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        expected = plain if orientation == "stored" else np.rot90(plain, -1)
        np.testing.assert_array_equal(TrainTransform(preprocess, None)(data, DRAWS).permute(1, 2, 0).numpy(), expected)

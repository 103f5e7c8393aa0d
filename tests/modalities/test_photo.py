import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from contrastive.config import load
from contrastive.errors import ConfigError
from contrastive.hashing import uniform
from contrastive.modalities.photo import Photo, turn_hue
from contrastive.train import task

SEEDS = torch.arange(64) * 7919 + 5


def images(count: int = 64, size: int = 9) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_colours_are_those_of_torchvision_row_by_row():
    photo, image = Photo(flip=0.0, jitter=1.0, hue=0.5), images()
    draws = 2 * uniform(SEEDS, 7)[:, 2:6].double() - 1
    for row, (found, given, signed) in enumerate(zip(photo(image, SEEDS), image, draws.tolist(), strict=True)):
        wanted = reference.adjust_brightness(given, 1 + 0.32 * signed[0])
        wanted = reference.adjust_contrast(wanted, 1 + 0.32 * signed[1])
        wanted = reference.adjust_saturation(wanted, 1 + 0.32 * signed[2])
        wanted = reference.adjust_hue(wanted, 0.5 * signed[3])
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0, msg=f"row {row}")


def test_hues_of_grey_and_pure_colours_turn():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.3, 0.3, 0.3]])[:, :, None, None]
    turned = turn_hue(colours, torch.tensor([1 / 3, 1 / 3, 0.4]))[:, :, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([[0, 1.0, 0], [0, 0, 1], [0.3, 0.3, 0.3]]), atol=1e-6, rtol=0)


def test_half_of_the_images_are_mirrored_and_the_rest_is_untouched():
    image = images(1000, 4)
    found = Photo()(image, torch.arange(1000) * 104729)
    mirrored = (found == image.flip(-1)).all(dim=(1, 2, 3))
    same = (found == image).all(dim=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 400 < mirrored.sum() < 600


def test_grey_has_equal_channels():
    found = Photo(flip=0.0, grey=1.0)(images(), SEEDS)
    assert torch.equal(found[:, 0], found[:, 1])
    torch.testing.assert_close(found[:, :1], reference.rgb_to_grayscale(images()), atol=2e-4, rtol=0)


def test_a_row_depends_on_its_own_seed_alone():
    photo, image = Photo(jitter=0.8, grey=0.2), images()
    whole = photo(image, SEEDS)
    for row in (0, 17, 63):
        assert torch.equal(photo(image[row : row + 1], SEEDS[row : row + 1])[0], whole[row])


@pytest.mark.parametrize(
    ("option", "rule"), [("flip: 1.5", "must be a probability"), ("hue: 0.7", "0 to 0.5"), ("contrast: -1", "0 to 1")]
)
def test_a_wrong_range_is_named(option: str, rule: str):
    name, value = option.split(": ")
    with pytest.raises(ValueError, match=f"{name} .*{rule}"):
        Photo(**{name: float(value)})


def test_a_run_may_name_it():
    task.check(load([], ["data.augment={name: photo, jitter: 0.8}"]))
    with pytest.raises(ConfigError, match=r"data\.augment\.flop: photo has no such option; did you mean flip"):
        task.check(load([], ["data.augment={name: photo, flop: 1}"]))

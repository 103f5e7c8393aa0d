import pytest
import torch
from torch.testing import assert_close

from contrastive.modalities.augment import Scribble

OFF = dict.fromkeys(("rotation", "shear", "scale", "shift", "warp", "thicken", "thin", "fade"), 0.0) | {"resolution": 1}


@pytest.fixture
def image():
    page = torch.ones(6, 3, 32, 32)
    page[:, :, 8:24, 14:18] = 0  # an upright stroke
    page[:, :, 20:24, 14:24] = 0  # with a foot
    return page


@pytest.fixture
def seed():
    return torch.arange(6) * 1_000_003


def ink(image):
    return 1 - image


def test_all_off_changes_nothing(image, seed):
    assert_close(Scribble(**OFF)(image, seed), image, atol=1e-5, rtol=0)


def test_shape_and_range_are_kept(image, seed):
    result = Scribble()(image, seed)
    assert result.shape == image.shape
    assert result.min() >= 0
    assert result.max() <= 1


def test_each_row_is_a_pure_function_of_image_and_seed(image, seed):
    augment = Scribble()
    together = augment(image, seed)
    torch.manual_seed(123)  # torch's own generator must not matter
    alone = torch.cat([augment(image[i : i + 1], seed[i : i + 1]) for i in reversed(range(6))]).flip(0)
    assert_close(together, alone, atol=1e-6, rtol=0)


def test_another_seed_gives_another_image(image, seed):
    augment = Scribble()
    result, other = augment(image, seed), augment(image, seed + 1)
    assert ((result - other).abs().flatten(1).mean(dim=1) > 0.005).all()
    assert (result[0] - result[1]).abs().mean() > 0.005  # same image, different rows


def test_the_global_generator_is_left_alone(image, seed):
    before = torch.get_rng_state()
    Scribble()(image, seed)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["rotation", "shear", "scale", "shift", "warp", "thicken", "thin", "fade"])
def test_each_option_changes_the_image_by_itself(image, seed, name):
    result = Scribble(**{**OFF, name: 0.5})(image, seed)
    assert (result - image).abs().mean() > 1e-3


def test_thicken_only_adds_ink_and_thin_only_takes_it(image, seed):
    thick = Scribble(**{**OFF, "thicken": 1.0})(image, seed)
    thin = Scribble(**{**OFF, "thin": 1.0})(image, seed)
    assert (ink(thick) >= ink(image) - 1e-5).all()
    assert ink(thick).sum() > ink(image).sum() * 1.05
    assert (ink(thin) <= ink(image) + 1e-5).all()
    assert ink(thin).sum() < ink(image).sum() * 0.95


def test_low_resolution_blurs_but_keeps_the_ink(image, seed):
    many = torch.arange(200) * 7919
    page = image[:1].expand(200, -1, -1, -1)
    result = Scribble(**{**OFF, "resolution": 0.25})(page, many)
    untouched = (result - page).abs().flatten(1).amax(dim=1) < 1e-4
    assert 0.4 < untouched.float().mean() < 0.65
    kept = ink(result).sum(dim=(1, 2, 3)) / ink(page).sum(dim=(1, 2, 3))
    assert kept.min() > 0.8
    assert kept.max() < 1.2


def test_padding_is_paper(image, seed):
    result = Scribble(**{**OFF, "shift": 1.0})(image, seed)
    assert (result[:, :, [0, -1]] > 0.99).float().mean() > 0.9


def test_it_runs_in_float32_under_autocast(image, seed):
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(Scribble()(image, seed), Scribble()(image, seed))
        inside = Scribble()(image, seed)
    assert inside.dtype == torch.float32
    assert_close(inside, Scribble()(image, seed))


def test_an_impossible_resolution_is_refused():
    with pytest.raises(ValueError, match="resolution"):
        Scribble(resolution=0.0)

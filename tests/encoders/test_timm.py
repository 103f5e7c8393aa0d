import pytest
import timm
import torch

from contrastive.encoders.timm import TimmImage


@pytest.mark.parametrize(("model", "tokens"), [("test_vit", 17), ("test_convnext", 4), ("resnet10t", 4)])
def test_pooled_and_tokens_of_any_tower(model: str, tokens: int):
    tower = TimmImage(model, image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    pooled, sequence = tower(images)
    assert pooled.shape == (2, tower.width)
    assert sequence.shape == (2, tokens, tower.width)
    torch.testing.assert_close(pooled, tower.trunk(images))


def test_the_weights_of_a_local_folder_are_loaded(tmp_path):
    source = timm.create_model("test_vit", num_classes=0)
    timm.models.save_for_hf(source, tmp_path, safe_serialization=True)
    tower = TimmImage(f"local-dir:{tmp_path}", image_size=160, pretrained=True)
    for name, value in source.state_dict().items():
        assert torch.equal(tower.trunk.state_dict()[name], value)


def test_a_local_folder_is_never_random_by_silence(tmp_path):
    with pytest.raises(ValueError, match="say pretrained: true or false"):
        TimmImage(f"local-dir:{tmp_path}", image_size=160)

import open_clip
import torch

from contrastive.encoders.open_clip import OpenClipImage, OpenClipText

VISION = {"width": 32, "layers": 1, "head_width": 16, "patch_size": 8}
TEXT = {"width": 32, "heads": 2, "layers": 1}


def test_towers_are_those_of_a_whole_open_clip_model():
    vision, text = {**VISION, "image_size": 16}, {**TEXT, "context_length": 8, "vocab_size": 50}
    whole = open_clip.CustomTextCLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)
    image_tower = OpenClipImage(16, VISION)
    text_tower = OpenClipText(TEXT, vocab_size=50, context_length=8, pad_id=0)
    image_tower.tower.load_state_dict(whole.visual.state_dict())
    text_tower.tower.load_state_dict(whole.text.state_dict())
    images, ids = torch.randn(2, 3, 16, 16), torch.randint(1, 50, (2, 8))
    torch.testing.assert_close(image_tower(images)[0], whole.encode_image(images))
    torch.testing.assert_close(text_tower(ids)[0], whole.encode_text(ids))
    assert image_tower(images)[1].shape == (2, 4, 32)
    assert text_tower(ids)[1].shape == (2, 8, 32)


def test_a_tower_without_tokens_gives_its_pooled_output_as_one():
    tower = OpenClipImage(32, {"width": 16, "layers": [1, 1, 1, 1]}, width=24)
    pooled, tokens = tower(torch.randn(2, 3, 32, 32))
    assert pooled.shape == (2, 24)
    torch.testing.assert_close(tokens[:, 0], pooled)

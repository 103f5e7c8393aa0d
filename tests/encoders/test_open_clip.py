import open_clip
import pytest
import torch

from contrastive.encoders.open_clip import OpenClipImage, OpenClipText, encode_short, is_causal, is_short

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


def captions(end: int) -> torch.Tensor:
    return torch.tensor([[1, 5, 7, end, 0, 0, 0, 0], [1, end, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, end, 0, 0, 0]])


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize("options", [{}, {"pool_type": "eos", "eos_id": 40}])
def test_cutting_the_padding_changes_neither_features_nor_gradients(kind: type, options: dict):
    torch.manual_seed(0)
    vision, text = {**VISION, "image_size": 16}, {**TEXT, "context_length": 8, "vocab_size": 50, **options}
    model = kind(embed_dim=32, vision_cfg=vision, text_cfg=text)
    tower = getattr(model, "text", model)
    ids = captions(40 if options else 49)
    assert is_causal(tower)
    assert is_short(tower, ids[:, :5])
    assert not is_short(tower, ids)
    whole, cut = model.encode_text(ids), encode_short(tower, ids[:, :5])[0]
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)
    weights = [
        p for name, p in model.named_parameters() if p.requires_grad and "visual" not in name and "logit" not in name
    ]
    for ours, theirs in zip(
        torch.autograd.grad(cut.square().sum(), weights),
        torch.autograd.grad(whole.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}])
def test_a_tower_that_may_read_padding_is_given_all_of_it(options: dict):
    tower = OpenClipText({**TEXT, **options}, vocab_size=50, context_length=8, pad_id=0)
    assert tower.reads_padding

"""Layers in the order in which a model computes them."""

from pathlib import Path

from contrastive.export.layers import computed
from tests.export.toys import source


def test_layers_come_in_the_order_of_computation_not_of_definition(tmp_path: Path):
    found = computed(source("vit", tmp_path))
    assert found["image"][:2] == ["visual.conv1", "visual.patch_dropout"]
    assert found["image"].index("visual.transformer.resblocks.0") > found["image"].index(
        "visual.transformer.resblocks.0.ln_1"
    )
    assert found["text"][0] == "token_embedding"
    assert found["text"][-1] == "ln_final"


def test_no_tower_holds_layers_of_the_other(tmp_path: Path):
    found = computed(source("own_towers", tmp_path))
    assert not set(found["image"]) & set(found["text"])
    assert found["image"][-1] == "image_projection"
    assert found["text"][-1] == "text_projection"

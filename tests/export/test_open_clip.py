"""open_clip's folder: loaded by open_clip in a process of its own, the same model to the last bit."""

from pathlib import Path

import open_clip
import pytest
import torch

from contrastive.errors import ModelError
from contrastive.models.forms import open_built
from tests.export.toys import MODELS, Exported, export_all, exporter, source

HELD = [name for name in MODELS if name != "own_towers"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return export_all(HELD, "open_clip", tmp_path_factory.mktemp("open_clip"))


@pytest.mark.parametrize("name", HELD)
def test_open_clip_embeds_as_we_do_in_a_fresh_process(name: str, exported: dict[str, Exported]):
    parity = exported[name].parity
    assert max(one.max_distance for one in parity.towers.values()) <= 1e-6
    assert parity.pixels == 0
    assert parity.ids_equal == parity.ids_equal_mended == 1
    assert "contrastive" not in parity.read_with


@pytest.mark.parametrize("name", HELD)
def test_the_weights_come_back_bit_by_bit(name: str, exported: dict[str, Exported]):
    ours = exported[name].source.built
    back, _ = open_built(str(exported[name].folder))
    before, after = ours.model.state_dict(), back.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert back.preprocess == ours.preprocess
    assert back.tokenizer.spec.context_length == ours.tokenizer.spec.context_length


def test_own_towers_are_refused_by_name(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model.image.name 'cnn': open_clip has no model_cfg for it.*onnx"):
        exporter("open_clip").check(source("own_towers", tmp_path))


def test_the_scale_has_no_dimension_as_open_clip_has_it(exported: dict[str, Exported]):
    model = open_clip.create_model(f"local-dir:{exported['vit'].folder}", require_pretrained=True)
    assert model.logit_scale.shape == ()

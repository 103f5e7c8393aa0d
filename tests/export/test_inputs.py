"""Inputs without torch: the lines that we show give our pixels, our ids and our features."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contrastive.export import inputs
from contrastive.export.source import Source
from contrastive.modalities.image import Preprocess
from contrastive.models.build import Built
from tests.export.toys import source

SHAPES = [(640, 480), (333, 500), (32, 48), (90, 17), (400, 401), (32, 32), (7, 64)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source("siglip", tmp_path_factory.mktemp("small"))  # a tokenizer of 259 ids, read in no time


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("orientation", ["stored", "upright"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_the_lines_give_our_pixels_to_the_last_bit(
    mode: str, interpolation: str, orientation: str, small: Source, tmp_path: Path
):
    given = {"resize_mode": mode, "interpolation": interpolation, "orientation": orientation, "fill_color": 7}
    preprocess = Preprocess(32, **given)  # type: ignore[arg-type]
    found = Source(Built(small.built.model, preprocess, small.built.tokenizer, small.built.config), "", {}, "")
    inputs.write_inputs(found, tmp_path)
    lines = inputs.loading(str(tmp_path), preprocess)
    transform = preprocess.evaluation_transform()
    for shape in SHAPES:
        image = picture(*shape)
        image.getexif()[0x0112] = 6  # lies on its side
        values = {"image": image}
        exec(lines, values)
        assert np.array_equal(values["pixels"][0], transform(image).numpy()), shape
        assert values["pixels"].dtype == np.float32
    expected = small.built.tokenizer(["a photo of a cat"]).numpy()
    assert np.array_equal(values["ids"], expected)


def test_a_grey_image_is_taken_as_we_take_it(small: Source, tmp_path: Path):
    inputs.write_inputs(small, tmp_path)
    values = {"image": picture(50, 40, "L")}
    exec(inputs.loading(str(tmp_path), small.built.preprocess), values)
    expected = small.built.preprocess.evaluation_transform()(picture(50, 40, "L")).numpy()
    assert np.array_equal(values["pixels"][0], expected)


def test_inputs_say_all_that_a_user_needs(tmp_path: Path):
    found = source("siglip", tmp_path / "files")
    (tmp_path / "out").mkdir()
    inputs.write_inputs(found, tmp_path / "out")
    said, built = json.loads((tmp_path / "out" / inputs.INPUTS).read_text()), found.built
    assert said["preprocess"] == built.preprocess.to_dict()
    assert said["tokenizer"] == {"name": ".", "context_length": 16, "options": {"clean": "canonicalize"}}
    assert (said["context_length"], said["embed_dim"], said["pad_id"]) == (16, 48, built.tokenizer.pad_id)
    assert said["logit_scale"] == built.model.logit_scale.item()
    assert said["logit_bias"] == -10.0


def test_the_card_says_how_logits_are_made_and_what_the_tokenizer_does_not_mend(tmp_path: Path):
    said = " ".join(inputs.notes(source("siglip", tmp_path)))
    assert "exp(logit_scale) * image_features @ text_features.T + logit_bias" in said
    assert "ftfy" in said

"""What is compared, and what is said where it differs: with a format that remembers what the source computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contrastive.errors import ModelError
from contrastive.export import parity as module
from contrastive.export.exporter import Tolerance, Written
from contrastive.export.parity import Claim, Parity, verify, verify_all
from contrastive.export.probe import MENDED, Probe
from contrastive.export.source import Source
from tests.export.toys import small_probe, source

BLOCKS = [f"visual.transformer.resblocks.{number}" for number in range(2)]
READER = """
import numpy as np
class Reader:
    def __init__(self, folder):
        self.kept = dict(np.load(folder + "/kept.npz"))
    def embed_image(self, pixels):
        return self.kept["image"]
    def embed_text(self, ids):
        return self.kept["text"]
    def pixels(self, images):
        return self.kept["pixels"]
    def ids(self, texts):
        assert len(texts) == len(self.kept["ids"])
        return self.kept["ids"]
    def numbers(self):
        return {"logit_scale": self.kept["logit_scale"]}
    def extra(self):
        return {"extra:said": np.array([7.0])}
    def layers(self, wanted, pixels, ids):
        return {name: self.kept[name] for names in wanted.values() for name in names}
"""


class Remembering:
    """A format that keeps what the source computes; `change` falsifies it."""

    towers = ("image", "text")

    def __init__(self, reader: Path, tolerance: Tolerance) -> None:
        self.reader, self.tolerance = str(reader.with_suffix("")), tolerance

    def write(self, found: Source, folder: Path, probe: Probe, change: Callable[[dict[str, Any]], None]) -> Written:
        pixels = torch.stack([found.built.preprocess.evaluation_transform()(image) for image in probe.images])
        ids = found.built.tokenizer([*probe.texts, *MENDED])
        blocks: dict[str, Any] = {}
        hooks = []
        for name in BLOCKS:

            def keep(_module: Any, _inputs: Any, output: Any, name: str = name) -> None:
                blocks[name] = output.numpy().copy()

            hooks.append(found.inner.get_submodule(name).register_forward_hook(keep))
        features = found.embed(pixels, ids)
        for hook in hooks:
            hook.remove()
        kept = {name: 3 * value.numpy() for name, value in features.items()}  # of any length
        scale = found.built.model.logit_scale.detach().numpy()
        kept |= {"pixels": pixels.numpy(), "ids": ids.numpy(), "logit_scale": scale, **blocks}
        change(kept)
        np.savez(folder / "kept.npz", **kept)
        return Written({"image": [(name, name) for name in BLOCKS]})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source("vit", tmp_path_factory.mktemp("files"))


def claim(found: Source, place: Path, change: Callable[[dict[str, Any]], None], **tolerance: Any) -> Claim:
    place.mkdir(parents=True)
    (place / "reader.py").write_text(READER)
    exporter: Any = Remembering(place / "reader.py", Tolerance(**tolerance))
    probe = small_probe()
    return Claim(found, exporter, exporter.write(found, place, probe, change), place, probe)


def changed(name: str, how: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(kept: dict[str, Any]) -> None:
        kept[name] = how(kept[name])

    return change


def with_row(value: float) -> Callable[[Any], Any]:
    def how(features: Any) -> Any:
        features = features.copy()
        features[1, 0] += value
        return features

    return how


def test_what_is_equal_is_equal_and_its_figures_are_those_of_float64(model: Source, tmp_path: Path):
    found = verify(claim(model, tmp_path / "a", lambda _kept: None))
    assert isinstance(found, Parity)
    assert found.pixels == 0
    assert found.ids_equal == found.ids_equal_mended == 1
    assert found.extra == {"said": [7.0]}
    for tower, inputs in (("image", 8), ("text", 15)):
        agreement = found.towers[tower]
        assert agreement.inputs == inputs
        assert agreement.max_difference <= agreement.max_distance < 1e-6
        assert agreement.min_cosine == pytest.approx(1)


def test_a_single_row_that_is_too_far_is_refused_with_the_distance_that_it_has(model: Source, tmp_path: Path):
    with pytest.raises(ModelError, match=r"the image tower differs: unit vectors are (\S+) apart, at most 1e-05") as e:
        verify(claim(model, tmp_path / "a", changed("image", with_row(0.01))))
    before = model.embed(
        torch.stack([model.built.preprocess.evaluation_transform()(i) for i in small_probe().images]), None
    )
    row = 3 * before["image"][1].double()
    other = row.clone()
    other[0] += 0.01
    expected = (other / other.norm() - row / row.norm()).norm().item()
    assert float(str(e.value).split("unit vectors are ")[1].split()[0]) == pytest.approx(expected, rel=0.06)


def test_the_first_layer_that_differs_is_named(model: Source, tmp_path: Path):
    def falsify(kept: dict[str, Any]) -> None:
        kept["image"] = with_row(1)(kept["image"])
        kept[BLOCKS[1]] = kept[BLOCKS[1]] * 1.01

    said = rf"first layer that differs is {BLOCKS[1]} \(ours: {BLOCKS[1]}\), by 1.0e-02 of its norm, behind {BLOCKS[0]}"
    with pytest.raises(ModelError, match=said):
        verify(claim(model, tmp_path / "a", falsify))


def test_a_layer_of_another_shape_differs(model: Source, tmp_path: Path):
    def falsify(kept: dict[str, Any]) -> None:
        kept["image"] = with_row(1)(kept["image"])
        kept[BLOCKS[0]] = kept[BLOCKS[0]][:, 1:]

    with pytest.raises(ModelError, match=r"differs is .*resblocks.0.*: \[8, 16, 48\], ours \[8, 17, 48\]"):
        verify(claim(model, tmp_path / "a", falsify))


def test_where_all_layers_agree_it_is_what_follows(model: Source, tmp_path: Path):
    with pytest.raises(ModelError, match=rf"every layer up to {BLOCKS[1]} agrees; what comes behind it differs"):
        verify(claim(model, tmp_path / "a", changed("image", with_row(1))))


def test_a_format_without_layers_says_so(model: Source, tmp_path: Path):
    with pytest.raises(ModelError, match=r"the text tower differs.*shows no layers of its own"):
        verify(claim(model, tmp_path / "a", changed("text", with_row(1))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("image", lambda x: x * np.nan), "the image tower differs: unit vectors are nan apart"),
        (changed("text", with_row(float("inf"))), "the text tower differs: unit vectors are nan apart"),
        (changed("image", lambda x: x[:, :-1]), r"the image tower gives \[8, 23\] features, ours \[8, 24\]"),
        (changed("logit_scale", lambda x: x + 0.001), r"logit_scale is 2.66\d+, ours 2.65\d+"),
        (
            changed("pixels", lambda x: x[:, :, :-1]),
            r"preprocessing gives \[8, 3, 31, 32\] pixels, ours \[8, 3, 32, 32\]",
        ),
        (changed("ids", lambda x: x[:-1]), "could not be read again in a fresh process: AssertionError"),
    ],
)
def test_what_is_no_number_or_has_another_shape_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, model: Source, tmp_path: Path
):
    with pytest.raises(ModelError, match=said):
        verify(claim(model, tmp_path / "a", change))


def test_a_cosine_is_enough_where_the_format_asks_for_no_more(model: Source, tmp_path: Path):
    near, far = changed("image", with_row(0.2)), changed("image", with_row(1.5))
    one = claim(model, tmp_path / "a", near, distance=None, cosine=0.99)
    two = claim(model, tmp_path / "b", far, distance=None, cosine=0.99)
    first, second = verify_all([one, two])
    assert isinstance(first, Parity)
    assert 0.99 <= first.towers["image"].min_cosine < 0.9999
    assert set(first.milliseconds) == {"image x 1", "image x 32", "text x 1", "text x 32"}  # what is bought with it
    assert all(before > after >= 0 for before, after in first.milliseconds.values())  # ours computes, the other reads
    assert "the least cosine is 0." in str(second)
    assert "at least 0.99 is asked for" in str(second)


def test_token_ids_may_differ_in_what_fills_them_up_only(model: Source, tmp_path: Path):
    def other_padding(ids: Any) -> Any:  # behind the end token, which is the largest id
        return np.where(np.arange(ids.shape[1]) > ids.argmax(1)[:, None], 9, ids)

    def one_word(ids: Any) -> Any:
        ids = ids.copy()
        ids[0, 1] += 1
        return ids

    shares = [
        verify(claim(model, tmp_path / str(number), changed("ids", how))).ids_equal
        for number, how in enumerate((other_padding, one_word, lambda ids: ids[:, :70]))
    ]
    assert shares == [1, pytest.approx(11 / 12), pytest.approx(11 / 12)]  # the longest caption does not fit into 70


def test_a_reader_that_does_not_answer_is_ended(model: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = claim(model, tmp_path / "a", lambda _kept: None)
    (tmp_path / "a" / "reader.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(module, "READ_SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"could not be read again in a fresh process: no answer in 0 s"):
        verify(one)


def test_a_reader_that_crashes_says_what_it_said_last(model: Source, tmp_path: Path):
    one = claim(model, tmp_path / "a", lambda _kept: None)
    (tmp_path / "a" / "reader.py").write_text("import sys\nsys.exit('the library is too old')\n")
    with pytest.raises(ModelError, match=r"fresh process: the library is too old$"):
        verify(one)

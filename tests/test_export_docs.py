"""docs/export.md: what it says is held is held, and its loading lines give our embeddings."""

import ast
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from contrastive.errors import ModelError
from contrastive.export.source import Source, open_source
from contrastive.registry import EXPORTERS
from tests.export.toys import MODELS, exporter, small_probe, source
from tests.parity.toy_model import FOLDER as TRAINED

PAGE = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
ROWS = [re.split(r"\s*\|\s*", line.strip("| ")) for line in PAGE.splitlines() if re.search(r"\| [●○] \|", line)]
HEAD = next(re.split(r"\s*\|\s*", line.strip("| ")) for line in PAGE.splitlines() if line.startswith("| model |"))
SNIPPETS = dict(re.findall(r"\n### (\w+)\n(?:(?!\n###).)*?```python\n(.*?)\n```", PAGE, re.DOTALL))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].split("`")[-2])
def test_the_table_of_what_is_held_is_what_the_exporters_say(row: list[str], tmp_path: Path):
    found = source(row[0].split("`")[-2], tmp_path)
    for name, said in zip(HEAD[1:], row[1:], strict=True):
        if said == "●":
            exporter(name).check(found)
            continue
        with pytest.raises(ModelError, match=r"^(model\.|model_cfg)\S+ .*export to .*onnx"):
            exporter(name).check(found)


def test_the_table_has_every_kind_of_model_and_every_format():
    assert sorted(HEAD[1:]) == sorted(EXPORTERS)
    assert {row[0].split("`")[-2] for row in ROWS} == set(MODELS)
    assert set(SNIPPETS) == set(EXPORTERS)


@pytest.fixture(scope="module")
def trained() -> Source:
    return open_source(f"local-dir:{TRAINED}")


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_the_loading_lines_give_our_embeddings(
    name: str, trained: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one, image = exporter(name), small_probe().images[0]
    place = tmp_path / "exports" / name
    place.mkdir(parents=True)
    one.write(trained, place, small_probe())
    lines = SNIPPETS[name]
    # What the card shows, but for how the lines are broken.
    assert ast.dump(ast.parse(lines)) == ast.dump(ast.parse(one.loading(f"exports/{name}")))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"image": Image.fromarray(__import__("numpy").asarray(image))}
    with torch.no_grad():
        exec(compile(lines, f"docs/export.md: {name}", "exec"), scope)
    pixels = trained.built.preprocess.evaluation_transform()(image)[None]
    ours = trained.embed(pixels, trained.built.tokenizer(["a photo of a cat"]))
    for tower in one.towers:
        theirs = F.normalize(torch.as_tensor(scope[f"{tower}_features"]).float(), dim=-1)
        least = 0.999999 if one.tolerance.cosine is None else one.tolerance.cosine
        assert F.cosine_similarity(theirs, ours[tower]).item() > least

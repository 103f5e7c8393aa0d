import ast
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from contrastive.export.card import base_model, write_card
from contrastive.export.card_facts import CardFacts, Change, Evaluation
from contrastive.export.exporter import Tolerance, Written
from contrastive.export.open_clip import OpenClip
from contrastive.export.parity import Agreement, Claim, Parity
from contrastive.export.probe import Probe
from contrastive.export.source import Source
from contrastive.settings import Config, DataConfig, ModelConfig
from tests.export.toys import source

PARITY = Parity(
    {"image": Agreement(8, 3.1e-7, 1e-7, 0.9999999), "text": Agreement(15, 2e-7, 1e-7, 0.9999998)},
    pixels=0.0,
    ids_equal=1.0,
    read_with={"open_clip": "3.3.0", "torch": "2.15.0"},
)
ROWS: list[dict[str, Any]] = [
    {
        "dataset": "digits",
        "task": "zeroshot",
        "n": 1797,
        "metrics": {
            "top1": {"value": 0.78853645, "ci95": [0.7694, 0.8071], "chance": 0.1},
            "mean_rank": {"value": None, "ci95": None, "chance": None, "reason": "not a number"},
        },
    },
    {"dataset": "faces", "task": "retrieval", "n": 0, "metrics": {}, "error": "/home/joe/faces: is missing"},
]
EVALUATION = Evaluation(ROWS, "2026-11-21T17:28:04+0000", {"digits": "en", "faces": "de"})


class ImageOnly(OpenClip):
    towers = ("image",)


class Int8(OpenClip):
    tolerance = Tolerance(distance=None, cosine=0.99, accuracy=0.01)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return source("vit", tmp_path_factory.mktemp("toy"))


@pytest.fixture
def facts(toy: Source, tmp_path: Path) -> CardFacts:
    claim = Claim(toy, OpenClip(), Written(notes=("Read by `open_clip` alone.",)), tmp_path, Probe((), ()))
    config = asdict(Config(data=DataConfig(train="data/glyphs/train")))
    return CardFacts("glyphs-vit", "open_clip", claim, PARITY, config, {"samples": 20455}, EVALUATION)


def written(facts: CardFacts, folder: Path) -> ModelCard:
    return ModelCard.load(write_card(folder, facts))


def test_the_head_is_what_the_hub_reads(facts: CardFacts, tmp_path: Path) -> None:
    head = written(replace(facts, licence="mit"), tmp_path).data
    assert (head.library_name, head.pipeline_tag) == ("open_clip", "zero-shot-image-classification")
    assert (head.license, head.language, head.model_name) == ("mit", ["en"], "glyphs-vit")
    (result,) = head.eval_results
    assert (result.task_type, result.dataset_name) == ("zero-shot-image-classification", "digits")
    assert (result.metric_type, result.metric_name, result.metric_value) == ("accuracy", "top1", 0.788536)


def test_figures_stand_beside_their_interval_chance_and_number_of_images(facts: CardFacts, tmp_path: Path) -> None:
    text = written(facts, tmp_path).text
    assert "| digits | zeroshot | top1 | 0.7885 | 0.7694 to 0.8071 | 0.1 | 1,797 |" in text
    assert "| digits | zeroshot | mean_rank | – |" in text
    assert "| faces | retrieval | could not be measured |" in text
    assert "Measured on 2026-11-21" in text


def test_the_loading_lines_are_python_and_name_the_folder(facts: CardFacts, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", written(facts, tmp_path).text, re.DOTALL)
    ast.parse(block)
    assert 'create_model_and_transforms("local-dir:glyphs-vit"' in block


@pytest.mark.parametrize("name", ['a"; import os', "```\n# x", "a|b <script>", "---\nlicense: mit\n---"])
def test_no_name_breaks_the_card(facts: CardFacts, tmp_path: Path, name: str) -> None:
    rows = [{**ROWS[0], "dataset": name, "task": name}]
    hostile = replace(facts, name=name, format=name, licence=None, evaluation=Evaluation(rows, name, {name: name}))
    card = written(hostile, tmp_path)
    plain = written(replace(facts, evaluation=Evaluation(ROWS[:1], "2026")), tmp_path)
    assert card.data.get("license") is None
    assert "<script" not in card.content
    (block,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.DOTALL | re.MULTILINE)
    ast.parse(block)
    assert "local-dir:FOLDER" in block
    lines = [card.text.splitlines(), plain.text.splitlines()]
    assert [re.sub(r"#.*", "#", line)[:2] for line in lines[0]] == [re.sub(r"#.*", "#", line)[:2] for line in lines[1]]


@pytest.mark.parametrize(("codes", "expected"), [({}, None), ({"digits": "cn"}, ["zh"]), ({"digits": "?"}, None)])
def test_only_languages_that_are_known_are_claimed(
    facts: CardFacts, tmp_path: Path, codes: dict[str, str], expected: list[str] | None
) -> None:
    assert written(replace(facts, evaluation=Evaluation(ROWS, "2026", codes)), tmp_path).data.language == expected


def test_what_lies_on_the_hub_is_downloaded_first(facts: CardFacts, tmp_path: Path) -> None:
    text = written(replace(facts, name="me/glyphs"), tmp_path).text
    assert "`hf download me/glyphs --local-dir glyphs` gets it." in text
    assert '"local-dir:glyphs"' in text


def test_a_tower_that_was_built_from_a_folder_does_not_name_it(facts: CardFacts, tmp_path: Path) -> None:
    built = facts.claim.source.built
    cfg = {**built.config.model_cfg, "vision_cfg": {"timm_model_name": "local-dir:/home/joe/tower"}}
    hidden = replace(facts.claim.source, built=replace(built, config=replace(built.config, model_cfg=cfg)))
    text = written(replace(facts, claim=replace(facts.claim, source=hidden)), tmp_path).text
    assert "local-dir:tower of timm" in text
    assert "joe" not in text


def test_no_secret_and_no_folder_of_the_machine_is_shown(facts: CardFacts, tmp_path: Path) -> None:
    config = asdict(Config(data=DataConfig(train="/home/joe/shards", cache="/home/joe/cache")))
    config["losses"] = {"mine": {"name": "infonce", "api_token": "hf_secret", "file": "/home/joe/loss.json"}}
    config["model"]["teacher"] = {"checkpoint": "/home/joe/runs/teacher"}
    config["data"]["sources"] = {"web": {"shards": "https://joe:pass@host/x.tar?sig=pass", "weight": 0.5}}
    environment = {"host": "joes-laptop", "command": ["--x=/home/joe"], "processor": "Xeon", "world_size": 2}
    claim = replace(facts.claim, source=replace(facts.claim.source, form="/home/joe/runs/a"))
    notes = Written(notes=("Its words are in /home/joe/words.txt.",))
    card = replace(facts, config=config, environment=environment, claim=replace(claim, written=notes))
    text = written(card, tmp_path).content
    for secret in ("joe", "hf_secret", "pass@", "sig=pass", "laptop", str(tmp_path)):
        assert secret not in text
    for kept in ("web (https://…@host/x.tar?…, weight 0.5)", "teacher", "words.txt", "loss.json", "2 × Xeon"):
        assert kept in text


def test_the_training_is_told_by_the_configuration(facts: CardFacts, tmp_path: Path) -> None:
    claim = replace(facts.claim, source=replace(facts.claim.source, info={"step": 3125, "samples_seen": 409100}))
    text = written(replace(facts, claim=claim), tmp_path).text
    for line in (
        "| data | data/glyphs/train |",
        "| size of the data | 20,455 pairs |",
        "| captions | txt |",
        "| samples seen | 409,100 (20 per pair) |",
        "| losses | contrastive: infonce |",
        "| global batch size | 256 |",
        "| weights | after step 3,125, 409,100 samples seen |",
    ):
        assert line in text


def test_the_towers_are_told_with_their_sizes(facts: CardFacts, tmp_path: Path) -> None:
    text = written(facts, tmp_path).text
    inner = facts.claim.source.inner
    image = sum(value.numel() for value in inner.visual.parameters())
    whole = sum(value.numel() for value in inner.parameters())
    assert f"Vision Transformer, 2 layers, width 48, patches of 8 pixels; {image:,} parameters" in text
    assert f"up to 77 tokens of CLIP's byte pairs; {whole - image - 1:,} parameters" in text


def test_a_bias_of_the_logits_is_told(facts: CardFacts, tmp_path: Path) -> None:
    biased = replace(facts.claim, source=source("vit_bias", tmp_path))
    scale = "multiplied by 14.3 (logit_scale), then -10.0 is added (logit_bias) before a sigmoid"
    assert scale in written(replace(facts, claim=biased), tmp_path).text


def test_a_model_of_elsewhere_names_it_and_claims_no_training(facts: CardFacts, tmp_path: Path) -> None:
    claim = replace(facts.claim, source=replace(facts.claim.source, form="hf-hub:timm/ViT-B-16-SigLIP"))
    card = written(replace(facts, claim=claim, config=None, evaluation=None), tmp_path)
    assert card.data.base_model == "timm/ViT-B-16-SigLIP"
    assert "for its data and training see timm/ViT-B-16-SigLIP" in card.text
    assert "It had not been evaluated when it was exported" in card.text
    assert card.data.get("language") is None


@pytest.mark.parametrize(
    ("form", "model", "expected"),
    [
        ("ViT-B-32@laion2b_s34b_b79k", None, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("ViT-B-32@/home/joe/weights.pt", None, None),
        ("hf:openai/clip-vit-base-patch32", None, "openai/clip-vit-base-patch32"),
        ("local-dir:/home/joe/model", None, None),
        ("runs/a", ModelConfig(name="hf-hub:org/name"), "org/name"),
        (
            "runs/a",
            ModelConfig(name="ViT-B-32", pretrained="laion2b_s34b_b79k"),
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ),
        ("runs/a", ModelConfig(name="ViT-B-32"), None),
    ],
)
def test_the_base_model_is_the_one_it_was_made_from(
    facts: CardFacts, form: str, model: ModelConfig | None, expected: str | None
) -> None:
    claim = replace(facts.claim, source=replace(facts.claim.source, form=form))
    config = None if model is None else asdict(Config(model=model))
    assert base_model(replace(facts, claim=claim, config=config)) == expected


def test_figures_of_the_original_are_not_claimed_for_an_inexact_export(facts: CardFacts, tmp_path: Path) -> None:
    claim = replace(facts.claim, exporter=Int8())
    config = asdict(Config(model=ModelConfig(name="hf-hub:org/name")))
    changes = (Change("size", 3.63, 1.21, "MB"), Change("digits top1", 0.7885, 0.788))
    card = written(replace(facts, format="onnx_int8", claim=claim, config=config, changes=changes), tmp_path)
    assert card.data.get("model-index") is None
    assert card.data.to_dict()["base_model_relation"] == "quantized"
    assert "These are figures of the whole model in float32" in card.text
    assert "| size, MB | 3.63 | 1.21 |" in card.text
    assert "Asked for: a cosine of at least 0.99 and zero-shot accuracy within 1 point." in card.text


def test_an_image_tower_alone_is_not_sold_as_more(facts: CardFacts, tmp_path: Path) -> None:
    claim = replace(facts.claim, exporter=ImageOnly())
    card = written(replace(facts, format="timm", claim=claim), tmp_path)
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-feature-extraction")
    assert card.data.get("model-index") is None
    for absent in ("text tower |", "zero-shot classification", "logit_scale"):
        assert absent not in card.text


def test_without_a_licence_none_is_claimed(facts: CardFacts, tmp_path: Path) -> None:
    card = written(facts, tmp_path)
    assert card.data.get("license") is None
    assert "None was given: ask whoever published this" in card.text


def test_the_proof_is_told(facts: CardFacts, tmp_path: Path) -> None:
    text = written(facts, tmp_path).text
    assert "a fresh process with open_clip 3.3.0," in text
    assert "| image | 8 | 3.1e-07 | 1.000000 |" in text
    assert "a distance of at most 1e-05." in text
    assert "Preprocessed pixels are equal." in text
    assert "- Read by `open_clip` alone." in text

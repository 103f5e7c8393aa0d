import json
import re
from pathlib import Path

import pytest

from contrastive.errors import DataError
from contrastive.eval.prompts import LANGUAGES, NAMELESS, Prompts, prompts_of, shipped, shipped_names
from contrastive.eval.samples import Content
from contrastive.eval.spec import DatasetSpec


def prompts(own_names: tuple[str, ...] = (), own_templates: tuple[str, ...] = (), **keys: object) -> Prompts:
    spec = DatasetSpec.from_dict({"name": "pets", "root": "x", **keys}, "pets.yaml")
    return prompts_of(spec, Content((), ("classification",), own_names, own_templates))


def refused(own_names: tuple[str, ...] = (), own_templates: tuple[str, ...] = (), **keys: object) -> str:
    with pytest.raises(DataError, match=r"^dataset pets: ") as error:
        prompts(own_names, own_templates, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


# What goes into a prompt


def test_both_placeholders_take_the_name_and_names_with_braces_stay_as_they_are() -> None:
    found = prompts(classnames=["cat", "a {} set", "50%"], templates=["a {c}.", "the {}, a {c}"])
    assert found.texts == (
        ("a cat.", "the cat, a cat"),
        ("a a {} set.", "the a {} set, a a {} set"),
        ("a 50%.", "the 50%, a 50%"),
    )
    assert found.templates == ("a {c}.", "the {}, a {c}")


def test_synonyms_are_prompted_template_by_template_and_the_first_is_shown() -> None:
    found = prompts(classnames=["happy | smiling", "sad"], templates=["a {c} face", "{c}!"])
    assert found.classnames == ("happy", "sad")
    assert found.texts == (("a happy face", "a smiling face", "happy!", "smiling!"), ("a sad face", "sad!"))


def test_double_names_and_templates_of_published_lists_are_kept() -> None:
    found = prompts(classnames=["crane", "crane"], templates=["a {c}", "a {c}"])
    assert found.classnames == ("crane", "crane")
    assert found.texts == (("a crane", "a crane"),) * 2


def test_one_template_may_stand_without_a_list() -> None:
    assert prompts(("cat",), templates="my {c}").texts == (("my cat",),)


def test_names_and_templates_are_read_from_text_and_json(tmp_path: Path) -> None:
    names = written(tmp_path / "names.txt", "\ufeffcat\r\ndog\r\n\r\n")
    templates = written(tmp_path / "templates.json", ["a {}"])
    assert prompts(classnames=names, templates=templates).texts == (("a cat",), ("a dog",))
    assert prompts(classnames=written(tmp_path / "n.json", ["Katze"]), templates=templates).classnames == ("Katze",)


# What holds where the YAML says nothing


def test_yaml_goes_before_the_layout() -> None:
    found = prompts(("own",), ("own {c}",), classnames=["given"], templates=["given {c}"])
    assert found.texts == (("given given",),)


def test_layout_goes_before_the_templates_of_the_named_list() -> None:
    assert prompts(("own",), ("own {c}",), classnames="mnist").texts[0] == ("own 0",)


def test_templates_of_the_named_list_go_before_the_default() -> None:
    assert prompts(classnames="mnist").texts[3] == ('a photo of the number: "3".',)


def test_default_is_the_sentence_of_the_paper() -> None:
    assert prompts(("cat",)).texts == (("a photo of a cat.",),)


def test_in_other_languages_no_english_sentence_is_put_around_a_name() -> None:
    assert prompts(("gatto",), language="it").texts == (("gatto",),)
    found = prompts(("tench",), ("a photo of a {c}.",), classnames="imagenet1k", language="it")
    assert found.templates == shipped("templates", "imagenet1k", "it")
    assert found.templates != shipped("templates", "imagenet1k")


def test_a_dataset_without_names_is_refused() -> None:
    assert refused() == (
        "dataset pets: no classnames are known; set classnames (one class a line, in the order of the labels)"
    )
    assert "classnames is an empty list" in refused(("own",), classnames=[])
    assert "templates is an empty list" in refused(("own",), templates=[])


@pytest.mark.parametrize("names", [("cat", "", "dog"), ("cat", " ", "dog"), ("cat", "a||b", "dog")])
def test_an_empty_name_is_refused(names: tuple[str, ...]) -> None:
    assert f"class 1 is {names[1]!r}" in refused(names)
    assert f"class 1 is {names[1]!r}" in refused(classnames=list(names))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a photo", "template 'a photo' has no {c}; write {c} or {} where the class name goes"),
        ("a {label}", "template 'a {label}' has the unknown placeholder {label}; write {c} or {}"),
        ("a {0} {c}", "unknown placeholder {0}"),
        ("", "template '' has no {c}"),
    ],
)
def test_a_template_with_another_placeholder_or_none_is_refused(template: str, message: str) -> None:
    assert message in refused(("cat",), templates=[template])
    assert message in refused(("cat",), (template,) if template else ("",))


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.txt")
    assert f"there is no file {missing}; write it (one class a line" in refused(classnames=missing)
    assert "line 2 is empty" in refused(classnames=written(tmp_path / "gap.txt", "cat\n\ndog\n"))
    assert f"there is no file {tmp_path / 'none.json'}" in refused(classnames=str(tmp_path / "none.json"))
    assert "is not JSON" in refused(classnames=written(tmp_path / "broken.json", "[1,"))
    assert "must be a JSON list of strings" in refused(classnames=written(tmp_path / "numbers.json", [1, 2]))
    assert "must be a JSON list of names" in refused(classnames=written(tmp_path / "cupl.json", {"cat": ["a cat"]}))
    assert "is a folder" in refused(classnames=str(tmp_path))


# Prompts class by class


def test_prompts_of_each_class_have_no_templates_and_may_be_of_any_number(tmp_path: Path) -> None:
    path = written(tmp_path / "cupl.json", {"dog": ["it barks"], "cat": ["it purrs", "a {c} with whiskers"], "cow": []})
    found = prompts(("cat", "dog"), templates=path)
    assert found == Prompts(("cat", "dog"), (("it purrs", "a cat with whiskers"), ("it barks",)), ())


def test_prompts_of_each_class_are_found_by_a_synonym(tmp_path: Path) -> None:
    path = written(tmp_path / "cupl.json", {"smiling": ["a smile"], "sad|low": ["tears"]})
    assert prompts(("happy|smiling", "sad|low"), templates=path).texts == (("a smile",), ("tears",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cats": ["x"]}, "class 'cat' has no prompts; add it; is it 'cats' there?"),
        ({"dog": ["x"]}, "class 'cat' has no prompts; add it"),
        ({"cat": []}, "class 'cat' must have a list of at least one prompt"),
        ({"cat": "x"}, "class 'cat' must have a list of at least one prompt"),
        ({"cat": ["x", " "]}, "class 'cat': ' ' is no prompt"),
        ({"cat": [3]}, "class 'cat': 3 is no prompt"),
        ({"cat": ["a {name}"]}, "class 'cat' has the unknown placeholder {name}"),
    ],
)
def test_wrong_prompts_of_a_class_are_refused(content: object, message: str, tmp_path: Path) -> None:
    assert message in refused(("cat",), templates=written(tmp_path / "cupl.json", content))


# The lists of the package


def test_named_lists_are_used_with_their_language() -> None:
    found = prompts(classnames="imagenet1k", templates="simple")
    assert (len(found.classnames), found.classnames[0], len(found.templates)) == (1000, "tench", 7)
    assert found.texts[0][0] == "itap of a tench."
    assert prompts(classnames="imagenet1k", language="ja").classnames[1] == "金魚"
    assert prompts(classnames="imagenet1k", language="jp") == prompts(classnames="imagenet1k", language="ja")


def test_english_imagenet_is_what_open_clip_uses() -> None:
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    found = prompts(classnames="imagenet1k")
    assert found.classnames == tuple(IMAGENET_CLASSNAMES)
    assert found.texts[7] == tuple(template("rooster") for template in OPENAI_IMAGENET_TEMPLATES)


def test_variants_of_imagenet_take_their_classes_and_its_templates() -> None:
    found = prompts(classnames="imagenet-r")
    assert found.classnames[:4] == ("goldfish", "great white shark", "hammerhead shark", "stingray")
    assert len(found.templates) == 80
    assert set(found.classnames) < set(shipped("classnames", "imagenet1k"))
    assert prompts(classnames="imagenet-r", language="it").classnames[0] == shipped("classnames", "imagenet1k", "it")[1]


def test_the_nameless_class_of_a_published_list_is_prompted_as_published() -> None:
    found = prompts(classnames="clevr_closest_object_distance")
    assert found.texts[3] == (" shapes.",)
    assert found.classnames[3] == NAMELESS


def test_an_unknown_list_is_refused_with_the_closest() -> None:
    assert refused(classnames="imagenet1") == (
        "dataset pets: classnames: there is no file imagenet1, and no list of that name comes with the package; "
        "did you mean imagenet1k?"
    )
    assert "did you mean openai?" in refused(("cat",), templates="open_ai")
    assert "in language 'it'; it comes in: en" in refused(("gatto",), templates="simple", language="it")
    assert "in language 'xx'; languages that have lists: ar, en" in refused(classnames="nothing", language="xx")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_list_of_the_package_is_sound(language: str) -> None:
    for name in shipped_names("classnames", language):
        assert all(isinstance(entry, str) for entry in shipped("classnames", name, language))
        assert prompts(classnames=name, language=language).texts
    for name in shipped_names("templates", language):
        for template in shipped("templates", name, language):
            assert re.findall(r"\{[^{}]*\}", template) == ["{c}"], (name, template)


def test_lists_have_the_published_numbers_of_classes() -> None:
    numbers = {
        "birdsnap": 500, "caltech101": 102, "caltech101_vtab": 102, "cars": 196, "cifar10": 10, "cifar100": 100,
        "clevr_closest_object_distance": 6, "clevr_count_all": 8, "country211": 211, "diabetic_retinopathy": 5,
        "dmlab": 6, "dtd": 47, "eurosat": 10, "fer2013": 7, "fer2013_synonyms": 7, "fgvc_aircraft": 100,
        "flowers": 102, "food101": 101, "gtsrb": 43, "hateful_memes": 2, "imagenet-a": 200, "imagenet-o": 200,
        "imagenet-r": 200, "imagenet1k": 1000, "kinetics700": 700, "kitti_closest_vehicle_distance": 4, "mnist": 10,
        "pcam": 2, "pets": 37, "renderedsst2": 2, "resisc45": 45, "stl10": 10, "sun397": 397, "svhn": 10,
        "ucf101": 101, "voc2007": 20,
    }  # fmt: skip
    assert {name: len(shipped("classnames", name)) for name in shipped_names("classnames")} == numbers
    for language in LANGUAGES:
        assert len(shipped("classnames", "imagenet1k", language)) == 1000

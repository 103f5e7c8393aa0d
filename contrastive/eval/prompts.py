"""Class names and prompts: from the YAML, a file, the lists that come with the package, or the layout itself.

The lists and their sources are described in prompt_lists/README.md. Where a YAML sets no templates, these hold, the
first that exists: the layout's own, those of the list that `classnames` names, and DEFAULT_TEMPLATES. In a language
other than English the list's go before the layout's, which are most likely English.
"""

import difflib
import importlib.resources
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contrastive.errors import DataError
from contrastive.eval.lines import how_to_make, read_lines
from contrastive.eval.samples import Content
from contrastive.eval.spec import DatasetSpec
from contrastive.registry import suggest

Key = Literal["classnames", "templates"]
Given = tuple[str, ...] | dict[str, Any]

HOLE = re.compile(r"\{c?\}")  # {c} of CLIP_benchmark, {} of OpenAI's lists
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
SYNONYMS = "|"
NAMELESS = "(no word)"  # shown for a class that its list describes by the template alone
DEFAULT_TEMPLATES = {"en": ("a photo of a {c}.",)}  # Radford et al. 2021, section 3.1.4; elsewhere the name alone
NAME_ALONE = ("{c}",)
LANGUAGES = ("ar", "en", "it", "ja", "zh")
LANGUAGE_ALIASES = {"cn": "zh", "jp": "ja"}  # as CLIP_benchmark spells them
FROM_OPEN_CLIP = {  # English; open_clip is the source that the field shares
    ("classnames", "imagenet1k"): "IMAGENET_CLASSNAMES",
    ("templates", "imagenet1k"): "OPENAI_IMAGENET_TEMPLATES",
    ("templates", "openai"): "OPENAI_IMAGENET_TEMPLATES",
    ("templates", "simple"): "SIMPLE_IMAGENET_TEMPLATES",
}
CONTENT = {
    "classnames": "one class a line, in the order of the labels",
    "templates": "one template a line, such as a photo of a {c}.",
}


@dataclass(frozen=True)
class Prompts:
    """What a class is called and described by: class c has `texts[c]`, template by template.

    A class of several synonyms has, for each template, one text a synonym. `templates` is empty where the prompts are
    given class by class: they cannot be told apart by template.
    """

    classnames: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]


def prompts_of(spec: DatasetSpec, content: Content) -> Prompts:
    """Return the class names and prompts of a dataset.

    Raises:
        DataError: there are none, a class has no name or no prompt, or a template has no place for the class name.
    """
    names = [_synonyms(name) for name in _classnames(spec, content)]
    shown = tuple(words[0].strip() or NAMELESS for words in names)
    templates = _templates(spec, content)
    if isinstance(templates, dict):
        return Prompts(shown, tuple(_class_prompts(spec, templates, words) for words in names), ())
    for template in templates:
        _check_template(spec, template)
    # Equal prompts are not merged: a template that stands twice counts twice, as where the list comes from.
    texts = tuple(tuple(_filled(template, word) for template in templates for word in words) for words in names)
    return Prompts(shown, texts, templates)


def shipped(key: Key, name: str, language: str = "en") -> tuple[str, ...]:
    """Return the class names or templates of the list `name` that comes with the package; empty: there is none."""
    language = LANGUAGE_ALIASES.get(language, language)
    if language == "en" and (key, name) in FROM_OPEN_CLIP:
        return _of_open_clip(FROM_OPEN_CLIP[key, name])
    subset = _read_list("subsets").get(name)
    if subset is not None:
        whole = shipped(key, "imagenet1k", language)
        return tuple(whole[index] for index in subset) if whole and key == "classnames" else whole
    return tuple(_read_list(language)[key].get(name, ())) if language in LANGUAGES else ()


def shipped_names(key: Key, language: str = "en") -> tuple[str, ...]:
    """Return the names of the lists that come with the package in a language, sorted."""
    language = LANGUAGE_ALIASES.get(language, language)
    if language not in LANGUAGES:
        return ()
    names = set(_read_list(language)[key])
    if language == "en":
        names |= {name for known, name in FROM_OPEN_CLIP if known == key}
    if "imagenet1k" in names:
        names |= set(_read_list("subsets"))
    return tuple(sorted(names))


def _read_list(name: str) -> dict[str, Any]:
    path = importlib.resources.files("contrastive.eval") / "prompt_lists" / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _of_open_clip(name: str) -> tuple[str, ...]:
    from open_clip import zero_shot_metadata  # seconds, which only those pay who name such a list

    return tuple(entry("{c}") if callable(entry) else entry for entry in getattr(zero_shot_metadata, name))


def _classnames(spec: DatasetSpec, content: Content) -> tuple[str, ...]:
    """Return the names with their synonyms; only a list of the package may hold a nameless class, as published."""
    if isinstance(spec.classnames, str) and (listed := shipped("classnames", spec.classnames, spec.language)):
        return listed
    given = content.classnames if spec.classnames is None else _given(spec, "classnames", spec.classnames)
    where = f"dataset {spec.name}: classnames"
    if isinstance(given, dict):
        raise DataError(f"{where}: {spec.classnames} must be a JSON list of names; prompts of each class are templates")
    if not given:
        raise _nothing(spec, "classnames")
    for index, name in enumerate(given):
        if not all(word.strip() for word in _synonyms(name)):
            raise DataError(
                f"{where}: class {index} is {name!r}: a name, or a synonym beside {SYNONYMS}, is empty; name it, or "
                "take the line out if it is no class (every later label is counted from it)"
            )
    return given


def _templates(spec: DatasetSpec, content: Content) -> Given:
    if spec.templates is not None:
        given = _given(spec, "templates", spec.templates)
        if not given:
            raise _nothing(spec, "templates")
        return given
    language = LANGUAGE_ALIASES.get(spec.language, spec.language)
    listed = shipped("templates", spec.classnames, language) if isinstance(spec.classnames, str) else ()
    found = content.templates or listed if language == "en" else listed or content.templates
    return found or DEFAULT_TEMPLATES.get(language, NAME_ALONE)


def _nothing(spec: DatasetSpec, key: Key) -> DataError:
    known = f"{key} is an empty list" if getattr(spec, key) is not None else f"no {key} are known"
    return DataError(f"dataset {spec.name}: {known}; set {key} ({CONTENT[key]})")


def _given(spec: DatasetSpec, key: Key, given: str | tuple[str, ...]) -> Given:
    """Return what the YAML says: its lines, the package's list of that name, or the content of a file."""
    if not isinstance(given, str):
        return given
    if key == "templates" and HOLE.search(given):
        return (given,)  # a single template
    listed = shipped(key, given, spec.language)
    path = Path(given)
    if listed:
        return listed
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise _unknown(spec, key, given)
    if path.suffix == ".json":
        return _read_json(spec, key, path)
    return tuple(read_lines(path, f"dataset {spec.name}: {key}", CONTENT[key], spec.hint))


def _unknown(spec: DatasetSpec, key: Key, name: str) -> DataError:
    """Return the error for a word that is neither a list nor a file."""
    start = f"dataset {spec.name}: {key}: there is no file {name}, and no list of that name comes with the package"
    languages = [language for language in LANGUAGES if name in shipped_names(key, language)]
    if languages:
        return DataError(f"{start} in language {spec.language!r}; it comes in: {', '.join(languages)}")
    names = shipped_names(key, spec.language)
    if not names:
        return DataError(f"{start} in language {spec.language!r}; languages that have lists: {', '.join(LANGUAGES)}")
    return DataError(f"{start}{suggest(name, names)}")


def _read_json(spec: DatasetSpec, key: Key, path: Path) -> Given:
    where = f"dataset {spec.name}: {key}"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(
            f"{where}: there is no file {path}; write it ({CONTENT[key]}){how_to_make(spec.hint, ' or ')}"
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{where}: {path} is not JSON ({error}); write a list, or {{class: [prompts]}}") from None
    if isinstance(content, dict):
        return content
    if not isinstance(content, list) or not all(isinstance(entry, str) for entry in content):
        raise DataError(f"{where}: {path} must be a JSON list of strings, or {{class: [prompts]}} for templates")
    return tuple(content)


def _synonyms(name: str) -> tuple[str, ...]:
    """Return the words for one class; a single one stays as it is written, spaces and all."""
    return tuple(word.strip() for word in name.split(SYNONYMS)) if SYNONYMS in name else (name,)


def _class_prompts(spec: DatasetSpec, prompts: dict[str, Any], words: tuple[str, ...]) -> tuple[str, ...]:
    """Return one class's own prompts, as language models write them; they stand under its name or a synonym.

    CuPL: Pratt et al. 2023, https://arxiv.org/abs/2209.03320
    """
    where = f"dataset {spec.name}: templates {spec.templates}: class {words[0]!r}"
    key = next((word for word in (SYNONYMS.join(words), *words) if word in prompts), None)
    if key is None:
        close = difflib.get_close_matches(words[0], prompts, n=1)
        raise DataError(f"{where} has no prompts; add it{f'; is it {close[0]!r} there?' if close else ''}")
    given = prompts[key]
    if not isinstance(given, list) or not given:
        raise DataError(f"{where} must have a list of at least one prompt")
    for prompt in given:
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where}: {prompt!r} is no prompt; write a text")
        _check_holes(where, prompt)
    return tuple(_filled(prompt, words[0]) for prompt in given)


def _check_template(spec: DatasetSpec, template: str) -> None:
    where = f"dataset {spec.name}: template {template!r}"
    _check_holes(where, template)
    if not HOLE.search(template):
        raise DataError(f"{where} has no {{c}}; write {{c}} or {{}} where the class name goes")


def _check_holes(where: str, text: str) -> None:
    for found in PLACEHOLDER.findall(text):
        if not HOLE.fullmatch(found):
            raise DataError(f"{where} has the unknown placeholder {found}; write {{c}} or {{}} where the name goes")


def _filled(template: str, name: str) -> str:
    return HOLE.sub(lambda _: name, template)

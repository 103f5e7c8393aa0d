"""Filters of captions."""

from pathlib import Path

import pytest

from contrastive.errors import ConfigError, DataError
from contrastive.recipes.curation import caption_filters
from contrastive.recipes.curation.caption_filters import CaptionLength, Language, TextOverlap, Words
from contrastive.recipes.curation.filtering import Filter
from contrastive.recipes.samples import Sample
from tests.recipes.curation.pools import Made, made


def captioned(folder: Path, *captions: str | list[str]) -> list[Sample]:
    return made(folder, *(Made(f"k{at:03d}", caption) for at, caption in enumerate(captions)))


def reasons(judge: Filter, samples: list[Sample]) -> list[str]:
    return [judge.judge(sample).reason for sample in samples]


def test_captions_are_neither_too_short_nor_too_long(tmp_path: Path):
    samples = captioned(tmp_path, "one two", "one two three", "a b c", "one two three four five", "x" * 21)
    by = CaptionLength(min_words=1, max_words=4, min_characters=6, max_characters=20)
    assert reasons(by, samples) == [
        "", "", "caption: too few characters", "caption: too many words", "caption: too many characters",
    ]  # fmt: skip
    assert by.judge(samples[1]).scores == {"words": 3, "characters": 13}
    assert by.scores == {"words": 1, "characters": 6}


def test_one_caption_of_the_right_length_is_enough(tmp_path: Path):
    samples = captioned(tmp_path, ["short", "this one is long enough"], ["short", "shorter"])
    by = CaptionLength(min_words=3)
    assert reasons(by, samples) == ["", "caption: too few words"]
    assert by.judge(samples[0]).scores["words"] == 5  # of the one that passes


def test_lengths_that_nothing_has_are_refused():
    with pytest.raises(ConfigError, match="set one of min_words, max_words"):
        CaptionLength()
    with pytest.raises(ConfigError, match="min_words 5 is more than max_words 4"):
        CaptionLength(5, 4)


LANGUAGES = {
    "two dogs run along the beach in the evening": "en",
    "zwei Hunde laufen abends am Strand entlang": "de",
    "deux chiens courent sur la plage le soir": "fr",
    "две собаки бегут вечером по пляжу": "ru",
    "夕方の浜辺を走る二匹の犬": "ja",
    "두 마리의 개가 저녁에 해변을 달린다": "ko",
    "δύο σκυλιά τρέχουν στην παραλία το βράδυ": "el",
    "כלבים רצים על החוף בערב": "he",
}


@pytest.mark.parametrize("keep", [["en"], ["de", "fr"], ["ja", "ru", "he"]])
def test_languages_are_told_apart_in_all_scripts(tmp_path: Path, keep: list[str]):
    samples = captioned(tmp_path, *LANGUAGES)
    expected = ["" if code in keep else "caption: other language" for code in LANGUAGES.values()]
    assert reasons(Language(keep), samples) == expected


def test_a_language_must_be_probable_enough(tmp_path: Path):
    (sample,) = captioned(tmp_path, "two dogs run on the beach")
    said = Language(["en"]).judge(sample)
    chance = said.scores["language_probability"]
    assert 0.5 < chance < 1
    assert not said.reason
    assert not Language(["en"], chance).judge(sample).reason
    assert Language(["en"], chance + 1e-3).judge(sample).reason == "caption: other language"


def test_one_caption_in_the_language_is_enough(tmp_path: Path):
    german, english = "zwei Hunde laufen abends am Strand entlang", "two dogs run along the beach in the evening"
    samples = captioned(tmp_path, [german, english], [german, german + " und weiter"])
    assert reasons(Language(["en"]), samples) == ["", "caption: other language"]


def test_a_code_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"language.keep: 'english' is no ISO code of py3langid"):
        Language(["english"])
    with pytest.raises(ConfigError, match="is empty; name the languages"):
        Language([])


def test_a_missing_py3langid_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    caption_filters._identifier.cache_clear()
    with pytest.raises(DataError, match=r"pip install 'contrastive-pretrain\[curate\]'"):
        Language(["en"])


def test_words_are_whole_in_any_case(tmp_path: Path):
    samples = captioned(tmp_path, "A DOG in New York", "dogma and hotdog", "new yorkers", "new, york", "ｄｏｇ")
    assert reasons(Words(keep=["dog", "New York"]), samples) == [
        "", *["caption: none of the words"] * 3, "",
    ]  # fmt: skip
    assert reasons(Words(drop=["Dog"]), samples) == ["caption: unwanted words", "", "", "", "caption: unwanted words"]


def test_an_unwanted_word_in_one_caption_drops_the_sample(tmp_path: Path):
    (sample,) = captioned(tmp_path, ["a cat", "stock photo of a cat"])
    assert Words(drop=["stock photo"]).judge(sample).reason == "caption: unwanted words"
    assert not Words(keep=["stock photo"]).judge(sample).reason


def test_words_come_from_a_file(tmp_path: Path):
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("free shipping\nsale\n")
    samples = captioned(tmp_path / "s", "shoes, free shipping", "a sailing boat", "Sale!")
    assert reasons(Words(drop=str(blocked)), samples) == ["caption: unwanted words", "", "caption: unwanted words"]


def test_no_words_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="words: set keep or drop"):
        Words()
    with pytest.raises(ConfigError, match=r"words.keep: \[' '\] holds no word"):
        Words(keep=[" "])


def test_class_names_keep_captions_that_hold_one_whole(tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("tabby cat\nfire-engine\n")
    samples = captioned(tmp_path / "s", "my Tabby, cat!", "a cat", "Fire Engine no. 2")
    assert reasons(TextOverlap(str(names), "keep"), samples) == ["", "caption: no text of names.txt", ""]


def test_captions_of_an_evaluation_set_are_kept_out_by_words_in_a_row(tmp_path: Path):
    lines = ["a man rides a brown horse", "two cats"]
    names = tmp_path / "eval.txt"
    names.write_text("\n".join(lines))
    captions = [
        "here a man rides a white horse",  # four in a row
        "a man rides, a brown dog",  # five
        "it shows two cats today",  # the whole of a shorter line
        "two dogs and cats",
    ]
    by = TextOverlap(str(names), "drop", words=5)
    samples = captioned(tmp_path / "s", *captions, ["fine", captions[1]])
    leak = "caption: text of eval.txt"
    assert reasons(by, samples) == ["", leak, leak, "", leak]


def test_an_overlap_of_no_word_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("dog")
    with pytest.raises(ConfigError, match=r"text_overlap.words: 0 must be at least 1"):
        TextOverlap(str(tmp_path / "a.txt"), "drop", 0)
    (tmp_path / "b.txt").write_text("!!\n")
    with pytest.raises(ConfigError, match="holds no word"):
        TextOverlap(str(tmp_path / "b.txt"), "drop")

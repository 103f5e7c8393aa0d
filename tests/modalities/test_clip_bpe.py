import html
import random
import unicodedata

import ftfy
import pytest
import regex
import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, pre_tokenizers

from contrastive.modalities.clip_bpe import COMMON, LONGEST, PLAIN, ClipTokenizer, clean

REFERENCE, OURS = SimpleTokenizer(), ClipTokenizer()
ODD = [
    *("", " ", "a photo of a cat", "It's 2026, isn't it? We'LL see; I'd've", "a" * 500, "1234567890" * 20),
    *("日本語のテキスト", "ภาษาไทย", "😀👍🏽 family: 👨‍👩‍👧", "cafe\u0301 vs café", "schÃ¶n", "tab\tnew\nline\r\n"),
    *("&amp;lt;b&amp;gt; &nbsp; &#39;x&#39;", "&amp;amp;amp;lt; ͅ", "x\u0000y\u0007z", "\u2028line\u2029sep"),
    *("İstanbul ſtraße ǅ", "'ſ 'ſt", "it\u2019s \u201cquoted\u201d", "ﬁ ﬂ ½ ² ⅷ", "\ufeffbom", "🇩🇪", "<b>bold</b>"),
    *("a_b-c/d\\e", "…—–", "\u200bzero\u200dwidth", "ALL CAPS", "x" * 76, "word " * 200, "&" * 300),
    *("ΑΒΓ Σίσυφος", "שלום עולם", "नमस्ते", "a\u0345b", "\ua7dd"),
]


@pytest.mark.parametrize("text", ODD)
def test_ids_are_open_clips(text: str):
    assert torch.equal(OURS([text]), REFERENCE([text])), text


def test_ids_of_random_characters_are_open_clips():
    chance = random.Random(0)
    assigned = [chr(c) for c in range(0x3000) if unicodedata.category(chr(c)) != "Cn"]
    texts = ["".join(chance.choices(assigned, k=chance.randint(1, 40))) for _ in range(3000)]
    found, expected = OURS(texts), REFERENCE(texts)
    assert [texts[i] for i in (found != expected).any(dim=1).nonzero()[:, 0].tolist()] == []


@pytest.mark.parametrize("length", [2, 5, 12, 77, 256])
def test_every_context_length_ends_as_open_clip_ends_it(length: int):
    texts = ["a cat", "a very long tale of a cat that sat on a mat " * 9]
    assert torch.equal(ClipTokenizer(length)(texts), SimpleTokenizer(context_length=length)(texts))


@pytest.mark.parametrize("more", ["", " नमस्ते"])
def test_a_caption_cannot_spell_control_tokens(more: str):
    ids = OURS([f"<start_of_text> a cat <END_OF_TEXT>{more}"])[0].tolist()
    assert ids.count(OURS.start) == ids.count(OURS.end) == 1
    assert REFERENCE(["<start_of_text> a cat <end_of_text>"])[0].tolist().count(OURS.start) == 2


def test_a_caption_of_megabytes_costs_no_more_and_has_the_same_ids():
    text = "a caption of many words, " * 200_000
    assert len(clean(text)) <= LONGEST
    assert torch.equal(OURS([text]), REFERENCE([text[: 2 * LONGEST]]))


def test_what_is_taken_for_plain_has_nothing_to_mend():
    plain = [chr(c) for c in range(256) if PLAIN.fullmatch(chr(c))]
    assert len(plain) == 96  # printable ASCII, tab and line feed, without the ampersand
    chance = random.Random(1)
    for _ in range(2000):
        text = "".join(chance.choices(plain, k=40))
        mended = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert " ".join(mended.split()).lower() == clean(text)


@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s"])
def test_letters_of_the_common_scripts_are_the_same_to_both_libraries(kind: str):
    ours, theirs = pre_tokenizers.Split(Regex(kind), behavior="removed", invert=True), regex.compile(kind)
    common = [chr(c) for c in range(1, 0x1F700) if not 0xD800 <= c < 0xE000 and COMMON.fullmatch(chr(c))]
    assert len(common) > 30_000
    assert [hex(ord(c)) for c in common if bool(ours.pre_tokenize_str(c)) != bool(theirs.match(c))] == []


def test_the_vocabulary_is_clips():
    assert (OURS.vocab_size, OURS.start, OURS.end) == (49408, 49406, 49407)

import pytest

from contrastive.tracking.redaction import HIDDEN, redacted, redacted_argument


@pytest.mark.parametrize(
    "name",
    [
        *(
            "token",
            "hf_token",
            "key",
            "api_key",
            "apiKey",
            "apikey",
            "secret",
            "aws_secret_access_key",
            "client-secret",
        ),
        *("secretAccessKey", "accountkey", "password", "db_passwd", "KEY", "credentials", "sas_token"),
    ],
)
def test_a_value_whose_key_says_that_it_is_secret_is_hidden(name: str):
    assert redacted({"deep": {name: "hunter2"}, "list": [{name: 7}]}) == {
        "deep": {name: HIDDEN},
        "list": [{name: HIDDEN}],
    }


@pytest.mark.parametrize("name", ["image_key", "caption_key", "label_key", "tokenizer", "tokens", "keys", "monkey"])
def test_what_only_sounds_like_it_stays(name: str):
    assert redacted({name: "png"}) == {name: "png"}


def test_that_a_secret_is_unset_or_a_switch_is_no_secret():
    assert redacted({"token": None, "use_token": True}) == {"token": None, "use_token": True}


def test_a_secret_may_be_a_mapping_of_values_that_are_shown_by_their_own_keys():
    assert redacted({"token": {"url": "x", "key": "y"}}) == {"token": {"url": "x", "key": HIDDEN}}


def test_urls_lose_their_passwords_and_signatures():
    assert redacted("https://me:hunter2@host/a.tar") == f"https://{HIDDEN}@host/a.tar"
    assert redacted(["https://host/a.tar?sig=abc&x=1 https://host/b.tar"]) == [
        f"https://host/a.tar?{HIDDEN} https://host/b.tar"
    ]
    assert redacted("shards/{00..10}.tar is this ok?") == "shards/{00..10}.tar is this ok?"


def test_the_given_configuration_is_left_as_it_is():
    config = {"token": "hunter2"}
    redacted(config)
    assert config == {"token": "hunter2"}


def test_words_of_a_command_line_lose_their_secrets_alone():
    assert redacted_argument("data.storage_options.secret=hunter2=") == f"data.storage_options.secret={HIDDEN}"
    assert redacted_argument("train.seed=7") == "train.seed=7"
    assert redacted_argument("configs/glyphs.yaml") == "configs/glyphs.yaml"
    assert redacted_argument("data.train=s3://me:pw@host/x") == f"data.train=s3://{HIDDEN}@host/x"

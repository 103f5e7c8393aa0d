import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from contrastive.errors import ConfigError, RunError
from contrastive.export.folder import seal
from contrastive.export.hub import Pushed, check_push, push
from tests.export.hub_server import READS, WRITES, Hub, Repository, hub


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub believe in a network and in nobody's login; it reads its environment when it is imported."""
    huggingface_hub.close_session()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))


@pytest.fixture
def server(online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", WRITES)
    with hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        template = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running
    huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return exported(tmp_path / "out", "open_clip")


def exported(folder: Path, form: str, **more: bytes) -> Path:
    content = {
        "README.md": b"# A model\n",
        "model.safetensors": bytes(range(256)) * 100,
        "deep/vocab.json": b"{}",
        **more,
    }
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    seal(folder, {"format": form})
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("takes_large", [False, True])
def test_every_file_arrives_byte_for_byte_in_one_commit(server: Hub, folder: Path, takes_large: bool) -> None:
    server.takes_large = takes_large
    assert push(folder, "me/toy", private=True, message="A toy") == Pushed(f"{server.url}/me/toy")
    there = server.repositories["me/toy"]
    assert {name: data for name, data in there.files.items() if name != ".gitattributes"} == content(folder)
    assert (there.private, there.commits, len(server.large)) == (True, ["A toy"], int(takes_large))


def test_xet_is_asked_only_where_the_hub_wants_it(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    push(folder, "me/toy", private=False, message="A toy")
    there = server.repositories["me/toy"]
    assert not there.private
    assert {name: data for name, data in there.files.items() if name != ".gitattributes"} == content(folder)


def test_a_later_export_replaces_files_and_deletes_none(server: Hub, folder: Path, tmp_path: Path) -> None:
    first = exported(tmp_path / "first", "open_clip", **{"old.json": b"1"})
    (first / "model.safetensors").write_bytes(b"older")
    push(first, "me/toy", private=False, message="First")
    pushed = push(folder, "me/toy", private=False, message="Second")
    assert pushed.replaced == ("README.md", "deep/vocab.json", "export.json", "model.safetensors")
    assert pushed.left == ("old.json",)
    there = server.repositories["me/toy"]
    assert there.commits == ["First", "Second"]
    assert there.files["old.json"] == b"1"
    assert there.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_new_repository_with_no_more_than_a_licence_is_filled(server: Hub, folder: Path) -> None:
    server.repositories["me/toy"] = Repository(False, {"LICENSE": b"MIT", ".gitattributes": b"", "README.md": b"mine"})
    assert push(folder, "me/toy", private=False, message="A toy").replaced == ("README.md",)
    assert server.repositories["me/toy"].files["LICENSE"] == b"MIT"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pytorch_model.bin": b"1"}, r"holds files of another origin \(pytorch_model.bin\)"),
        ({"export.json": json.dumps({"format": "timm"}).encode()}, "holds an export to timm, this one is to open_clip"),
    ],
)
def test_the_repository_of_another_model_is_left_alone(
    server: Hub, folder: Path, files: dict[str, bytes], said: str
) -> None:
    server.repositories["me/toy"] = Repository(False, dict(files))
    with pytest.raises(RunError, match=said) as caught:
        push(folder, "me/toy", private=False, message="A toy")
    assert server.repositories["me/toy"].files == files
    assert "\n" not in str(caught.value)


def test_what_is_to_be_private_is_not_put_where_everybody_reads(server: Hub, folder: Path) -> None:
    server.repositories["me/toy"] = Repository(private=False)
    with pytest.raises(RunError, match="is public already, and --private was given"):
        push(folder, "me/toy", private=True, message="A toy")
    assert server.repositories["me/toy"].files == {}


@pytest.mark.parametrize(
    ("token", "fails", "said"),
    [
        ("hf_unknown", None, "the hub does not know the token; run hf auth login"),
        (READS, None, "the token may not write there .this token only reads.; take one with write access"),
        (WRITES, 413, "the hub answered 413: no space left"),
    ],
)
def test_a_refusal_says_why_and_that_the_export_is_there(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, fails: int | None, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    server.fails, before = fails, content(folder)
    with pytest.raises(RunError, match=f"--push me/toy: {said}") as caught:
        push(folder, "me/toy", private=False, message="A toy")
    assert str(caught.value).endswith(f"; the export is whole in {folder}; later: hf upload me/toy {folder}")
    assert "\n" not in str(caught.value)
    assert token not in str(caught.value)
    assert content(folder) == before


def test_a_licence_that_the_hub_does_not_know_is_named(server: Hub, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mine alone\n---\n# A model\n")
    with pytest.raises(RunError, match=r'Invalid metadata in README.md. - "license" must be one of .*; the export'):
        push(folder, "me/toy", private=False, message="A toy")
    assert set(server.repositories["me/toy"].files) == {".gitattributes"}


def test_a_hub_that_does_not_answer_is_named(online: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"http://127.0.0.1:9 does not answer .*; the export is whole in"):
        push(folder, "me/toy", private=False, message="A toy")


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("toy", "names no owner; give ORG/NAME"),
        ("a/b/c", "must be in the form .*; give ORG/NAME"),
        ("me/t o y", "must use alphanumeric .*; give ORG/NAME"),
        ("me/toy", "nobody is logged in; run hf auth login"),
    ],
)
def test_what_cannot_be_pushed_is_refused_at_the_door(online: None, repo: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_push(repo)
    assert "\n" not in str(caught.value)


def test_offline_is_refused_at_the_door(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITES)
    check_push("me/toy")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"):
        check_push("me/toy")

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from contrastive.errors import ModelError
from contrastive.models.forms import open_built
from contrastive.models.torchscript import is_openai, is_torchscript, read_torchscript
from tests.models.test_build import MODEL_CFG, local_dir  # noqa: F401  (a fixture)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An open_clip model in half precision as OpenAI published theirs: traced, with three numbers among its weights."""
    torch.manual_seed(3)
    model = open_clip.CLIP(**MODEL_CFG, quick_gelu=True)
    for name, value in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 49408)):
        model.__dict__.pop(name, None)  # open_clip keeps some as plain numbers
        model.register_buffer(name, torch.tensor(value))
    inputs = {"encode_image": torch.rand(1, 3, 32, 32), "encode_text": torch.zeros(1, 12, dtype=torch.long)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(model, inputs, check_trace=False)
        torch.jit.save(traced.half(), str(tmp_path / "model.pt"))
    return tmp_path / "model.pt"


def test_it_holds_the_tensors_that_torch_would_have_run_code_for(archive: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(str(archive)).state_dict()
    del expected["attn_mask"]
    found = read_torchscript(archive)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in expected.items())
    assert is_openai(found)


def test_only_a_torchscript_archive_is_one(archive: Path, tmp_path: Path):
    torch.save({"a": torch.ones(1)}, tmp_path / "plain.pt")
    (tmp_path / "text.pt").write_text("no")
    assert [is_torchscript(path) for path in (archive, tmp_path / "plain.pt", tmp_path / "text.pt")] == [1, 0, 0]
    assert not is_openai({"logit_scale": torch.ones(1)})


class Payload:
    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.told),)


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_a_planted_payload_is_not_run(archive: Path, tmp_path: Path, member: str):
    planted = tmp_path / "planted.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(planted, "w") as target:
        for name in source.namelist():
            is_it = name.endswith(f"/{member}")
            target.writestr(name, pickle.dumps(Payload(tmp_path / "ran"), 2) if is_it else source.read(name))
    if member == "data.pkl":
        with pytest.raises(pickle.UnpicklingError, match=r"names posix\.mkdir"):
            read_torchscript(planted)
    else:
        read_torchscript(planted)  # nobody reads them
    assert not (tmp_path / "ran").exists()


def test_openais_file_is_a_form_of_the_architecture_with_quick_gelu_alone(
    archive: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", MODEL_CFG)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", {**MODEL_CFG, "quick_gelu": True})
    found, expected = open_built(f"tiny-quickgelu@{archive}")[0].model.state_dict(), read_torchscript(archive)
    assert all(torch.equal(value.reshape(-1), expected[name[6:]].float().reshape(-1)) for name, value in found.items())
    with pytest.raises(ModelError, match=r"have QuickGELU, and tiny has not; write tiny-quickgelu@"):
        open_built(f"tiny@{archive}")
    with archive.open("r+b") as file:
        file.seek(archive.stat().st_size // 2)
        file.write(bytes(100))
    with pytest.raises(ModelError, match=r"model\.pt: cannot be read: "):
        open_built(f"tiny-quickgelu@{archive}")


def test_a_folder_of_open_clip_may_take_the_weights_of_its_trainers_file(local_dir: Path):  # noqa: F811
    weights = {name: value + 1 for name, value in load_file(local_dir / "open_clip_model.safetensors").items()}
    torch.save({"epoch": 1, "state_dict": weights}, local_dir / "epoch_1.pt")
    found = open_built(f"local-dir:{local_dir}@{local_dir / 'epoch_1.pt'}")[0].model.state_dict()
    assert all(torch.equal(value.reshape(-1), weights[name[6:]].reshape(-1)) for name, value in found.items())

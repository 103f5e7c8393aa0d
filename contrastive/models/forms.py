"""Any model a user has, named by one text: a run of ours, a model of open_clip, or one of transformers."""

import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contrastive.errors import ConfigError, ModelError, why_unread
from contrastive.modalities.text import forget_place
from contrastive.models import checkpoint, exported, huggingface
from contrastive.models.build import Built, build, check_name
from contrastive.models.checkpoint import Loaded, Weights, ready
from contrastive.models.identity import identity, saved
from contrastive.models.mapping import from_transformers
from contrastive.models.torchscript import OPENAI, is_openai, is_torchscript, read_torchscript
from contrastive.registry import suggest
from contrastive.settings import ModelConfig

FORMS = (
    "a run or checkpoint folder of ours, RUN/checkpoints/best, ARCH@TAG or ARCH@FILE (open_clip), local-dir:FOLDER or "
    "hf-hub:ORG/NAME (open_clip), hf:FOLDER or hf:ORG/NAME (transformers)"
)
FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
OPEN_CLIP, TRANSFORMERS = "open_clip_config.json", "config.json"
PREFIXES = ("module.", "_orig_mod.")  # what DDP and torch.compile put before every name
OFFLINE = "where the hub cannot be reached, download the model elsewhere and give its folder"


def open_model(form: str, device: torch.device | str = "cpu", weights: Weights = "trained") -> Loaded:
    """Return the model that `form` names, in evaluation mode, with its own transform and tokenizer.

    Forms: see FORMS. A folder may be given without `local-dir:` or `hf:`; one that both libraries can read is
    open_clip's. torch's random state is kept.

    Raises:
        ModelError: there is no such model, it has no weights, or they are another model's.
    """
    if _is_ours(form):
        return checkpoint.load(form, device, weights)
    form = _of_others(form, weights)
    scheme, _, place = form.partition(":")
    if scheme == "hf":
        with torch.random.fork_rng(devices=[]):
            return _transformers(form, place, device)
    if scheme == "export":
        return exported.load(Path(place), device)
    return ready(_built(form), {"form": form}, device)


def open_built(form: str, weights: Weights = "trained") -> tuple[Built, dict[str, Any]]:
    """Return the model that `form` names as `build` makes one, to train or to export, and what is known of it.

    A model of transformers is rebuilt as the one of open_clip that computes the same. torch's random state is kept.

    Raises:
        ModelError: as `open_model`, or it is a model of transformers that open_clip has no equal of.
    """
    if _is_ours(form):
        folder = checkpoint.find(form)
        with torch.random.fork_rng(devices=[]):
            built, info = checkpoint.restore(folder, weights)
        return built, {**info, "path": str(folder), "weights": weights}
    form = _of_others(form, weights)
    return _built(form), {"form": form}


def _of_others(form: str, weights: Weights) -> str:
    if weights == "ema":
        raise ModelError(f"{form}: only a run of ours has a moving average of its weights; take the trained ones")
    return _explicit(form)


def _built(form: str) -> Built:
    scheme, _, place = form.partition(":")
    if scheme == "export":
        raise ModelError(f"{place}: is an export that can only be evaluated; give the model that it was made of")
    with torch.random.fork_rng(devices=[]):
        if scheme == "hf":
            return from_transformers(place)
        folder, _, file = place.rpartition("@")
        if scheme == "local-dir" and folder and Path(file).is_file():
            return _from_file(f"local-dir:{folder}", Path(file))
        if scheme in ("local-dir", "hf-hub"):
            return _open_clip(form, scheme, place)
        return _by_architecture(form, *form.split("@", 1))


def _is_ours(form: str) -> bool:
    path = Path(form)
    is_best = path.name == "best" and (path.parent / checkpoint.BEST).is_file()
    return is_best or (path / checkpoint.DESCRIPTION).is_file() or (path / "checkpoints").is_dir()


def _explicit(form: str) -> str:
    """Return the form with its scheme; what names no model is refused here.

    Raises:
        ModelError: no such model, or an architecture without weights.
    """
    path = Path(form)
    if form.startswith(("hf:", "hf-hub:", "local-dir:")):
        return form
    if path.is_dir():
        if exported.is_exported(form):
            return f"export:{form}"
        if (path / OPEN_CLIP).is_file():
            return f"local-dir:{form}"
        if (path / TRANSFORMERS).is_file():
            return f"hf:{form}"
        inside = f"{checkpoint.DESCRIPTION}, checkpoints/, {OPEN_CLIP} or {TRANSFORMERS}"
        raise ModelError(f"{form}: is no model: the folder holds no {inside}; give {FORMS}")
    if path.is_file():
        raise ModelError(f"{form}: a file does not say of which architecture it is; write ARCH@{form}")
    if "@" in form:
        return form
    if open_clip.get_model_config(form) is not None:
        tags = ", ".join(list_pretrained_tags_by_model(form)) or "none is published"
        rule = f"names an architecture without weights, which would be random; write {form}@TAG or {form}@FILE"
        raise ModelError(f"{form}: {rule} (tags: {tags})")
    close = suggest(form, open_clip.list_models()).split("; known")[0]
    raise ModelError(f"{form}: there is no such folder, nor a model of that name{close or f'; give {FORMS}'}")


def _open_clip(form: str, scheme: str, place: str) -> Built:
    if scheme == "local-dir" and not (Path(place) / OPEN_CLIP).is_file():
        raise ModelError(f"{form}: {place} holds no {OPEN_CLIP}; give the folder of a saved open_clip model")
    try:
        return build(ModelConfig(name=form))
    except ModelError as error:
        remedy = f"; {OFFLINE} as local-dir:FOLDER" if scheme == "hf-hub" else ""
        raise ModelError(f"{form}: {_reason(error)}{remedy}") from error


def _by_architecture(form: str, arch: str, source: str) -> Built:
    try:
        check_name(arch, form)
    except ConfigError as error:
        raise ModelError(str(error)) from None
    if get_pretrained_cfg(arch, source):
        try:
            return build(ModelConfig(name=arch, pretrained=source))
        except ModelError as error:
            raise ModelError(f"{form}: {_reason(error)}; {OFFLINE.replace('its folder', f'{arch}@FILE')}") from error
    if Path(source).is_file():
        return _from_file(arch, Path(source))
    if Path(source).suffix in FILES or "/" in source:
        raise ModelError(f"{form}: there is no file {source}")
    tags = list_pretrained_tags_by_model(arch)
    raise ModelError(f"{form}: {arch} has no tag {source!r}, nor is it a file{suggest(source, tags)}")


def _reason(error: ModelError) -> str:
    """Return what went wrong, without our key; of weights that do not fit, what does not."""
    lines = [line.strip() for line in str(error.__cause__ or "").splitlines()]
    if len(lines) > 1 and "loading state_dict" in lines[0]:
        return f"the weights do not fit: {lines[1][:200]}"
    return str(error).removeprefix("model.name: ")


def _from_file(arch: str, path: Path) -> Built:
    """Return the architecture with the weights of a file: plain, or as open_clip's trainer saves them."""
    state = _state(path)
    if is_openai(state):
        state = {name: value for name, value in state.items() if name not in OPENAI}
        if not (open_clip.get_model_config(arch) or {}).get("quick_gelu"):
            raise ModelError(f"{path}: is one of OpenAI's, all of which have QuickGELU, and {arch} has not; "
                             f"write {arch}-quickgelu@{path}")  # fmt: skip
    # A model that was trained with SigLIP's loss has a bias that most architectures do not mention.
    built = build(ModelConfig(name=arch, init_logit_bias=0.0 if "logit_bias" in state else None))
    inner: Any = built.model.inner
    state = convert_state_dict(inner, state)
    if "positional_embedding" in state and not hasattr(inner, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    state.pop("text.transformer.embeddings.position_ids", None)  # of transformers before 4.31
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            state[name] = state[name].reshape(-1)
    if difference := _difference(inner.state_dict(), state, arch):
        raise ModelError(f"{path}: is of another architecture than {arch}: {difference}")
    inner.load_state_dict(state)
    return built


def _state(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file; nothing in it is run.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    if path.suffix not in FILES:
        raise ModelError(f"{path}: cannot be read; weights are {', '.join(FILES)}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif is_torchscript(path):
            content = read_torchscript(path)
        else:  # mapped, so that the optimizer's state beside the weights is never read
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise ModelError(f"{path}: holds more than weights, or is damaged; save its tensors as .safetensors") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        said = why_unread(error) if str(error) else "it ends too early"
        raise ModelError(f"{path}: cannot be read: {said}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: holds no weights; they are a mapping of names to tensors, alone or as state_dict")
    return state


def _difference(wanted: dict[str, Tensor], found: dict[str, Tensor], arch: str) -> str | None:
    """Return the first thing that does not fit; open_clip would cut or stretch positions and vocabularies to fit."""
    for name, value in wanted.items():
        if name not in found:
            return f"it has no {name}"
        if found[name].shape != value.shape:
            return f"{name} is {list(found[name].shape)}, and {list(value.shape)} in {arch}"
    extra = [name for name in found if name not in wanted]
    return f"it has {extra[0]}, which {arch} has not" if extra else None


def _transformers(form: str, place: str, device: torch.device | str) -> Loaded:
    is_local = Path(place).is_dir()
    if not is_local and place.startswith(("/", "./", "../", "~")):
        raise ModelError(f"{form}: there is no folder {place}")
    try:
        model, transform, tokenizer, processor = huggingface.load(place)
    except ModelError as error:
        raise ModelError(f"hf:{error}{'' if is_local else f'; {OFFLINE} as hf:FOLDER'}") from error
    preprocess = {k: v for k, v in processor.to_dict().items() if k != "processor_class"}
    description = {
        "model": {k: v for k, v in model.inner.config.to_dict().items() if not k.startswith("_")},
        "preprocess": preprocess,
        "tokenizer": [saved(partial(_save, tokenizer.inner)), tokenizer.context_length, tokenizer.padding],
    }
    digest = identity(model.inner.state_dict(), description)
    model.to(device).eval()
    return Loaded(model, transform, tokenizer, {"form": form, "preprocess": preprocess}, digest)


def _save(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    forget_place(folder)

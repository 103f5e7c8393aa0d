"""What a run can be told: frozen dataclasses, filled from YAML files and dotted overrides. The only user of OmegaConf.

Part specs (`model.image`, `losses`, `data.augment`, …) stay plain mappings here: each part's constructor is their
schema (see `contrastive.registry`). Part mappings default to empty because mappings merge key by key, so that a default
entry would stay; `key: null` empties one that an earlier file filled.
"""

import dataclasses
import importlib.resources
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from contrastive.errors import ConfigError
from contrastive.registry import suggest

MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5


def option(
    default: Any, help: str, *, unit: str = "", at_least: float | None = None, at_most: float | None = None
) -> Any:
    """Return a dataclass field that knows its meaning, unit and range. A mutable default is copied."""
    metadata = {"help": help, "unit": unit, "at_least": at_least, "at_most": at_most}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ModelConfig:
    """What is trained: an open_clip model (`name` or `model_cfg`), or two encoders of the tables (`image`, `text`)."""

    name: str | None = option(None, "open_clip model name, hf-hub:… or local-dir:…")
    pretrained: str | None = option(None, "open_clip pretrained tag or weights file, for a plain open_clip name")
    model_cfg: dict[str, Any] = option({}, "an open_clip model_cfg: embed_dim, vision_cfg, text_cfg, …")
    image: dict[str, Any] = option({}, "image encoder: {name: …, options}")
    text: dict[str, Any] = option({}, "text encoder: {name: …, options}")
    tokenizer: dict[str, Any] = option(
        {}, "of model.text: {name: folder or hub id (unset: CLIP's BPE), context_length}"
    )
    embed_dim: int = option(512, "size of the shared space, for model.image and model.text", at_least=1)
    image_size: int = option(224, "side of the square input, for model.image and model.text", unit="pixels", at_least=1)
    preprocess: dict[str, Any] = option({}, "overrides of mean, std, interpolation, resize_mode, fill_color")
    init_temperature: float | None = option(
        None, "softmax temperature at the start; logit_scale = ln(1/it); unset: the model's own, 0.07", at_least=0.01
    )
    init_logit_bias: float | None = option(
        None, "start of a learned bias on the logits, as in SigLIP (-10); unset: the model's own"
    )
    teacher: dict[str, Any] = option(
        {},
        "frozen model to learn from: {checkpoint: RUN or checkpoint folder} or {name: open_clip name, hf-hub:… or "
        "local-dir:…, pretrained: tag or file}",
    )


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from and how they reach the model."""

    train: str = option("", "webdataset tars: path, directory, glob, braces, or several joined by ::")
    image_key: str = option("jpg;jpeg;png;webp", "member that holds the image; alternatives joined by ;")
    caption_key: str = option("txt", "member that holds the caption: txt, or json.FIELD for a text or a list of texts")
    label_key: str | None = option(
        None,
        "member that says what a sample shows: cls, or json.FIELD with a number or text; equal values may count as "
        "positives of each other",
    )
    global_batch_size: int = option(
        256, "over all processes; these are each other's negatives", unit="samples", at_least=1
    )
    workers: int = option(2, "loader processes per process; 0 reads in the training process", at_least=0)
    random_crop: list[float] | None = option(None, "share of the area kept by a random square crop, e.g. [0.9, 1.0]")
    augment: dict[str, Any] = option({}, "augmentation on the device: {name: …, options}")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = option(5e-4, "peak", at_least=0)
    final_learning_rate: float = option(0.0, "at the end of the cosine", at_least=0)
    warmup_samples: int = option(0, "linear warmup from 0", unit="samples", at_least=0)
    weight_decay: float = option(0.2, "not on norms, biases, logit_scale", at_least=0)
    beta1: float = option(0.9, "AdamW", at_least=0, at_most=1)
    beta2: float = option(0.98, "AdamW", at_least=0, at_most=1)
    epsilon: float = option(1e-6, "AdamW", at_least=0)
    clip_grad_norm: float | None = option(1.0, "largest norm of all gradients; unset: no clipping", at_least=0)


@dataclass(frozen=True)
class TrainConfig:
    """How long and how the step runs."""

    total_samples: int = option(1_000_000, "the run ends here; the last step is whole", unit="samples", at_least=1)
    seed: int = option(0, "of the weights, the data order, augmentation and caption choice", at_least=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", "of the forward pass; auto: bf16 where it pays")
    micro_batch_size: int | None = option(
        None, "per process in one forward and backward pass; unset: its whole share", unit="samples", at_least=1
    )
    text_micro_batch_size: int | None = option(
        None, "of the text tower; unset: as micro_batch_size", unit="samples", at_least=1
    )
    threads: int | None = option(None, "CPU threads per process; unset: its share of the cores", at_least=1)
    compile: bool = option(False, "torch.compile the model")
    gradient_checkpointing: bool = option(False, "recompute activations (open_clip models): less memory, slower")
    save_every_steps: int | None = option(
        None, "checkpoint interval; the end is always saved", unit="steps", at_least=1
    )
    world_size: int | None = option(None, "refuse to run on another number of processes", unit="processes", at_least=1)


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation that the training loop repeats, and that ends the run."""

    datasets: list[str] = option([], "YAML files of configs/eval/")
    every_steps: int | None = option(None, "interval; unset: only at the end", unit="steps", at_least=1)
    batch_size: int = option(256, "per process", unit="samples", at_least=1)
    workers: int = option(0, "loader processes", at_least=0)


@dataclass(frozen=True)
class TrackingConfig:
    """What is written down while training."""

    log_every_steps: int = option(10, "interval of metrics", unit="steps", at_least=1)
    tensorboard: bool = option(True, "also write TensorBoard events, when it is installed")


@dataclass(frozen=True)
class RunConfig:
    """Where results go."""

    directory: str = option("runs/run", "holds everything of one run; must be new")


@dataclass(frozen=True)
class Config:
    """One run, resolved. Saved as RUN/config.yaml, which is itself a valid argument."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    losses: dict[str, Any] = option({}, "{a name for the log: {name: …, weight: 1.0, options}}; unset: infonce alone")
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    run: RunConfig = field(default_factory=RunConfig)


SECTIONS = tuple(f.name for f in dataclasses.fields(Config))


def load(files: Sequence[str], overrides: Sequence[str] = ()) -> Config:
    """Return the run that YAML files and `key=value` overrides describe; what comes later wins.

    Raises:
        ConfigError: a file is missing or is no YAML mapping; a key is unknown; a value has a wrong type or range.
    """
    merged = OmegaConf.structured(Config)
    for name in files:
        merged = _merge(merged, read_yaml(name), name)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{override!r}: overrides are key=value, files end in .yaml")
        merged = _merge(merged, _parse_override(override), "command line")
    config = cast(Config, OmegaConf.to_object(merged))
    for key, value, spec in _leaves(config):
        _check_range(key, value, spec.metadata)
    return config


def read_yaml(name: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, found as given or among the configs that the package ships.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    path = Path(name)
    if not path.is_file():
        shipped = importlib.resources.files("contrastive") / "configs" / str(name).removeprefix("configs/")
        if not shipped.is_file():
            raise ConfigError(f"{name}: no such file, and no configuration of that name is shipped")
        path = Path(str(shipped))
    try:
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(path.read_text())), resolve=True)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {_one_line(error)}") from error
    except (OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    return cast(dict[str, Any], content)


def to_yaml(config: Config) -> str:
    """Return the YAML of a resolved run."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def to_dict(config: Config) -> dict[str, Any]:
    """Return a resolved run as plain mappings, lists and numbers."""
    return dataclasses.asdict(config)


def describe() -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, default, meaning with unit) for everything a run can be told."""
    for key, value, spec in _leaves(Config()):
        unit = f" [{spec.metadata['unit']}]" if spec.metadata["unit"] else ""
        yield key, value, spec.metadata["help"] + unit


def _parse_override(override: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist([override])))
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML; quote it: {_one_line(error)}") from error


def _merge(base: Any, update: dict[str, Any], source: str) -> Any:
    for key, value in update.items():
        if key in SECTIONS and not isinstance(value, dict) and not (key == "losses" and value is None):
            raise ConfigError(f"{key}: {value!r} must be a mapping of keys to values ({source})")
    try:
        _clear(base, update)
        return OmegaConf.merge(base, update)
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key)
        raise ConfigError(f"{key}: {_explain(error, key)} ({source})") from error


def _clear(base: Any, update: dict[str, Any]) -> None:
    """Empty the part mappings that `update` sets to null: merging alone could only ever add to them."""
    for key, value in list(update.items()):
        if value is None and isinstance(base.get(key), DictConfig):
            with flag_override(base, "readonly", False):  # frozen dataclasses are read-only nodes
                base[key] = {}
            del update[key]
        elif isinstance(value, dict) and isinstance(base.get(key), DictConfig):
            _clear(base[key], value)


def _explain(error: OmegaConfBaseException, key: str) -> str:
    message = _one_line(error)
    if message.startswith("Cannot convert 'DictConfig' to string"):
        return "must be a text; quote a value that begins with a brace"  # {000..003} is a mapping to YAML
    if type(error).__name__ not in ("ConfigKeyError", "ConfigAttributeError"):
        return message
    known = list(dict.fromkeys([*SECTIONS, *(name for name, _, _ in describe())]))
    parent = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    return f"unknown key{suggest(key, siblings or known)}"


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(said) or type(error).__name__


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    for spec in dataclasses.fields(section):
        value = getattr(section, spec.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name, value, spec


def _check_range(key: str, value: Any, metadata: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    low, high = metadata["at_least"], metadata["at_most"]
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        bounds = " and ".join(
            f"at {word} {bound}" for word, bound in (("least", low), ("most", high)) if bound is not None
        )
        raise ConfigError(f"{key}: {value} must be {bounds or 'finite'}")

"""What a run can be told: frozen dataclasses, whose fields know their meaning, unit and range.

Part specs (`model.image`, `losses`, `data.augment`, …) stay plain mappings here: each part's constructor is their
schema (see `contrastive.registry`). Part mappings default to empty because mappings merge key by key, so that a default
entry would stay; `key: null` empties one that an earlier file filled.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """What is trained: an open_clip model (`name`, `model_cfg`), two encoders (`image`, `text`), or a `checkpoint`."""

    name: str | None = option(None, "open_clip model name, hf-hub:… or local-dir:…")
    pretrained: str | None = option(None, "open_clip pretrained tag or weights file, for a plain open_clip name")
    checkpoint: Any = option(
        None,
        "go on from a model: RUN, RUN/checkpoints/best, ARCH@TAG, ARCH@FILE, local-dir:…, hf-hub:…, hf:…; or "
        "{form: RUN, weights: ema}. It brings its own preprocessing and tokenizer, temperature and bias",
    )
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

    train: Any = option("", "webdataset tars: path, directory, glob, braces, URL, several joined by ::, or a list")
    sources: dict[str, Any] = option(
        {}, "instead of train, a mixture: {NAME: {shards: …, weight: 1.0, image_key, caption_key, label_key}}"
    )
    replacement: bool = option(False, "draw samples with replacement instead of every sample once a pass")
    image_key: str = option("jpg;jpeg;png;webp", "member that holds the image; alternatives joined by ;")
    caption_key: Any = option(
        "txt",
        "member that holds the caption: txt, or json.FIELD for a text or a list of texts; several with their shares of "
        "the draws: {txt: 0.3, json.recaption: 0.7}",
    )
    label_key: str | None = option(
        None,
        "member that says what a sample shows: cls, or json.FIELD with a number or text; equal values may count as "
        "positives of each other",
    )
    global_batch_size: int = option(
        256, "over all processes; these are each other's negatives", unit="samples", at_least=1
    )
    workers: int = option(2, "loader processes per process; 0 reads in the training process", at_least=0)
    lanes: int | None = option(
        None,
        "places from which the shards are read side by side; unset: 1 on a file system (the whole set is permuted), "
        "128 or a quarter of the shards for URLs",
        at_least=1,
    )
    window: int | None = option(
        None,
        "samples of a lane that are permuted together; unset: the whole lane on a file system, 4096 for URLs",
        unit="samples",
        at_least=1,
    )
    cache: str | None = option(
        None, "folder that keeps shards of URLs; unset: URLs are read in ranges, nothing is kept"
    )
    cache_gigabytes: float = option(100.0, "of data.cache; the least recently used shards go first", at_least=0)
    memory_gigabytes: float = option(1.0, "per loader process, for ranges of URLs that wait for their turn", at_least=0)
    retries: int = option(8, "of a read that fails, with growing pauses", at_least=0)
    stall_seconds: float = option(60.0, "a transfer without a byte for so long is begun again", at_least=0.01)
    timeout_seconds: float = option(
        300.0, "a batch whose readers show no sign of life for so long ends the run", at_least=0.1
    )
    damaged_shards: Literal["fail", "substitute"] = option(
        "fail",
        "a shard that is missing, cut or damaged; substitute: whole samples are used, others stand in for the rest",
    )
    max_bad_share: float = option(
        0.01,
        "of the samples that had to be replaced, in the last 10,000 of a process; more ends the run",
        at_least=0,
        at_most=1,
    )
    allow_pipes: bool = option(False, "let pipe: shards run their shell command; only on the command line")
    random_crop: list[float] | None = option(None, "share of the area kept by a random square crop, e.g. [0.9, 1.0]")
    decode_scale: bool = option(False, "decode JPEGs at 1/2, 1/4 or 1/8 where the crop allows it: faster, other pixels")
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
    clip_update: bool = option(
        False, "shrink each tensor's update where AdamW underestimates its gradient: StableAdamW"
    )


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
    gradient_checkpointing: bool = option(False, "recompute activations, block by block: less memory, slower")
    sharding: Literal["none", "full"] = option(
        "none", "full: weights, gradients and optimizer state are cut over the processes (FSDP2)"
    )
    ema_decay: float | None = option(
        None, "also keep a moving average of the weights, e.g. 0.9999", at_least=0, at_most=1
    )
    on_nonfinite: Literal["stop", "skip"] = option(
        "stop", "a step whose loss or gradient is not finite changes nothing; then"
    )
    max_skips: int = option(10, "steps in a row that may be skipped", unit="steps", at_least=1)
    spike_factor: float | None = option(
        None, "a loss above so many times the median of the last 100 steps is reported", at_least=1
    )
    on_spike: Literal["warn", "rollback"] = option(
        "warn", "rollback: the weights of the newest checkpoint, and on with the next samples"
    )
    save_every_steps: int | None = option(
        None, "checkpoint interval; the end is always saved", unit="steps", at_least=1
    )
    save_every_minutes: float | None = option(15.0, "checkpoint interval by the clock", unit="minutes", at_least=0.001)
    keep_checkpoints: int | None = option(2, "the newest ones; unset: all", at_least=2)
    keep_best: int = option(1, "more checkpoints, the best by train.best_metric", at_least=0)
    best_metric: str | None = option(None, "DATASET/TASK/METRIC of the evaluations, each of which is then saved")
    best_is: Literal["highest", "lowest"] = option("highest", "value of train.best_metric")
    max_failed_saves: int = option(3, "in a row; the run ends at the next one", at_least=0)
    start_seconds: float = option(1800.0, "patience with the first steps: other processes, compilation", at_least=1)
    hang_seconds: float | None = option(
        600.0, "a process that makes no step, or waits for others for so long, ends with its stacks", at_least=1
    )
    world_size: int | None = option(None, "refuse to run on another number of processes", unit="processes", at_least=1)


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation that the training loop repeats, and that ends the run."""

    datasets: list[str] = option([], "YAML files of configs/eval/")
    every_steps: int | None = option(None, "interval; unset: only at the end", unit="steps", at_least=1)
    batch_size: int = option(256, "per process", unit="samples", at_least=1)
    workers: int = option(0, "loader processes", at_least=0)
    weights: Literal["trained", "ema"] = option("trained", "which ones are evaluated; ema needs train.ema_decay")


@dataclass(frozen=True)
class TrackingConfig:
    """What is written down while training."""

    log_every_steps: int = option(10, "interval of metrics", unit="steps", at_least=1)
    tensorboard: bool = option(True, "also write TensorBoard events, when it is installed")
    trackers: list[str] = option(
        [], "of Accelerate's: wandb, mlflow, comet_ml, aim, clearml, dvclive, swanlab, trackio"
    )


@dataclass(frozen=True)
class RunConfig:
    """Where results go."""

    directory: str = option("runs/run", "holds everything of one run; a run that was interrupted there goes on")
    resume: Literal["auto", "never", "must"] = option(
        "auto", "go on with what the directory holds; never: it must be new; must: there is something to go on with"
    )
    accept_changes: list[str] = option(
        [], "keys that may differ from those of the run that goes on though they make it another run; not saved"
    )


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

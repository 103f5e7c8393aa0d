"""`contrastive import-flags`: an open_clip training command as settings of ours, and what has no equivalent.

Each setting says from which flag it comes. Where open_clip's default is not ours, it is written too:
https://github.com/mlfoundations/open_clip/blob/v3.3.0/src/open_clip_train/params.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contrastive.errors import ConfigError, RunError
from contrastive.files import write_whole
from contrastive.runs import open_clip_data, open_clip_model
from contrastive.runs.open_clip_command import Command, read
from contrastive.runs.open_clip_lines import Line, Remarks
from contrastive.runs.open_clip_reasons import REASONS

PRECISIONS = {  # of open_clip to ours, and what is lost
    "amp": ("fp16", None),
    "amp_bf16": ("bf16", None),
    "amp_bfloat16": ("bf16", None),
    "fp32": ("fp32", None),
    "bf16": ("bf16", "weights stay in float32"),
    "fp16": ("fp16", "weights stay in float32"),
    "pure_bf16": ("bf16", "weights and optimizer stay in float32"),
    "pure_fp16": ("fp16", "weights and optimizer stay in float32"),
}
IMAGENET = {"imagenet_val": "configs/eval/imagenet1k.yaml", "imagenet_v2": "configs/eval/imagenetv2.yaml"}
FOLDERS = {"imagenet_val": "{name: image_folder}", "imagenet_v2": "{name: image_folder, labels: number}"}


@dataclass(frozen=True)
class Translation:
    """The settings of a command, in the order of the sections, and what is to be said about it."""

    command: Command
    lines: list[Line]
    notes: Remarks

    def yaml(self) -> str:
        """Return a configuration file: a comment for each setting, and behind them what has no equivalent."""
        text = self.command.text if len(self.command.text) <= 1000 else self.command.text[:997] + "…"
        rows = [f"# From: {text}", f"# On {self.command.processes} processes ({self.command.launched})."]
        before: list[str] = []
        for line in self.lines:
            *parents, key = line.key.split(".")
            for depth, parent in enumerate(parents):
                if before[: depth + 1] != parents[: depth + 1]:
                    rows.append(f"{'  ' * depth}{parent}:")
            before = parents
            rows.append(f"{'  ' * len(parents)}{key}: {line.text()}  # {line.origin}")
        return "\n".join([*rows, *(f"# {row}".rstrip() for row in self.remarks().splitlines())]) + "\n"

    def remarks(self) -> str:
        """Return what has no equivalent, flag by flag with the reason, and what else is worth to know."""
        parts = []
        if self.notes.without:
            parts += ["without an equivalent:", *(f"  {flag}: {why}" for flag, why in self.notes.without)]
        if self.notes.known:
            parts += ["to know:", *(f"  {sentence}" for sentence in self.notes.known)]
        return "".join(f"{row}\n" for row in parts)


def translate(text: str, processes: int | None = None) -> Translation:
    """Return the settings of an open_clip command line; `processes` where its launcher's words are not in it.

    Raises:
        ConfigError: it cannot be read (see `open_clip_command.read`), or does not say on what or how long it trains.
    """
    command = read(text, processes)
    _check(command)
    notes = Remarks(command)
    lines = [
        *open_clip_model.lines(command, notes),
        *open_clip_data.lines(command, notes),
        *_losses(command),
        *_optim(command, notes),
        *_train(command, notes),
        *_eval(command, notes),
        *_tracking(command),
    ]
    for name in sorted(command.given & REASONS.keys(), key=list(vars(command.flags)).index):
        notes.refuse(name, REASONS[name])
    if processes is None and command.launched.startswith("no launcher"):
        notes.tell("one process is assumed; --processes N for more: the batch of open_clip grows with them")
    return Translation(command, lines, notes)


def write(translation: Translation, path: Path) -> None:
    """Write the configuration file, whole or not at all.

    Raises:
        ConfigError: it exists.
        RunError: it cannot be written.
    """
    if path.exists():
        raise ConfigError(f"--output: {path} exists already; give another file, or remove it")
    try:
        write_whole(path, translation.yaml())
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check(command: Command) -> None:
    flags = command.flags
    if not flags.train_data and flags.dataset_type != "synthetic":
        rule = "it trains on nothing; `contrastive eval` evaluates: --model ARCH@TAG --data configs/eval/NAME.yaml"
        raise ConfigError(f"--train-data: is not given: {rule}")
    if not flags.train_num_samples:
        rule = (
            "an epoch of open_clip is as long as it says; add --train-num-samples N (`contrastive data index` counts)"
        )
        raise ConfigError(f"--train-num-samples: is not given: {rule}")
    for name in ("batch_size", "accum_freq", "epochs", "train_num_samples"):
        if getattr(flags, name) < 1:
            raise ConfigError(f"{command.options[name]}: {getattr(flags, name)} must be at least 1")


def _losses(command: Command) -> Iterator[Line]:
    kind = "sigmoid" if command.flags.siglip else "infonce"
    origin = f"{command.said('siglip')}; " if command.flags.siglip else ""
    origin += "equal captions are wrong answers in open_clip; ours takes them for right ones: duplicates: positives"
    yield Line("losses.contrastive", {"name": kind, "duplicates": "negatives"}, origin)
    if open_clip_model.distils(command):
        yield Line("losses.distillation", {"name": "distillation"}, command.said("distill_model"))


def _optim(command: Command, notes: Remarks) -> Iterator[Line]:
    flags = command.flags
    if flags.opt.lower() != "adamw":
        notes.refuse("opt", "the optimizer is AdamW (optim.clip_update: StableAdamW); check the learning rate")
    for key, name in (
        *(("learning_rate", "lr"), ("weight_decay", "wd")),
        *(("beta1", "beta1"), ("beta2", "beta2"), ("epsilon", "eps"), ("clip_grad_norm", "grad_clip_norm")),
    ):
        if getattr(flags, name) is not None or name == "grad_clip_norm":
            yield Line(f"optim.{key}", getattr(flags, name), command.said(name))
    yield from _schedule(command, notes)


def _schedule(command: Command, notes: Remarks) -> Iterator[Line]:
    flags, total = command.flags, command.flags.epochs * command.steps
    is_constant = flags.skip_scheduler or flags.lr_scheduler == "const"
    by = command.said("skip_scheduler" if flags.skip_scheduler else "lr_scheduler")
    if not is_constant and flags.lr_scheduler != "cosine":
        notes.refuse("lr_scheduler", REASONS["epochs_cooldown"])
    yield Line("optim.final_learning_rate", flags.lr if is_constant and flags.lr is not None else 0.0, by)
    steps = 0 if flags.skip_scheduler else flags.warmup
    origin = by if flags.skip_scheduler else f"{command.said('warmup')}, steps of {command.batch} samples"
    yield Line("optim.warmup_samples", steps * command.batch, origin)
    if steps >= total:
        notes.tell(f"--warmup {steps} is no less than the {total} steps of the run: the rate never reaches --lr")


def _train(command: Command, notes: Remarks) -> Iterator[Line]:
    flags = command.flags
    length = f"{command.said('epochs')} x {command.said('train_num_samples')}"
    yield Line("train.total_samples", flags.epochs * flags.train_num_samples, length)
    yield Line("train.seed", flags.seed, command.said("seed"))
    precision, lost = PRECISIONS[flags.precision]
    yield Line("train.precision", precision, command.said("precision"))
    if lost:
        notes.refuse("precision", f"{precision} in the forward pass; {lost}")
    if flags.accum_freq > 1:
        yield Line("train.micro_batch_size", flags.batch_size, command.said("batch_size"))
    for key, name in (("compile", "torchcompile"), ("gradient_checkpointing", "grad_checkpointing")):
        if getattr(flags, name):
            yield Line(f"train.{key}", True, command.said(name))
    yield from _saves(command)


def _saves(command: Command) -> Iterator[Line]:
    flags, every = command.flags, max(0, command.flags.save_frequency)
    by = command.said("save_frequency")
    keeps_all = every > 0 and not flags.delete_previous_checkpoint
    if flags.save_most_recent:
        every, by = 1, command.said("save_most_recent")
    steps = every * command.steps or None
    yield Line("train.save_every_steps", steps, f"{by}, in epochs of {command.steps} steps")
    yield Line("train.save_every_minutes", None, "open_clip saves between epochs alone; ours: 15")
    kept = "delete_previous_checkpoint" if flags.delete_previous_checkpoint else "save_frequency"
    yield Line("train.keep_checkpoints", None if keeps_all else 2, f"{command.said(kept)}; null: all")


def _eval(command: Command, notes: Remarks) -> Iterator[Line]:
    flags = command.flags
    named = {name: path for name, path in IMAGENET.items() if getattr(flags, name)}
    if not named or flags.zeroshot_frequency < 1:
        for name in named:
            notes.refuse(name, "--zeroshot-frequency 0 never evaluates")
        return
    yield Line("eval.datasets", list(named.values()), ", ".join(command.said(name) for name in named))
    every = flags.zeroshot_frequency * command.steps
    yield Line("eval.every_steps", every, f"{command.said('zeroshot_frequency')}, in epochs of {command.steps} steps")
    for name, path in named.items():
        other = f"root: {getattr(flags, name)}, split: ., format: {FOLDERS[name]}, classnames: imagenet1k"
        notes.tell(f"{path} has a root of its own; for the folder of {command.options[name]} copy it with {other}")


def _tracking(command: Command) -> Iterator[Line]:
    flags = command.flags
    yield Line("tracking.log_every_steps", flags.log_every_n_steps, command.said("log_every_n_steps"))
    trackers = {name for name in ("tensorboard", "wandb") if name in flags.report_to or "all" in flags.report_to}
    yield Line("tracking.tensorboard", "tensorboard" in trackers, command.said("report_to"))
    if "wandb" in trackers:
        yield Line("tracking.trackers", ["wandb"], command.said("report_to"))
    place = flags.logs if flags.logs and flags.logs.lower() != "none" else "runs"
    name = flags.name or Path(flags.model.replace("/", "-")).name.rpartition(":")[2]
    yield Line("run.directory", str(Path(place) / name), f"{command.said('logs')}, {command.said('name')}")

"""One launch of a run: everything is made here, put together, and taken down."""

import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrastive import distributed
from contrastive.config import to_dict
from contrastive.data.loader import Loader
from contrastive.data.pool import storage_options
from contrastive.data.quarantine import FILE as QUARANTINE
from contrastive.data.quarantine import Quarantine, Tally
from contrastive.data.rows import Plan, RankRows
from contrastive.data.storage import Storage
from contrastive.data.stream import Reader
from contrastive.errors import Preempted, UserError
from contrastive.modalities.image import TrainTransform
from contrastive.models import teacher as teachers
from contrastive.models.build import Built
from contrastive.report import write_report
from contrastive.runs import machine
from contrastive.runs.hooks import Parts, RunHooks
from contrastive.runs.lifesigns import LifeSigns
from contrastive.runs.lock import RunLock
from contrastive.runs.preparing import Prepared, introduce
from contrastive.runs.starting import find_start, require_one_dataset, require_shared, untrained
from contrastive.tracking import Tracker, environment
from contrastive.train import directory as run_directory
from contrastive.train import optim, sharding, task
from contrastive.train.caching import plan_step
from contrastive.train.checkpoints import Checkpoints
from contrastive.train.ema import Ema
from contrastive.train.flops import peak_flops
from contrastive.train.guard import Guard
from contrastive.train.keeper import Keeper
from contrastive.train.loop import Training, span
from contrastive.train.pace import Pace
from contrastive.train.resume import Change
from contrastive.train.signals import StopRequest
from contrastive.train.state import ShardedState, TrainingState
from contrastive.train.watchdog import Watchdog

log = logging.getLogger("contrastive")
CODE = ("code", "git_revision", "git_modified", "python", "host", "packages")


class Launch:
    """Makes what a run needs, on every rank, and trains from where an earlier launch has got to."""

    def __init__(self, prepared: Prepared, stop: StopRequest, watchdog: Watchdog) -> None:
        config = self.config = prepared.config
        self.prepared, self.stop, self.watchdog, self.directory = prepared, stop, watchdog, prepared.directory
        machine.set_threads(config.train.threads)
        self.precision = machine.resolve_precision(config.train.precision)
        self.accelerator = machine.accelerator(self.precision, config.train.start_seconds)
        require_one_dataset(prepared.pool)
        self.built, self.teacher = self._models()
        self.module = self._task()

    def run(self, known: list[Callable[[], str]]) -> None:
        """Train to the end, and keep others out of the directory; `known` gets who can say what is waited for."""
        with LifeSigns(distributed.gather_objects(socket.gethostname())) as signs, ExitStack() as held:
            known.append(signs.silent)
            self.changed = distributed.on_main(lambda: self._claim(held))
            self.checkpoints = Checkpoints(self.directory, self.config.train.keep_checkpoints)
            stream = self.prepared.pool.state(self.config.data, self.config.train.seed)
            self.start = find_start(self.config, stream, self.checkpoints, self.changed)
            self.steps = span(self.config, self.start.step, self.start.samples_seen)
            self._train(known)

    def _claim(self, held: ExitStack) -> list[Change]:
        held.enter_context(RunLock(self.directory))
        return run_directory.require_usable(self.directory, self.config)  # again: now nobody else can change it

    def _train(self, known: list[Callable[[], str]]) -> None:
        config, accelerator, module = self.config, self.accelerator, self.module
        is_sharded = config.train.sharding == "full" and accelerator.num_processes > 1
        if is_sharded:
            sharding.shard(module.to(accelerator.device))
        # Loader and schedule stay out of prepare(): it would read everything on rank 0, and step once a process.
        own = optim.optimizer(module, config.optim)
        # What is sharded needs no wrapper of Accelerate's, but its mixed precision.
        trained = accelerator.prepare_model(module, evaluation_mode=is_sharded)
        if isinstance(trained, DistributedDataParallel):
            trained.broadcast_buffers = has_running_statistics(module)
        optimizer = accelerator.prepare_optimizer(own)
        if config.train.compile and not is_sharded:
            self.built.model.compile()
        ema = None if config.train.ema_decay is None else Ema(self.built.model, config.train.ema_decay)
        guard = Guard(config.train, overflows=accelerator.scaler is not None)
        facts = self._facts()
        tracker = self._open(facts)
        hooks = RunHooks(self._parts(ema, tracker, facts))
        state = TrainingState(module, own, ema)
        if is_sharded:
            state = ShardedState(module, own, ema, distributed.background_group())
        hooks.keeper = Keeper(
            self.checkpoints, state, self.built, accelerator, guard, config.train, tell=hooks.tell, alive=hooks.alive
        )
        loader = self._loader()
        known.append(loader.watch.standing)
        training = Training(
            config,
            accelerator,
            trained,
            optimizer,
            loader,
            hooks=hooks,
            steps=self.steps,
            guard=guard,
            pace=self._pace(trained),
        )
        try:
            training.run()
            hooks.keeper.settle()
        except Preempted as asked:
            self._preempted(asked, hooks.keeper)
            raise
        finally:
            hooks.keeper.close()
        self._close(loader, hooks, tracker)

    def _models(self) -> tuple[Built, teachers.Teacher | None]:
        torch.manual_seed(self.config.train.seed)  # the same weights on every rank
        built, teacher = untrained(self.config, self.prepared.begun), teachers.load(self.config.model)
        # Accelerate is not told of the teacher, so that it wraps and sends nothing of it.
        on_device = None if teacher is None else teacher.to(self.accelerator.device)
        return built, None if on_device is None else on_device.to(memory_format=torch.channels_last)

    def _task(self) -> task.ContrastiveTask:
        module = task.ContrastiveTask(self.built.model, self.built.preprocess, self.config, self.teacher)
        module.to(memory_format=torch.channels_last)  # convolutions run 2 to 3 times as fast
        train = self.config.train
        if train.compile and train.sharding == "full":
            sharding.compile_blocks(self.built.model)
        if train.gradient_checkpointing:
            sharding.checkpoint_blocks(self.built.model)
        # Dropout differs between ranks. A user's part may draw from numpy or Python as well.
        set_seed(self.config.train.seed + 1 + self.accelerator.process_index)
        return module

    def _pace(self, trained: nn.Module) -> Pace:
        """Return the clock of the steps; a rank has arrived where its own work ends and others are heard of."""
        device = self.accelerator.device
        pace = Pace(self.config.data.global_batch_size, seconds_before=self.start.seconds, device=device)
        pace.peak_flops = peak_flops(device, self.precision)
        # With running statistics DDP speaks before a forward pass, else the losses are the first to speak.
        firsts = [trained] if has_running_statistics(self.module) else self.module.losses.values()
        for first in firsts:
            first.register_forward_pre_hook(lambda *_: pace.arrived())
        return pace

    def _facts(self) -> dict[str, Any]:
        facts = environment(self.accelerator.num_processes, self.accelerator.device.type, self.precision)
        facts["parameters"] = sum(p.numel() for p in self.built.model.parameters())
        if self.teacher is not None:
            size = sum(p.numel() for p in self.teacher.parameters())
            facts["teacher"] = f"{self.teacher.source}, {size / 1e6:.1f} M parameters"
        facts["samples"] = len(self.prepared.pool)
        facts["data_fingerprint"] = self.prepared.pool.fingerprint
        facts["step"] = str(plan_step(self.config, self.accelerator.num_processes))
        return facts

    def _open(self, facts: dict[str, Any]) -> Tracker | None:
        """Make the directory and say what is about to run; on the main process."""
        tracker = None
        if self.accelerator.is_main_process:
            run_directory.create(self.directory, self.config, facts)
            tracking = self.config.tracking
            tracker = Tracker(
                self.directory,
                tracking.tensorboard,
                tracking.trackers,
                project="contrastive",
                config=to_dict(self.config),
                resume_step=self.start.step if self.start.goes_on else None,
            )
            introduce(self.prepared, facts, self.steps)
            if self.start.goes_on:
                self._go_on(tracker, facts)
        self.accelerator.wait_for_everyone()
        require_shared(self.directory / run_directory.CONFIG)
        return tracker

    def _go_on(self, tracker: Tracker, facts: dict[str, Any]) -> None:
        """Say where an earlier launch is taken up, and what is different now."""
        step, then = self.start.step, self.start.facts
        if step:
            log.info("goes on at step %d of %s", step, self.checkpoints.path(step))
        for change in self.changed:
            log.info("%s: %s", "changed" if change.meaning == "free" else "changed from here on", change)
        now = {"world_size": facts["world_size"], "threads": facts["threads"]}
        other = [f"{name} {then[name]} -> {value}" for name, value in now.items() if then and then[name] != value]
        if other:
            log.info("%s: the same samples in every step, and the same sums up to rounding", ", ".join(other))
        told = {name: facts[name] for name in CODE if name in facts}
        tracker.record("resume", step, {**now, "changes": [str(change) for change in self.changed], **told})

    def _parts(self, ema: Ema | None, tracker: Tracker | None, facts: dict[str, Any]) -> Parts:
        return Parts(
            config=self.config,
            pool=self.prepared.pool,
            datasets=self.prepared.datasets,
            built=self.built,
            task=self.module,
            ema=ema,
            accelerator=self.accelerator,
            tracker=tracker,
            stop=self.stop,
            watchdog=self.watchdog,
            start=self.start,
            steps=self.steps,
            code={name: facts[name] for name in CODE if name in facts},
        )

    def _loader(self) -> Loader:
        config, data, accelerator = self.config, self.config.data, self.accelerator
        crop, teacher = data.random_crop, self.teacher
        transform = TrainTransform(self.built.preprocess, (crop[0], crop[1]) if crop else None, data.decode_scale)
        plan = Plan(
            self.prepared.pool.order(data, config.train.seed),
            config.train.seed,
            data.global_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            self.start.consumed,
        )
        rows = RankRows(
            Reader(self.prepared.pool, Storage(storage_options(data)), data.damaged_shards),
            transform,
            self.built.tokenizer,
            plan,
            teacher_tokenizer=None if teacher is None else teacher.tokenizer,
            image_ids="image_id" in task.needs(config),
        )
        return Loader(
            rows,
            workers=data.workers,
            pin_memory=accelerator.device.type == "cuda",
            cut_text=not self.built.model.reads_padding,
            cut_teacher_text=teacher is not None and not teacher.model.reads_padding,
            quarantine=Quarantine(self.directory / QUARANTINE, data.max_bad_share),
            timeout_seconds=data.timeout_seconds,
        )

    def _preempted(self, asked: Preempted, keeper: Keeper) -> None:
        if self.accelerator.is_main_process:
            assert keeper.saved is not None, "a run that is asked to end is saved first"
            path = self.checkpoints.path(keeper.saved)
            run_directory.preempt(self.directory, asked.signal, keeper.saved, path)
            log.info("saved %s; the same command goes on from there", path)
        self.accelerator.wait_for_everyone()  # a launcher ends the others when one has ended

    def _close(self, loader: Loader, hooks: RunHooks, tracker: Tracker | None) -> None:
        """Mark the run as done and write its report."""
        tally = sum(distributed.gather_objects(loader.quarantine.tally()), Tally())
        sources = distributed.gather_objects(loader.sources)
        if tracker is not None:
            tracker.close()
            figures: dict[str, Any] = {
                "step": self.steps.last,
                "samples_seen": self.steps.samples_seen(self.steps.last),
                "seconds": round(hooks.seconds(), 1),
                "replaced": tally.replaced,
            }
            if tally.replaced:
                log.warning("%s; see %s", tally, self.directory / QUARANTINE)
            if self.config.data.sources:
                figures["sources"] = self._sources(sources)
            run_directory.finish(self.directory, self.config, figures)
            try:
                log.info("report: %s", write_report(self.directory))
            except UserError as error:  # the training is done and saved; a missing plot library must not fail it
                log.warning("no report: %s", error)
        self.accelerator.end_training()

    def _sources(self, sources: list[list[int]]) -> dict[str, int]:
        counts = [sum(column) for column in zip(*sources, strict=True)]
        named = dict(zip(self.config.data.sources, counts, strict=True))
        total = max(1, sum(counts))
        log.info("samples by source: %s", ", ".join(f"{k} {n:,} ({n / total:.1%})" for k, n in named.items()))
        return named


def has_running_statistics(module: nn.Module) -> bool:
    """Whether a module has buffers that change, as batch norm's do, which DDP must send with every forward pass.

    Constants, such as attention masks, are in no state dict. To send them costs each step an exchange.
    """
    kept = set(module.state_dict())
    return any(name in kept for name, _ in module.named_buffers())

"""The pretraining loop, readable from top to bottom: batches -> views -> encoder -> objective -> step."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain import monitor, optimizer
from pretrain.board import Board
from pretrain.checkpoints import Checkpoints, check, start, writing
from pretrain.config import PretrainConfig
from pretrain.distributed import Group, Interrupted
from pretrain.meter import Meter
from pretrain.momentum import follow, teacher
from pretrain.objectives import OBJECTIVES, Objective, Setting
from pretrain.provenance import provenance
from pretrain.schedule import learning_rate
from pretrain.watch import Watch
from skelcore import encoders, mixture
from skelcore.batches import Batch, ClipDataset, ClipSampler, Loader, loader
from skelcore.encoders import Encoder
from skelcore.errors import InputError, RunError
from skelcore.folder import Folder
from skelcore.mixture import Mixture
from skelcore.progress import Progress
from skelcore.seen import seen, together
from skelcore.store import Store
from skelcore.views import Views
from skelcore.views.fill import fill

_SHOWN = ["loss/total", "knn/accuracy", "linear/accuracy", "features/effective_rank", "features/std"]
_SETTLED = 50  # steps until what batch norms track tells nothing of its start, with which features look alike


class Trainer:
    """Pretrains one encoder on a mixture of data; resumes from the output's checkpoint, bit for bit on a CPU.

    Every random draw of a step is derived from the seed and the number of the step: no generator has to be saved, and
    any number of processes sees the clips of a step alike. Raises InputError for what cannot be trained.
    """

    def __init__(self, config: PretrainConfig, group: Group | None = None) -> None:
        self.config, self.group = config, group or Group()
        self.device = _device(config.device)
        self.parts = _parts(config, self.group.world)
        self.checkpoints = Checkpoints(Folder(config.output), config.keep)
        state = self.checkpoints.load()
        if state is not None:
            check(state, config.model_dump(mode="json"), self.device.type, self.parts, self.checkpoints.place)
        step = None if state is None else state["step"]
        if self.group.same(step) != step:
            raise InputError(f"output={config.output}: processes find different checkpoints there; it must be a place "
                             "that all of them share")
        self.data = self._open(None if state is None else state["data"])
        self.dataset = ClipDataset(self.data, config.frames, config.persons)
        self.sampler = ClipSampler(self.dataset.lengths, config.batch_size, config.seed, self.group.rank,
                                   self.group.world, weights=self.dataset.weights)
        self.before: Tensor | None = torch.zeros(0, dtype=torch.int64)  # the clips that the weights of init= have seen
        self.hashes: Tensor | None = None  # of this run's own, from the first checkpoint on
        self.objective = self._build()
        self.average = teacher(self.objective.encoder) if config.optimizer.ema else None
        self.optimizer = optimizer.build(self.objective, config.optimizer)
        self.autocast = _autocast(config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.generator = torch.Generator(self.device)
        self.watch = Watch(config, self.dataset, self.device)
        self.meter, self.step = Meter(self.device), 0
        self.metrics: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        if state is not None:
            self._load(state)
        self.model = self.group.wrap(self.objective)

    @property
    def encoder(self) -> Encoder:
        """What is watched and saved: the trained encoder or, with optimizer.ema, its average."""
        return self.objective.encoder if self.average is None else self.average

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.sampler) // self.config.accumulate)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, if the data stay as they are."""
        done = -(-self.sampler.step // self.config.accumulate)
        return self.step - done + (self.config.epochs - self.sampler.epoch) * self.steps_per_epoch

    @property
    def epochs_done(self) -> float:
        return self.sampler.epoch + self.sampler.step / len(self.sampler)

    def run(self) -> dict[str, float]:
        """Train to the end and return the last metrics.

        Raises RunError for a loss that is not finite, collapsed features, data that vanish and a disk that refuses, and
        Interrupted, with the state saved, for SIGINT and SIGTERM.
        """
        if self.sampler.epoch >= self.config.epochs:
            return self.metrics
        if self.group.first:
            self.checkpoints.folder.create()
        with (writing(self.config.output), self._board() as board, self.group.listening(),
              Progress(self.total_steps, "steps", self.step, silent=not self.group.first) as progress):
            board.hyperparameters(self.config.model_dump(mode="json"), _SHOWN)
            batches = loader(self.dataset, self.sampler, self.config.workers)
            while self.sampler.epoch < self.config.epochs:
                self._epoch(batches, board, progress)
                batches = self._next(batches, board)
                progress.total = self.total_steps
        return self.metrics

    def _board(self) -> Board:
        # What an interrupted run wrote beyond the step that it saved is taken back.
        return Board(self.config.output if self.group.first else None, purge_step=self.step + 1)

    def _epoch(self, batches: Loader, board: Board, progress: Progress) -> None:
        """Steps from the sampler's position to the end of its epoch; none where a run was interrupted at that end."""
        shown: dict[str, Tensor] = {}
        for chunk in _chunks(self.meter.waited(batches), self.config.accumulate, self.sampler):
            shown = self.train_step(chunk)
            logs = self.step % self.config.log_every_steps == 0
            # On a GPU, asking for the loss would wait for it; a NaN stays until the next time it is asked for.
            if logs or self.device.type == "cpu":
                self._finite(shown)
            progress.update(loss=self.metrics.get("loss", float("nan")))
            if logs:
                board.scalars({**{name: float(value) for name, value in shown.items()}, **self.meter.read()}, self.step)
            if (number := self.group.interrupted()) and self.step < self.total_steps:
                self._finite(shown)
                self.save()
                raise Interrupted(number)
        if shown:
            self._finite(shown)

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One optimiser step on the batches whose gradients it sums; returns what to log, still on the device."""
        rate = learning_rate(self.epochs_done - 0.5 * len(batches) / len(self.sampler), self.config.epochs,
                             self.config.optimizer.warmup_epochs, self.config.optimizer.lr)
        optimizer.set_rate(self.optimizer, rate)
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        shown: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            with self.meter.viewing():
                seen = self.see(batch.to(self.device), self.step * self.config.accumulate + number)
            with self._together(number == len(batches) - 1):
                with self.autocast:
                    loss, terms = self.model(*seen)
                self.scaler.scale(loss / len(batches)).backward()
            for name, term in {"total": loss, **terms}.items():
                shown[f"loss/{name}"] = shown.get(f"loss/{name}", 0) + term.detach() / len(batches)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.optimizer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.meter.count(sum(map(len, batches)) * self.group.world)
        self.objective.update(min(1.0, self.epochs_done / self.config.epochs))
        if self.average is not None:
            follow(self.average, self.objective.encoder, self.config.optimizer.ema)
        return {**shown, "optimizer/gradient_norm": norm, "optimizer/lr": torch.tensor(rate)}

    @torch.no_grad()
    def see(self, batch: Batch, number: int) -> tuple[Tensor, ...]:
        """What the objective sees of this process's share of the run's ``number``-th batch.

        Part p of the global batch, every ``parts``-th clip from the p-th on, has draws of its own.
        """
        keypoints, scores = fill(batch.keypoints, batch.scores, self.config.fill)
        batch = replace(batch, keypoints=keypoints, scores=scores)
        own = self.parts // self.group.world
        seen = []
        for i in range(own):
            key = f"{self.config.seed}:{number}:{i * self.group.world + self.group.rank}"
            self.generator.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
            seen.append(self.objective.see(batch.part(i, own), self.generator))
        if own == 1:
            return seen[0]
        return tuple(torch.stack(each, 1).flatten(0, 1) for each in zip(*seen, strict=True))

    def save(self) -> None:
        """Write the checkpoint: all that a resumed run or an adaptation needs."""
        if not self.group.first:
            return
        state = {key: value for key, value in self.objective.state_dict().items() if not key.startswith("encoder.")}
        trained = None if self.average is None else self.objective.encoder.state_dict()
        config = self.config
        common = {"persons": config.persons, "fill": config.fill, "config": config.model_dump(mode="json"),
                  "metrics": self.metrics, "provenance": provenance(), "seen": self._seen()}
        # Partners first: a run with its last checkpoint has ended, and has them.
        for name, (encoder, stream) in self.objective.encoders().items():
            if encoder is not self.objective.encoder:
                self.checkpoints.save_partner(name, encoder, config.frames, stream, step=self.step, **common)
        self.checkpoints.save(
            self.encoder, config.frames, config.stream, self.step, device=self.device.type,
            data=self.data.state_dict(), objective=state, trained=trained,
            optimizer=self.optimizer.state_dict(), scaler=self.scaler.state_dict(), sampler=self.sampler.state_dict(),
            history=self.history, seconds=self.meter.seconds, clips_seen=self.meter.clips, parts=self.parts, **common)

    def _seen(self) -> Tensor | None:
        """Which clips the weights have seen, see ``skelcore.seen``; None, unknown, where those of init= do not say."""
        if self.hashes is None:
            self.hashes = seen(self.data)
        return together(self.before, self.hashes)

    def _next(self, batches: Loader, board: Board) -> Loader:
        """What is due between two epochs: a look, a checkpoint, and clips that have come since."""
        epoch, last = self.sampler.epoch, self.sampler.epoch == self.config.epochs
        if last or epoch % self.config.monitor.every_epochs == 0:
            self._look(board, last)
        grown = not last and self._grow()  # before the checkpoint, which holds the next epoch's files
        if last or epoch % self.config.save_every_epochs == 0:
            self.save()
            board.flush()
        return loader(self.dataset, self.sampler, self.config.workers) if grown else batches

    def _grow(self) -> bool:
        """Take up the shards that have come since the data were last listed; whether there are any."""
        grown = self.data.refresh() if self.group.first else None
        state = self.group.same(None if grown is None else grown.state_dict())
        if state is None:
            return False
        known, self.data = list(self.data.classes), grown or self.data.refresh(state) or self.data
        if self.config.objective.name == "supervised" and list(self.data.classes)[:len(known)] != known:
            raise RunError(f"{self.config.data[0].uri}: new shards bring new classes, which renumber the old ones; "
                           "start a new run on them")
        self.hashes = None
        self.dataset = ClipDataset(self.data, self.config.frames, self.config.persons)
        self.sampler.resize(self.dataset.lengths)
        return True

    def _look(self, board: Board, last: bool) -> None:
        """Measure the encoder, and stop if its features have collapsed once the warm-up is over."""
        if self.group.first:
            self.metrics.update(self.watch.look(self.objective, self.encoder, board, self.step, last))
        self.metrics = self.group.same(self.metrics)
        self.history.append({"step": self.step, **self.metrics})
        warm = self.step >= _SETTLED and self.epochs_done >= self.config.optimizer.warmup_epochs
        if warm and (trouble := monitor.collapse(
                self.metrics["features/effective_rank"], self.metrics["features/std"])):
            raise RunError(f"step {self.step}: {trouble}; the last checkpoint in {self.config.output} is from before")

    def _finite(self, shown: dict[str, Tensor]) -> None:
        """Note the loss; raises RunError for one, or a gradient, that is not finite and has spoilt the weights."""
        checked = {"loss": float(shown["loss/total"])}
        if not self.scaler.is_enabled():  # which skips such gradients
            checked["norm of the gradient"] = float(shown["optimizer/gradient_norm"])
        for what, value in checked.items():
            if not math.isfinite(value):
                raise RunError(f"the {what} is {value} at step {self.step}: lower optimizer.lr; "
                               f"the last checkpoint in {self.config.output} is whole")
        self.metrics["loss"] = checked["loss"]

    def _load(self, state: dict[str, Any]) -> None:
        self.objective.encoder.load_state_dict(state["encoder"] if self.average is None else state["trained"])
        missing, unexpected = self.objective.load_state_dict(state["objective"], strict=False)
        if unexpected or any(not key.startswith("encoder.") for key in missing):
            raise InputError(f"{self.checkpoints.place}: its objective has other parts than this version's; choose "
                             "another output=")
        if self.average is not None:
            self.average.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.sampler.load_state_dict(state["sampler"])
        self.step, self.metrics, self.history = int(state["step"]), dict(state["metrics"]), list(state["history"])
        self.meter.seconds, self.meter.clips = float(state["seconds"]), int(state["clips_seen"])

    def _open(self, state: dict[str, Any] | None) -> Mixture:
        """The data; every process takes the files that the first one finds, for a folder may grow between listings."""
        found = mixture.open_sources(self.config.sources, self.config.layout, state) if self.group.first else None
        state = self.group.same(None if found is None else found.state_dict())
        return found or mixture.open_sources(self.config.sources, self.config.layout, state)

    def _build(self) -> Objective:
        config, data = self.config, self.dataset
        if "bone" in config.stream and not data.layout.bones:
            raise InputError(f"stream={config.stream}: layout {data.layout.name} has no bones; take stream=joint")
        channels = encoders.channels(config.encoder.name, data.layout, data.channels, config.stream)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = encoders.build(config.encoder.name, data.layout, channels, config.encoder.channels)
            if config.init is not None:
                self.before = together(self.before, start(encoder, config.init))
            setting = Setting(stream=config.stream, views=Views(config.views), frames=config.frames,
                              coordinates=data.channels, classes=_classes(data.store), group=self.group)
            objective = OBJECTIVES[config.objective.name](encoder, config.objective, setting)
        if config.compile:
            objective.compile_encoders()
        return objective.to(self.device)

    def _together(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients in the last backward pass of a step only."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: no CUDA device here; use device=auto")
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def _parts(config: PretrainConfig, world: int) -> int:
    parts = max(world, config.view_parts)
    if parts % world or config.batch_size % parts:
        raise InputError(f"batch_size={config.batch_size} must be a multiple of view_parts={config.view_parts}, and "
                         f"both of the number of processes, {world}")
    return parts


def _autocast(config: PretrainConfig, device: torch.device) -> torch.autocast:
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    chosen = config.precision
    if chosen == "auto":
        chosen = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return torch.autocast(device.type, kinds.get(chosen, torch.bfloat16), enabled=chosen in kinds)


def _chunks(batches: Iterator[Batch], size: int, sampler: ClipSampler) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last one of an epoch may be shorter.

    It comes before the next batch is asked for, which would move the sampler on to the next epoch.
    """
    chunk: list[Batch] = []
    for batch in batches:
        chunk.append(batch)
        if len(chunk) == size or sampler.step == len(sampler):
            yield chunk
            chunk = []


def _classes(store: Store) -> int:
    return len(store.classes) if (np.asarray(store.labels) >= 0).any() else 0

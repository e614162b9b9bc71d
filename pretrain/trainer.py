"""The pretraining loop, readable from top to bottom: batch -> two views -> encoder -> objective -> step."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.monitor import effective_rank, feature_std, knn_accuracy
from pretrain.objectives.vicreg import VICReg
from pretrain.schedule import learning_rate
from skelcore import checkpoint, encoders, views
from skelcore.batches import Batch, ClipDataset, ClipSampler, loader
from skelcore.draw import contact_sheet
from skelcore.errors import InputError, RunError
from skelcore.progress import Progress
from skelcore.sequence import PoseSequence
from skelcore.store import Store, Subset

# What may change between a run and its resumption without changing its result; the data's content is checked itself.
_FREE_TO_CHANGE = {"data", "monitor", "output", "device", "workers", "save_every_epochs", "log_every_steps"}
_MOST_WATCHED = 4096  # clips on which the features' health is measured when no monitor set is given


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived; the state is saved."""

    def __init__(self, signal_number: int) -> None:
        self.signal = signal_number


class Trainer:
    """Pretrains one encoder on one store; resumes from ``output/checkpoint.pt`` to bit-identical weights on a CPU."""

    def __init__(self, config: PretrainConfig, store: Store, monitor: Store | None = None) -> None:
        self.config = config
        self.device = torch.device(_device(config))
        self.dataset = ClipDataset(store, config.frames, config.persons, config.layout)
        self.layout = self.dataset.layout
        if config.batch_size > len(self.dataset):
            raise InputError(f"batch_size={config.batch_size} exceeds the {len(self.dataset)} clips of "
                             f"data={config.data}; lower it")
        self.sampler = ClipSampler(len(self.dataset), config.batch_size, config.seed)
        self.monitor = monitor
        self.watched = self._watched(store)
        self.metrics: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.encoder = self._build(store.channels)
            self.objective = VICReg(self.encoder.dim, config.objective)
        self.encoder.to(self.device)
        self.objective.to(self.device)
        self.views = views.Views(config.views)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.optimizer = _optimizer([self.encoder, self.objective], config.optimizer)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=_bf16(config, self.device))
        self.step = 0
        self.output = Path(config.output)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.sampler)

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def run(self) -> dict[str, float]:
        """Train to the end and return the last metrics; raises RunError when the loss is not finite."""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output={self.output}: cannot be written: {error.strerror}") from None
        self._resume()
        if self.step == self.total_steps:
            return self.metrics
        # What an interrupted run wrote beyond the step that it saved is taken back.
        with (SummaryWriter(str(self.output), purge_step=self.step + 1) as board, _interruption() as interrupted,
              Progress(self.total_steps, "steps", self.step) as progress):
            batches = loader(self.dataset, self.sampler, self.config.workers)
            while self.step < self.total_steps:
                started = time.perf_counter()
                for batch in batches:
                    shown = self.train_step(batch)
                    self.metrics["loss"] = shown["loss/total"]
                    progress.update(loss=self.metrics["loss"])
                    if self.step % self.config.log_every_steps == 0:
                        shown["speed/clips_per_second"] = len(batch) / (time.perf_counter() - started)
                        _write(board, shown, self.step)
                    if interrupted and self.step < self.total_steps:
                        self.save()
                        raise Interrupted(interrupted[0])
                    started = time.perf_counter()
                epoch, last = self.step // self.steps_per_epoch, self.step == self.total_steps
                if last or epoch % self.config.monitor.every_epochs == 0:
                    self.metrics.update(self.look(board))
                if last or epoch % self.config.save_every_epochs == 0:
                    self.save()
        return self.metrics

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on a batch; returns what to log."""
        batch = batch.to(self.device)
        rate = learning_rate(self.step, self.total_steps,
                             int(self.config.optimizer.warmup_epochs * self.steps_per_epoch), self.config.optimizer.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.encoder.train()
        with self.autocast:
            first, second = self._encode(*self._view(batch)), self._encode(*self._view(batch))
        # In full precision: variances and covariances of half-precision embeddings lose their small differences.
        loss, terms = self.objective(first.float(), second.float())
        if not torch.isfinite(loss):
            raise RunError(f"the loss is {loss.item()} at step {self.step}: lower optimizer.lr; "
                           f"the last checkpoint in {self.output} is whole")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters(), self.config.optimizer.clip)
        self.optimizer.step()
        self.step += 1
        return {"loss/total": loss.item(), **{f"loss/{name}": term.item() for name, term in terms.items()},
                "optimizer/lr": rate, "optimizer/gradient_norm": norm.item()}

    @torch.no_grad()
    def look(self, board: SummaryWriter) -> dict[str, float]:
        """Write the health of the features, their kNN accuracy where labels are given, and a figure of two views."""
        features, index = self._embed(self.watched)
        shown = {"features/std": feature_std(features), "features/effective_rank": effective_rank(features)}
        if self.monitor is not None:
            labelled = self.monitor.labels[index] >= 0
            groups = np.asarray(self.monitor.groups)[index]
            shown["knn/accuracy"] = knn_accuracy(features[labelled], self.monitor.labels[index][labelled],
                                                 groups[labelled].tolist(), self.config.monitor.k)
        _write(board, shown, self.step)
        self._draw_views(board)
        return shown

    def save(self) -> None:
        """Write ``checkpoint.pt``: all that a resumed run or an adaptation needs."""
        checkpoint.save_encoder(
            self.output / "checkpoint.pt", self.encoder, self.config.frames, self.config.stream,
            persons=self.config.persons, config=self.config.model_dump(mode="json"),
            metrics=self.metrics, device=self.device.type, data_fingerprint=self.dataset.store.fingerprint,
            objective=self.objective.state_dict(), optimizer=self.optimizer.state_dict(),
            sampler=self.sampler.state_dict(), generator=self.generator.get_state(), step=self.step)

    def _resume(self) -> None:
        path = self.output / "checkpoint.pt"
        if not path.exists():
            return
        state = checkpoint.load(path)
        old, new = state.get("config"), self.config.model_dump(mode="json")
        if not isinstance(old, dict):
            raise InputError(f"{path} was not written by a pretraining run; choose another output= or remove it")
        differing = [key for key in new if key not in _FREE_TO_CHANGE and old.get(key) != new[key]]
        if differing:
            raise InputError(f"{path} belongs to a run with another configuration ({', '.join(differing)}); "
                             "choose another output= or remove it")
        if state["data_fingerprint"] != self.dataset.store.fingerprint:
            raise InputError(f"{path} belongs to a run on other data; choose another output= or remove it")
        if state["device"] != self.device.type:
            raise InputError(f"{path} was trained on {state['device']}, whose random numbers {self.device.type} cannot "
                             f"go on with; resume with device={state['device']}, or choose another output=")
        self.encoder.load_state_dict(state["encoder"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sampler.load_state_dict(state["sampler"])
        self.generator.set_state(state["generator"])
        self.step, self.metrics = int(state["step"]), dict(state["metrics"])

    def _build(self, coordinates: int) -> encoders.Encoder:
        name = self.config.encoder.name
        channels = encoders.channels(name, self.layout, coordinates, self.config.stream)
        return encoders.build(name, self.layout, channels, self.config.encoder.width)

    def _watched(self, store: Store) -> ClipDataset:
        """The clips that ``look`` measures: the monitor set, or as many of the data as it takes."""
        if self.monitor is None:
            count = min(len(store), _MOST_WATCHED)
            chosen = np.random.default_rng(self.config.seed).choice(len(store), count, replace=False)
            return ClipDataset(Subset(store, np.sort(chosen)), self.config.frames, self.config.persons, self.layout)
        if self.monitor.channels != store.channels:
            raise InputError(f"monitor.data={self.config.monitor.data}: has {self.monitor.channels}D poses, "
                             f"data={self.config.data} {store.channels}D ones")
        return ClipDataset(self.monitor, self.config.frames, self.config.persons, self.layout)

    def _view(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.views(batch.keypoints, batch.scores, self.layout, self.generator)

    def _encode(self, keypoints: Tensor, scores: Tensor) -> Tensor:
        """Pooled features (N, D) of clips in any unit."""
        pooled: Tensor = self.encoder(*self.encoder.inputs(keypoints, scores, self.config.stream))
        return pooled

    @torch.no_grad()
    def _embed(self, dataset: ClipDataset) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, D) of clean clips in evaluation mode, and their positions (n,)."""
        self.encoder.eval()
        sampler = ClipSampler(len(dataset), self.config.batch_size, seed=0, shuffle=False, drop_last=False)
        features, index = [], []
        for batch in loader(dataset, sampler, self.config.workers):
            batch = batch.to(self.device)
            features.append(self._encode(batch.keypoints, batch.scores).float().cpu().numpy())
            index.append(batch.index.cpu().numpy())
        return np.concatenate(features), np.concatenate(index)

    def _draw_views(self, board: SummaryWriter) -> None:
        batch = self.dataset[0].to(self.device)
        # A generator of its own: looking must not change what the training draws next.
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        pair = [self.views(batch.keypoints, batch.scores, self.layout, generator) for _ in range(2)]
        clips = [PoseSequence(k[0].cpu().numpy(), s[0].cpu().numpy(), self.layout)
                 for k, s in ((batch.keypoints, batch.scores), *pair)]
        board.add_figure("views", contact_sheet(clips, ["clip", "view 1", "view 2"]), self.step)

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.objective.parameters()]


def _device(config: PretrainConfig) -> str:
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: no CUDA device here; use device=auto")
    return config.device


def _bf16(config: PretrainConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def _optimizer(modules: list[nn.Module], config: OptimizerConfig) -> torch.optim.Optimizer:
    parameters = [p for module in modules for p in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


def _write(board: SummaryWriter, values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        if math.isfinite(value):
            board.add_scalar(name, value, step)


@contextlib.contextmanager
def _interruption() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a step ends and the state is saved before the process goes."""
    seen: list[int] = []
    previous = {number: signal.signal(number, lambda got, _: seen.append(got))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

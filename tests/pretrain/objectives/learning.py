"""What tests of objectives share: a batch, an objective on a small encoder, a loop without a trainer, and a control."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from pretrain.monitor import knn_accuracy
from pretrain.objectives.objective import Objective, Setting
from skelcore import encoders
from skelcore.batches import Batch, ClipDataset
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.store import Store
from skelcore.views import ViewConfig, Views

Make = Callable[[Encoder, Config, Setting], Objective]


def objective(make: Make, config: Config, name: str = "stgcn++", width: int = 8, frames: int = 16,
              stream: str = "joint", views: ViewConfig | None = None, seed: int = 0) -> Objective:
    """An objective with a small encoder for the mannequin's layout, its weights drawn from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = encoders.channels(name, "coco17", 2, stream)
        encoder = encoders.build(name, "coco17", channels, width)
        return make(encoder, config, Setting(stream, Views(views or ViewConfig()), frames))


def clips(store: Store, frames: int = 16) -> Batch:
    """All clips of a store."""
    return ClipDataset(store, frames).__getitems__(range(len(store)))


def batches(batch: Batch, size: int, count: int, seed: int = 0) -> Iterator[Batch]:
    """Shuffled parts of a batch, epoch after epoch."""
    generator = np.random.default_rng(seed)
    for _ in range(-(-count * size // len(batch))):
        for rows in np.array_split(generator.permutation(len(batch)), len(batch) // size):
            yield Batch(*(tensor[torch.from_numpy(rows)] for tensor in vars(batch).values()))


def train(objective: Objective, parts: list[Batch], rate: float = 2e-3, seed: int = 0) -> list[float]:
    """A step for each part; returns the losses."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], rate)
    objective.train()
    losses = []
    for step, part in enumerate(parts, 1):
        loss, _ = objective(*objective.see(part, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 5.0)
        optimizer.step()
        objective.update(step / len(parts))
        losses.append(loss.item())
    return losses


def accuracy(encoder: Encoder, batch: Batch, store: Store, stream: str = "joint") -> float:
    """Share of the clips whose action the three nearest clips of other persons tell."""
    encoder.eval()
    with torch.no_grad():
        features = encoder(*encoder.inputs(batch.keypoints, batch.scores, stream)).numpy()
    persons = [store.ids[int(i)].split("_p")[1][:3] for i in batch.index]
    return knn_accuracy(features, batch.labels.numpy(), persons, 3)


def gain(make: Make, config: Config, store: Store, steps: int = 60, size: int = 20, **options: Any) -> float:
    """How much better an encoder tells actions of another person than its random weights did, batch norm calibrated."""
    trained, batch = objective(make, config, width=16, frames=16, **options), clips(store)
    x = trained.encoder.inputs(batch.keypoints, batch.scores, options.get("stream", "joint"))[0]
    encoders.calibrate(trained.encoder, [x])
    before = accuracy(trained.encoder, batch, store)
    train(trained, list(batches(batch, size, steps)))
    return accuracy(trained.encoder, batch, store) - before

"""Fine-tuning: the encoder and a linear classifier trained on each draw's support, from a checkpoint or from scratch.

A fixed schedule, so nothing is chosen on queries: AdamW, linear warm-up and cosine decay, random views of the support.
"""

from __future__ import annotations

import copy
import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.episodes import Episodes
from adapt.features import Clips
from skelcore.batches import Batch
from skelcore.encoders import Encoder
from skelcore.progress import Progress
from skelcore.views import ViewConfig, Views

BATCH = 32
RATE = 1e-3
DECAY = 0.05
WARM_UP = 0.1
SMOOTHING = 0.1
VIEWS = ViewConfig()


def predict(encoder: Encoder, clips: Clips, episodes: Episodes, k: int, steps: int, seed: int) -> np.ndarray:
    """Predicted classes (D, Q) of copies of ``encoder``, each trained for ``steps`` on the support of a draw.

    ``clips`` are those of ``episodes.used``, pool first.
    """
    labels = torch.from_numpy(episodes.labels(k)).to(clips.device)
    predicted = []
    with Progress(len(episodes.draws), f"draws of {k}-shot fine-tuning") as progress:
        for number, support in enumerate(episodes.support(k)):
            key = hashlib.sha256(f"finetune:{seed}:{episodes.seeds[number]}:{k}".encode()).digest()
            model = train(encoder, clips, clips.rows(support), labels, len(episodes.classes), steps,
                          int.from_bytes(key[:7], "big"))
            predicted.append(_classify(*model, clips, episodes.query_rows))
            progress.update()
    return np.stack(predicted)


def train(encoder: Encoder, clips: Clips, support: Batch, labels: Tensor, classes: int, steps: int,
          seed: int) -> tuple[Encoder, nn.Linear]:
    """A copy of ``encoder`` and a linear layer, trained on the ``support`` clips (S) of ``labels`` (S,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.dim, classes).to(clips.device)
    tuned = copy.deepcopy(encoder).requires_grad_(True).to(clips.device).train()
    generator = torch.Generator(clips.device).manual_seed(seed)
    optimizer = torch.optim.AdamW([*tuned.parameters(), *head.parameters()], RATE, weight_decay=DECAY)
    views = Views(VIEWS)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * _schedule((step + 0.5) / steps)
        rows = _draw(len(labels), generator)
        keypoints, scores = views(support.keypoints[rows], support.scores[rows], clips.layout, generator)
        features = tuned(*tuned.inputs(keypoints, scores, clips.stream))
        loss = F.cross_entropy(head(features), labels[rows], label_smoothing=SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return tuned.eval(), head


def _draw(count: int, generator: torch.Generator) -> Tensor:
    """BATCH rows: whole shuffled passes over the support, so that every clip is seen equally often."""
    passes = [torch.randperm(count, generator=generator, device=generator.device) for _ in range(-(-BATCH // count))]
    return torch.cat(passes)[:BATCH]


def _schedule(progress: float) -> float:
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


@torch.no_grad()
def _classify(encoder: Encoder, head: nn.Linear, clips: Clips, rows: np.ndarray) -> np.ndarray:
    """Classes (Q,) of the clips at ``rows``."""
    found = [head(encoder(x, valid)).argmax(1) for x, valid in clips.only(rows).inputs(encoder)]
    return torch.cat(found).cpu().numpy()

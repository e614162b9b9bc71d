"""Methods that train a copy of the encoder and a linear classifier on a draw's support, one file a way.

A fixed schedule, so nothing is chosen on queries: AdamW, linear warm-up and cosine decay, random views of the support.
The classifier starts from the prototypes of the encoder's features. Batch norm trains on batches of the support, which
its running statistics follow; with those, in evaluation mode, each query is classified by itself. Rates, the first
classifier and batch norm's mode were chosen on Penn Action's training split alone, part of it as queries.
"""

from __future__ import annotations

import copy
import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from adapt.episodes import Budget, Episodes
from adapt.features import Clips
from adapt.tuning import affine, finetune, lora
from skelcore.batches import Batch
from skelcore.encoders import Encoder
from skelcore.progress import Progress
from skelcore.views import ViewConfig, Views

WAYS = {"finetune": finetune.WAY, "lora": lora.WAY, "affine": affine.WAY}

BATCH = 32
WARM_UP = 0.1
SMOOTHING = 0.1
HEAD_DECAY = 0.05
SHARPNESS = 5.0  # of the first classifier: its logit where a clip is a prototype
VIEWS = ViewConfig()


def predict(way: str, encoder: Encoder, clips: Clips, episodes: Episodes, k: Budget, steps: int,
            seed: int) -> np.ndarray:
    """Predicted classes (D, Q) of copies of ``encoder``, each trained for ``steps`` on the support of a draw.

    ``clips`` are those of ``episodes.used``.
    """
    labels = torch.from_numpy(episodes.labels(k)).to(clips.device)
    predicted = []
    with Progress(len(episodes.draws), f"draws of {k}-shot {way}") as progress:
        for number, support in enumerate(episodes.support(k)):
            key = hashlib.sha256(f"{way}:{seed}:{episodes.seeds[number]}:{k}".encode()).digest()
            model = train(way, encoder, clips, clips.rows(episodes.pool_rows[support]), labels, len(episodes.classes),
                          steps, int.from_bytes(key[:7], "big"))
            predicted.append(classify(*model, clips.only(episodes.query_rows)))
            progress.update()
    return np.stack(predicted)


def train(way: str, encoder: Encoder, clips: Clips, support: Batch, labels: Tensor, classes: int, steps: int,
          seed: int) -> tuple[Encoder, nn.Linear]:
    """A copy of ``encoder`` and a linear layer, trained on the ``support`` clips (S) of ``labels`` (S,).

    Both are in evaluation mode; ``clips`` says how the encoder sees them.
    """
    chosen = WAYS[way]
    generator = torch.Generator(clips.device).manual_seed(seed)
    tuned = copy.deepcopy(encoder).to(clips.device).train()
    groups = chosen.prepare(tuned, generator)
    head = prototypes(_features(tuned, support, clips.stream, generator), labels, classes)
    groups.append({"params": list(head.parameters()), "scale": 1.0, "weight_decay": HEAD_DECAY})
    optimizer = torch.optim.AdamW(groups, chosen.rate)
    views = Views(VIEWS)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * chosen.rate * schedule((step + 0.5) / steps)
        rows = _draw(len(labels), generator)
        keypoints, scores = views(support.keypoints[rows], support.scores[rows], clips.layout, generator)
        features = tuned(*tuned.inputs(keypoints, scores, clips.stream))
        loss = F.cross_entropy(head(features), labels[rows], label_smoothing=SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    chosen.finish(tuned)
    return tuned.eval().requires_grad_(False), head.requires_grad_(False)


@torch.no_grad()
def classify(encoder: Encoder, head: nn.Linear, clips: Clips) -> np.ndarray:
    """Classes (n,) of every clip, each by itself."""
    found = [head(encoder(x, valid)).argmax(1) for x, valid in clips.inputs(encoder)]
    return torch.cat(found).cpu().numpy()


@torch.no_grad()
def prototypes(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """A linear layer whose logits are ``SHARPNESS`` times the products of a centred feature with class directions.

    Directions are unit vectors from the mean of ``features`` (S, F) to that of a class; the unit of length is the root
    of the features' mean square about their mean. A class without a clip has the logit 0.
    """
    centre = features.mean(0)
    centred = features - centre
    targets = F.one_hot(labels, classes).to(features)
    means = targets.T @ centred / targets.sum(0).clamp(min=1)[:, None]
    head = skip_init(nn.Linear, features.shape[1], classes, device=features.device)
    head.weight.copy_(SHARPNESS * F.normalize(means, dim=1) / centred.square().sum(1).mean().sqrt().clamp(min=1e-6))
    head.bias.copy_(-head.weight @ centre)
    return head


@torch.no_grad()
def _features(encoder: Encoder, support: Batch, stream: str, generator: torch.Generator) -> Tensor:
    """Features (S, F) of the support, in equal batches that mix classes: batch norm would hide what a batch shares."""
    count = len(support)
    order = torch.randperm(count, generator=generator, device=generator.device)
    found = [encoder(*encoder.inputs(support.keypoints[rows], support.scores[rows], stream))
             for rows in order.tensor_split(-(-count // BATCH))]
    return torch.cat(found)[order.argsort()]


def _draw(count: int, generator: torch.Generator) -> Tensor:
    """BATCH rows: whole shuffled passes over the support, so that every clip is seen equally often."""
    passes = [torch.randperm(count, generator=generator, device=generator.device) for _ in range(-(-BATCH // count))]
    return torch.cat(passes)[:BATCH]


def schedule(progress: float) -> float:
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))

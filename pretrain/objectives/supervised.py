"""Training with the labels of the pretraining data: what a study holds its label-free objectives against."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pretrain.objectives.objective import Loss, Objective, Setting, confidence, weighted_mean
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.errors import InputError


class SupervisedConfig(Config):
    """Cross-entropy of a linear head."""

    name: Literal["supervised"] = Field("supervised", description="cross-entropy on the labels of the training data")
    classes: int | None = Field(None, ge=2, description="classes of the head; null: those of the data")
    smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label that is spread over all classes")
    confidence: bool = Field(False, description="weight each clip by its mean joint score")


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of -log softmax(logits (N, C)) at ``labels`` (N,), smoothed as by Szegedy et al., CVPR 2016.

    A clip without label, -1, has no weight; the mean of none is 0.
    """
    losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none", label_smoothing=smoothing)
    labelled = (labels >= 0).to(losses.dtype)
    return weighted_mean(losses, labelled if weights is None else labelled * weights)


class Supervised(Objective):
    """A linear head on the pooled features of one view; raises InputError for data without labels of two classes, or
    with more classes than the head has."""

    name = "supervised"

    def __init__(self, encoder: Encoder, config: SupervisedConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        if setting.classes < 2:
            raise InputError("objective supervised needs labels of 2 classes or more, and the data have "
                             f"{setting.classes or 'none'}; choose a label-free objective")
        self.config, self.classes = config, config.classes or setting.classes
        if self.classes < setting.classes:
            raise InputError(f"objective.classes={config.classes}: the data have {setting.classes}; leave it out")
        self.head = nn.Linear(encoder.dim, self.classes)

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        """Raises InputError for a label that the head lacks, as data that grow while they are read may bring."""
        if len(batch) and int(batch.labels.max()) >= self.classes:
            raise InputError(f"label {int(batch.labels.max())} in the data, but the head has {self.classes} classes; "
                             "set objective.classes")
        return *self.view(batch, generator), batch.labels, confidence(batch.scores)

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.encode(*seen[:2])), *seen[2:]

    def loss(self, *embedded: Tensor) -> Loss:
        logits, labels, weights = map(self.setting.group.gather, embedded)
        loss = cross_entropy(logits, labels, self.config.smoothing, weights if self.config.confidence else None)
        hits = (logits.detach().argmax(1) == labels).to(torch.float32)
        return loss, {"cross_entropy": loss, "accuracy": weighted_mean(hits, (labels >= 0).to(torch.float32))}

"""Nearest-neighbour contrast (NNCLR: Dwibedi, Aytar, Tompson, Sermanet, Zisserman, ICCV 2021, arXiv:2104.14548)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor
from torch.nn import functional as F

from pretrain.heads import perceptron
from pretrain.key_queue import Queue
from pretrain.objectives.contrast import contrast, logits, own
from pretrain.objectives.objective import Loss, Objective, Setting, confidence, weighted_mean
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder


class NNCLRConfig(Config):
    """The heads and the support set."""

    name: Literal["nnclr"] = Field("nnclr", description="contrast with the nearest neighbour of another video")
    hidden: PositiveInt = Field(1024, description="width of the hidden layers of projector and predictor")
    projection: PositiveInt = Field(256, description="dimensions in which clips are compared")
    temperature: float = Field(0.1, gt=0, description="of the similarities")
    support: PositiveInt = Field(4096, description="embeddings of earlier steps among which neighbours are sought; "
                                                   "more than a few epochs of them are stale")
    mining_from: float = Field(0.2, ge=0, le=1, description="share of the run after which neighbours take the place of "
                                                            "a clip's own view; until then the fresh heads learn what "
                                                            "is near")
    confidence: bool = Field(False, description="weight clips by their mean joint score")


def neighbour(embeddings: Tensor, support: Tensor, allowed: Tensor) -> Tensor:
    """NN(z, Q) of eq. 3: for each of ``embeddings`` (N, D) the most similar of the ``allowed`` (N, K) rows of
    ``support`` (K, D), all of unit length; the embedding itself where there is none."""
    if not len(support):
        return embeddings
    similarity, where = (embeddings @ support.T).masked_fill(~allowed, -torch.inf).max(1)
    return torch.where(similarity.isfinite()[:, None], support[where], embeddings)


class NNCLR(Objective):
    """The neighbour of one view's embedding predicts the other view of its clip among the batch, eq. 4, both ways.

    Neighbours come from other videos: the nearest embedding of a small corpus would mostly be the clip's own of an
    epoch ago, from which nothing is learned that plain contrast does not teach. Clips of one video are no negatives.

    The defaults suit a short second stage on a pretrained encoder (STARS, arXiv:2407.10935: ten epochs without
    augmentation, a rate that decays towards the first layers): layers not much wider than an encoder's features, and a
    fifth of the run in which the fresh heads learn what is near before its neighbours are believed. A clip's own view
    stands for the neighbour until then, and where the support set, which starts empty, has none of another video.
    """

    name = "nnclr"

    def __init__(self, encoder: Encoder, config: NNCLRConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.config = config
        self.projector = perceptron([encoder.dim, config.hidden, config.hidden, config.projection], final_norm=True)
        self.predictor = perceptron([config.projection, config.hidden, config.projection], bias=True)
        self.support = Queue(config.support, [config.projection])
        self.register_buffer("mining", torch.tensor(config.mining_from == 0))
        self._new: list[tuple[Tensor, Tensor]] = []

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        return *self.view(batch, generator), *self.view(batch, generator), confidence(batch.scores), batch.video

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        projected = [self.projector(self.encode(*view)) for view in (seen[:2], seen[2:4])]
        predicted = [self.predictor(x) for x in projected]
        return *(F.normalize(x, dim=1) for x in (*projected, *predicted)), *seen[4:]

    def loss(self, *embedded: Tensor) -> Loss:
        first, second, from_first, from_second, weights, videos = map(self.setting.group.gather, embedded)
        if self.training:
            self._new.append((videos, first.detach()))
        losses = (self._one_way(first, from_second, videos) + self._one_way(second, from_first, videos)) / 2
        loss = weighted_mean(losses, weights if self.config.confidence else None)
        return loss, {"contrast": loss.detach()}

    def update(self, progress: float) -> None:
        for videos, embeddings in self._new:
            self.support.add(videos, embeddings)
        self._new.clear()
        self.get_buffer("mining").fill_(progress >= self.config.mining_from)

    def _one_way(self, embeddings: Tensor, predictions: Tensor, videos: Tensor) -> Tensor:
        earlier, support = self.support.entries()
        allowed = (videos[:, None] != earlier) & self.get_buffer("mining")
        found = neighbour(embeddings.detach(), support.to(embeddings.dtype), allowed)
        positives = own(len(found), predictions)
        allowed = positives | (videos[:, None] != videos)
        return contrast(logits(found, predictions, allowed, self.config.temperature), positives)

"""Momentum contrast (MoCo v2: Chen, Fan, Girshick, He, arXiv:2003.04297) with the strong views and the mined
neighbours of AimCLR (Guo, Liu, Chen, Liu, Wang, Ding, AAAI 2022, arXiv:2112.03590)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor
from torch.nn import functional as F

from pretrain.heads import perceptron
from pretrain.key_queue import Queue
from pretrain.momentum import follow, teacher
from pretrain.objectives.contrast import contrast, logits, nearest, own
from pretrain.objectives.objective import Loss, Objective, Setting, confidence, weighted_mean
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.views import ViewConfig, Views

# AimCLR's set, as far as the plane has it; each axis of two carries more than one of three, so it is lost less often.
STRONG = ViewConfig(crop_min=0.4, reverse=0.5, smoothing=0.5, rotation=30, stretch=0.2, shear=0.5, noise=1.0,
                    jitter=0.05, axis_mask=0.25, joint_dropout=0.4, part_mask=0.5, frame_dropout=0.25)


class MoCoConfig(Config):
    """The queue, the teacher, the strong view and the mining."""

    name: Literal["moco"] = Field("moco", description="momentum contrast with strong views and mined neighbours")
    projection: PositiveInt = Field(128, description="dimensions in which clips are compared")
    temperature: float = Field(0.07, gt=0, description="of the similarities")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the teacher that makes the keys (published: 0.999, for "
                                                         "runs of about 100,000 steps)")
    queue: PositiveInt = Field(4096, description="keys of earlier steps (published: 32768, for 40,000 clips)")
    strong: ViewConfig = Field(STRONG, description="the strong view")
    divergence: float = Field(1.0, ge=0, description="weight of the strong view's term; 0 saves its pass")
    neighbours: PositiveInt = Field(1, description="nearest keys of other videos that become positives too")
    mining_from: float = Field(0.5, ge=0, le=1, description="share of the run after which they do; 1 is never")
    confidence: bool = Field(False, description="weight clips by their mean joint score")


def divergence(strong: Tensor, weak: Tensor) -> Tensor:
    """Cross-entropy (N,) of the strong view's distribution over the keys to the weak view's, of logits (N, K).

    AimCLR's distributional divergence minimisation; the weak view's is a target and takes no gradients.
    """
    return F.cross_entropy(strong, weak.detach().softmax(1), reduction="none")


class MoCo(Objective):
    """A query tells the teacher's key of the same clip from those of other clips, in the batch and before it.

    The keys of the batch count as the newest of the queue. Keys of the clip's own video, such as its own of an epoch
    ago, which a queue as large as a small corpus is full of, are neither negatives nor mined.
    """

    name = "moco"

    def __init__(self, encoder: Encoder, config: MoCoConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.config, self.strong = config, Views(config.strong)
        self.head = perceptron([encoder.dim, encoder.dim, config.projection], norm=False, bias=True)
        self.slow_encoder, self.slow_head = teacher(encoder), teacher(self.head)
        self.queue = Queue(config.queue, [config.projection])
        self.register_buffer("mining", torch.tensor(config.mining_from == 0))
        self._new: list[tuple[Tensor, Tensor]] = []

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        weak = *self.view(batch, generator), *self.view(batch, generator)
        strong = self.view(batch, generator, self.strong) if self.config.divergence else ()
        return *weak, *strong, confidence(batch.scores), batch.video

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        *views, weights, videos = seen
        with torch.no_grad():
            slow = self.slow_encoder(*self.encoder.inputs(views[2], views[3], self.setting.stream))
            keys = F.normalize(self.slow_head(slow), dim=1)
        students = [F.normalize(self.head(self.encode(*view)), dim=1) for view in (views[:2], views[4:]) if view]
        return *students, keys, weights, videos

    def loss(self, *embedded: Tensor) -> Loss:
        weak, *strong, keys, weights, videos = map(self.setting.group.gather, embedded)
        earlier, queued = self.queue.entries()
        candidates = torch.cat([keys, queued.to(keys.dtype)])
        others = videos[:, None] != torch.cat([videos, earlier])
        positives = own(len(weak), candidates)
        similar, *strongly = (logits(x, candidates, others | positives, self.config.temperature)
                              for x in (weak, *strong))
        if self.config.mining_from < 1:
            positives |= nearest(keys, candidates, others, self.config.neighbours) & self.get_buffer("mining")
        if self.training:
            self._new.append((videos, keys))
        importance = weights if self.config.confidence else None
        terms = {"contrast": weighted_mean(contrast(similar, positives), importance)}
        if strongly:
            terms["divergence"] = weighted_mean(divergence(strongly[0], similar), importance)
        return terms["contrast"] + self.config.divergence * terms.get("divergence", 0), terms

    def update(self, progress: float) -> None:
        follow(self.slow_encoder, self.encoder, self.config.momentum)
        follow(self.slow_head, self.head, self.config.momentum)
        for videos, keys in self._new:
            self.queue.add(videos, keys)
        self._new.clear()
        self.get_buffer("mining").fill_(progress >= self.config.mining_from)

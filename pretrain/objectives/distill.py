"""Similarity distillation between representations of one clip, each read by an encoder of its own.

Mao, Zhou, Lu, Deng, Zhang, "CMD: Self-supervised 3D Action Representation Learning with Cross-modal Mutual
Distillation", ECCV 2022, arXiv:2208.12448, between streams; Thoker, Doughty, Snoek, "Skeleton-Contrastive 3D Action
Representation Learning", ACM MM 2021, between sequence and graph. Here the members are any encoders on any streams,
so that a graph and a heatmap network teach each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Literal, cast

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pretrain.heads import perceptron
from pretrain.key_queue import Queue
from pretrain.momentum import follow, teacher
from pretrain.objectives.contrast import contrast, logits, own
from pretrain.objectives.objective import Loss, Objective, Setting, confidence, weighted_mean
from skelcore import encoders
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.errors import InputError


class PartnerConfig(Config):
    """An encoder that trains together with the run's own."""

    name: str = Field(description="encoder; `skelshot encoders` lists the names and what each costs")
    width: PositiveInt | None = Field(None, description="channels of the first stage; null is the share of the "
                                                        "published size that the run's own encoder has of its")
    stream: str = Field("joint", description="what it sees of the same clips; as `stream` of the run")


class DistillConfig(Config):
    """Momentum contrast of each member, and what the members' neighbourhoods teach each other."""

    name: Literal["distill"] = Field("distill", description="similarity distillation between encoders and streams")
    partners: list[PartnerConfig] = Field(min_length=1, description="the other members, each saved as a checkpoint too")
    distillation: float = Field(1.0, ge=0, description="weight of the divergences beside the contrast")
    temperature: float = Field(0.07, gt=0, description="of the contrast")
    teacher_temperature: float = Field(0.05, gt=0, description="of the neighbourhoods that teach")
    student_temperature: float = Field(0.1, gt=0, description="of the neighbourhoods that learn")
    neighbours: PositiveInt | None = Field(None, description="most similar clips that make a neighbourhood; null: all "
                                                            "in the queue (published: half of it)")
    queue: PositiveInt = Field(4096, description="keys of earlier steps that each teacher remembers (published: 16384)")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the teachers (published: 0.999, for long runs)")
    projection: PositiveInt = Field(128, description="dimensions in which clips are compared")
    confidence: bool = Field(False, description="weight clips by their mean joint score")


def divergence(student: Tensor, teacher: Tensor, neighbours: int | None = None) -> Tensor:
    """Each clip's KL(softmax(teacher) || softmax(student)), (N,), of logits (N, K) over the same K other clips.

    With ``neighbours`` both distributions are over the teacher's so many most likely, as in CMD.
    """
    if neighbours is not None and neighbours < teacher.shape[1]:
        teacher, nearest = teacher.topk(neighbours, sorted=False)
        student = student.gather(1, nearest)
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True).sum(1)


class Distill(Objective):
    """InfoNCE of each member against its own teacher's keys, plus the divergence of every ordered pair of members.

    Students read one view, teachers the other. The keys of the batch count as the newest of the queues. Raises
    InputError for a partner that does not read these clips, or that sees what another member sees.
    """

    name = "distill"

    def __init__(self, encoder: Encoder, config: DistillConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.config = config
        self.partners = nn.ModuleList(_partner(config, i, encoder, setting) for i in range(len(config.partners)))
        members = self._members()
        self.heads = nn.ModuleList(perceptron([m.dim, m.dim, config.projection], norm=False, bias=True)
                                   for m in members)
        self.teachers, self.teacher_heads = nn.ModuleList(map(teacher, members)), teacher(self.heads)
        self.queue = Queue(config.queue, [config.projection] * len(members))
        self._new: list[tuple[Tensor, ...]] = []

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        return *self.view(batch, generator), *self.view(batch, generator), confidence(batch.scores), batch.video

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        queries = self._project(self._members(), self.heads, *seen[:2])
        with torch.no_grad():
            keys = self._project(self.teachers, self.teacher_heads, *seen[2:4])
        return queries, keys, *seen[4:]

    def loss(self, *embedded: Tensor) -> Loss:
        *views, weights, videos = map(self.setting.group.gather, embedded)
        queries, keys = (F.normalize(view, dim=2).unbind(1) for view in views)
        if self.training:
            self._new.append((videos, *keys))
        config, (earlier, *queued) = self.config, self.queue.entries()
        candidates = [torch.cat(pair) for pair in zip(keys, queued, strict=True)]
        others = videos[:, None] != torch.cat([videos, earlier])
        positives = own(len(videos), candidates[0])
        contrasts = [contrast(logits(q, c, others | positives, config.temperature), positives)
                     for q, c in zip(queries, candidates, strict=True)]
        students, teachers = ([logits(x, c, others, temperature) for x, c in zip(embeddings, candidates, strict=True)]
                              for embeddings, temperature in ((queries, config.student_temperature),
                                                              (keys, config.teacher_temperature)))
        divergences = [divergence(students[i], teachers[j], config.neighbours)
                       for i, j in permutations(range(len(students)), 2)]
        terms = {name: weighted_mean(torch.stack(losses).sum(0), weights if config.confidence else None)
                 for name, losses in (("contrast", contrasts), ("distillation", divergences))}
        return terms["contrast"] + config.distillation * terms["distillation"], terms

    def update(self, progress: float) -> None:
        for videos, *keys in self._new:
            self.queue.add(videos, *keys)
        self._new.clear()
        for slow, fast in zip([*self.teachers, self.teacher_heads], [*self._members(), self.heads], strict=True):
            follow(slow, fast, self.config.momentum)

    def encoders(self) -> dict[str, tuple[Encoder, str]]:
        partners = {f"{partner.name}-{partner.stream}": (cast(Encoder, encoder), partner.stream)
                    for partner, encoder in zip(self.config.partners, self.partners, strict=True)}
        return {**super().encoders(), **partners}

    def _members(self) -> list[Encoder]:
        return [encoder for encoder, _ in self.encoders().values()]

    def _project(self, networks: Iterable[nn.Module], heads: Iterable[nn.Module], keypoints: Tensor,
                 scores: Tensor) -> Tensor:
        """Embeddings (N, members, D) of one view by each member's network, or its teacher's."""
        return torch.stack([head(network(*member.inputs(keypoints, scores, stream))) for (member, stream), network, head
                            in zip(self.encoders().values(), networks, heads, strict=True)], 1)


def _partner(config: DistillConfig, index: int, encoder: Encoder, setting: Setting) -> Encoder:
    """A fresh encoder for the partner at ``index``, of the run's layout."""
    partner = config.partners[index]
    others = [(encoder.name, setting.stream), *((p.name, p.stream) for p in config.partners[:index])]
    if (partner.name, partner.stream) in others:
        raise InputError(f"objective.partners.{index}: {partner.name} reads {partner.stream} already; choose another "
                         "encoder or another stream")
    try:
        channels = encoders.channels(partner.name, encoder.layout, setting.coordinates, partner.stream)
        published = encoders.ENCODERS[partner.name].WIDTH
        width = partner.width or max(8, 8 * round(published * encoder.width / encoder.WIDTH / 8))
        return encoders.build(partner.name, encoder.layout, channels, width)
    except InputError as error:
        raise InputError(f"objective.partners.{index}: {error}") from None

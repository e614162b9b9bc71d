"""What every objective offers to the trainer, whatever its paper.

A step is ``see`` (views and masks, without gradients, on the device), ``embed`` (the passes through the encoder, in the
run's precision), ``loss`` (in float32, on the global batch), and after the optimiser's step ``update`` (teachers and
queues). ``forward`` is ``loss`` of ``embed``, one call, so that DistributedDataParallel can wrap the objective whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import torch
from torch import Generator, Tensor, nn

from pretrain.distributed import Group
from skelcore.batches import Batch
from skelcore.encoders.encoder import Encoder
from skelcore.encoders.transformer import SkeletonTransformer
from skelcore.errors import InputError
from skelcore.views import Views

Loss: TypeAlias = tuple[Tensor, dict[str, Tensor]]  # what is minimised, and its unweighted terms to be shown


@dataclass(frozen=True)
class Setting:
    """What an objective is told of the run: the stream that the encoder reads, the views, and the processes."""

    stream: str
    views: Views
    frames: int
    coordinates: int = 2
    classes: int = 0  # of the labels in the data; 0 where none is labelled
    group: Group = field(default_factory=Group)


class Objective(nn.Module, ABC):
    """An encoder with the heads that train it; its state without ``encoder.`` is what a resumed run needs beside it.

    ``families`` are the kinds of encoder for which the objective makes sense, and ``why`` says so to whoever asks for
    another, which raises InputError.
    """

    name: ClassVar[str]
    families: ClassVar[tuple[type[Encoder], ...]] = (Encoder,)
    why: ClassVar[str] = ""

    def __init__(self, encoder: Encoder, setting: Setting) -> None:
        super().__init__()
        if not isinstance(encoder, self.families):
            raise InputError(f"objective {self.name} does not train encoder {encoder.name}: {self.why}")
        self.encoder, self.setting = encoder, setting

    @abstractmethod
    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        """Tensors with the clips along their first axis: views, masks, weights, video numbers; without gradients.

        The trainer may call it for parts of a batch, each with a generator of its own, and concatenates the results.
        """

    @abstractmethod
    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        """What ``loss`` compares, of what ``see`` returned; runs under autocast."""

    @abstractmethod
    def loss(self, *embedded: Tensor) -> Loss:
        """The loss of the global batch and its terms; floating tensors come in float32, autocast is off."""

    def update(self, progress: float) -> None:
        """Move teachers and fill queues after an optimiser step; ``progress`` in [0, 1] is the run's."""

    def encoders(self) -> dict[str, tuple[Encoder, str]]:
        """The trained encoders by name, each with its stream; the first one is the run's own."""
        return {"": (self.encoder, self.setting.stream)}

    def compile_encoders(self) -> None:
        """Compile the trained encoders; of a transformer the blocks, which every way through it shares."""
        for encoder, _ in self.encoders().values():
            (encoder.blocks if isinstance(encoder, SkeletonTransformer) else encoder).compile()

    def forward(self, *seen: Tensor) -> Loss:
        embedded = self.embed(*seen)
        with torch.autocast(embedded[0].device.type, enabled=False):
            return self.loss(*(x.float() if x.is_floating_point() else x for x in embedded))

    def encode(self, keypoints: Tensor, scores: Tensor) -> Tensor:
        """Pooled features (N, D) of clips (N, M, T, V, C) in any unit with scores (N, M, T, V)."""
        pooled: Tensor = self.encoder(*self.encoder.inputs(keypoints, scores, self.setting.stream))
        return pooled

    def view(self, batch: Batch, generator: Generator, views: Views | None = None) -> tuple[Tensor, Tensor]:
        """One random view of each clip: keypoints and scores; ``views`` takes the place of the run's own."""
        return (views or self.setting.views)(batch.keypoints, batch.scores, self.encoder.layout, generator)


def confidence(scores: Tensor) -> Tensor:
    """Mean score (N,) of the joints and frames of each clip's persons, (N, M, T, V); absent persons do not count."""
    present = (scores > 0).flatten(2).any(-1)
    return (scores.mean((2, 3)) * present).sum(1) / present.sum(1).clamp(min=1)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``values`` (N,) weighted by ``weights`` (N,), of the global batch; equal weights for None."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)

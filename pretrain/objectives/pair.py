"""Pair: what objectives without negatives share, the embeddings of two views of each clip and of a masked one."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from pretrain.heads import perceptron
from pretrain.objectives.objective import Loss, Objective, Setting, confidence
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.views.partial import hide


class PairConfig(Config):
    """The expander, and the partial masking of PSTL."""

    expander: PositiveInt = Field(1024, description="width of the expander's layers")
    confidence: bool = Field(False, description="weight clips by their mean joint score")
    partial: float = Field(0.0, ge=0, description="weight of the comparison of a view with a partly masked one (PSTL), "
                                                  "relative to that of two views; 0 saves its pass")
    masked_joints: float = Field(0.35, ge=0, lt=1, description="share of the joints masked throughout that view, "
                                                               "joints of many bones rather (PSTL: 8 or 9 of 25)")
    masked_frames: float = Field(0.2, ge=0, lt=1, description="share of the frames masked (PSTL: 10 of 50)")


class Pair(Objective):
    """Two views of each clip through the encoder and an expander of three layers, compared by a subclass.

    With ``partial`` the second view goes through once more, partly masked, to be compared with the first: the two
    differ by their draws as well, as in PSTL.
    """

    config: PairConfig

    def __init__(self, encoder: Encoder, config: PairConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.config = config
        self.expander = perceptron([encoder.dim, *3 * [config.expander]])

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        first, second = self.view(batch, generator), self.view(batch, generator)
        masked = self._masked(*second, generator) if self.config.partial else ()
        return *first, *second, *masked, confidence(batch.scores)

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        *views, weights = seen
        pairs = zip(views[::2], views[1::2], strict=True)
        return *(self.expander(self.encode(*view)) for view in pairs), weights

    def loss(self, *embedded: Tensor) -> Loss:
        *views, weights = map(self.setting.group.gather, embedded)
        terms = self.compare(*views, weights=weights if self.config.confidence else None)
        total = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return total, {name: term for name, (_, term) in terms.items()}

    @abstractmethod
    def compare(self, first: Tensor, second: Tensor, masked: Tensor | None = None, *,
                weights: Tensor | None) -> dict[str, tuple[float, Tensor]]:
        """Each term of the loss and its weight, of embeddings (N, D) and clip ``weights`` (N,) of the global batch."""

    def _masked(self, keypoints: Tensor, scores: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return hide(keypoints, scores, self.encoder.layout, self.config.masked_joints, self.config.masked_frames,
                    generator)

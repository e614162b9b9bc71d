"""MAMP: masked motion prediction (Mao, Deng, Zhou, Fang, Ouyang, Li, ICCV 2023, arXiv:2308.09903).

Nine tenths of the tokens are hidden at random; the encoder sees the rest, and a decoder tells how the hidden joints
move. Unlike the paper's decoder, which attends among all tokens and takes 90 % of the cost, this one only reads what is
seen, at a few hidden tokens (see ``pretrain.decoder``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor
from torch.nn import functional as F

from pretrain.decoder import CrossDecoder, by_clip, by_person, draw_tokens, inputs, squared_errors
from pretrain.heads import perceptron
from pretrain.objectives.objective import Loss, Objective, Setting, weighted_mean
from pretrain.objectives.vicreg import covariance_loss, invariance_loss, variance_loss
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.encoders.transformer import PATCH, SkeletonTransformer, keep


class MaskedMotionConfig(Config):
    """How much is hidden, how much of that is asked for, and what counts as motion."""

    name: Literal["masked_motion"] = Field("masked_motion", description="motion of hidden joints (MAMP)")
    hidden: float = Field(0.9, ge=0.1, le=0.98, description="fraction of the tokens that the encoder does not see")
    asked: float = Field(0.2, gt=0, le=1, description="fraction of the hidden tokens that are predicted")
    depth: int = Field(1, ge=1, le=8, description="blocks of the decoder")
    floor: float = Field(0.02, gt=0, le=1, description="body scales a frame below which motion counts as noise")
    pooled: float = Field(1.0, ge=0, description="weight of VICReg between the pooled features of two maskings; 0, as "
                                                 "in the paper, saves the second pass and leaves poor neighbours")
    expander: PositiveInt = Field(256, description="width of that term's expander")
    confidence: bool = Field(False, description="weight a motion by the lower score of its two ends")


@dataclass(frozen=True)
class Reconstruction:
    """One person's ``points`` (T, V, C), normalised, with ``scores`` (T, V); which tokens were ``hidden`` (T', V); and
    the points as ``predicted`` (T, V, C)."""

    points: Tensor
    scores: Tensor
    hidden: Tensor
    predicted: Tensor


def differences(x: Tensor) -> Tensor:
    """The next frame minus this one of the coordinates of (N, M, T, V, C + 1), and the lower of the two scores.

    Both are 0 where an end is missing, and in the last frame.
    """
    now, then = x[:, :, :-1], x[:, :, 1:]
    score = torch.minimum(now[..., -1:], then[..., -1:])
    change = torch.where(score > 0, then[..., :-1] - now[..., :-1], 0)
    return F.pad(torch.cat([change, score], -1), (0, 0, 0, 0, 0, 1))


def patches(x: Tensor) -> Tensor:
    """Frames (N, M, T, V, C) -> tokens (N, M, T' V, PATCH, C), with zeros after the last frame."""
    x = F.pad(x, (0, 0, 0, 0, 0, -x.shape[2] % PATCH))
    return x.unflatten(2, (-1, PATCH)).transpose(3, 4).flatten(2, 3)


def sizes(motion: Tensor, weights: Tensor, floor: float) -> Tensor:
    """What a token's ``motion`` (..., PATCH, C) is divided by: sqrt(mean square + floor^2), (..., 1, 1).

    The paper standardises each token. Here its mean stays, being its velocity, and ``floor`` keeps a joint that rests
    near 0: standardised, the jitter of a detector would be a target like any movement. ``weights`` (..., PATCH, 1).
    """
    square = (motion.square() * weights).sum((-2, -1), keepdim=True)
    count = motion.shape[-1] * weights.sum((-2, -1), keepdim=True)
    return (square / count.clamp(min=1e-6) + floor**2).sqrt()


def integrate(points: Tensor, motion: Tensor, seen: Tensor) -> Tensor:
    """Points (T, V, C) that go from each joint's last ``seen`` (T, V) frame, or its first, by ``motion`` (T, V, C)."""
    path = F.pad(motion.cumsum(0)[:-1], (0, 0, 0, 0, 1, 0))
    frame = torch.arange(len(points), device=points.device)[:, None]
    last = torch.where(seen, frame, 0).cummax(0).values[..., None].expand_as(points)
    return points.gather(0, last) + path - path.gather(0, last)


class MaskedMotion(Objective):
    """Mean squared error of the predicted motion of hidden joints, in units of each token's own.

    ``pooled`` adds what the paper lacks: its features are good for fine-tuning and linear layers, but poor neighbours,
    since nothing trains them as a whole. Two maskings of a clip must agree on it, at the cost of another tenth.
    """

    name = "masked_motion"
    families = (SkeletonTransformer,)
    why = "nine tenths of its input are hidden, and only a transformer can leave them out; take objective=latent"
    encoder: SkeletonTransformer

    def __init__(self, encoder: Encoder, config: MaskedMotionConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.config = config
        outputs = PATCH * (encoder.in_channels - 1)
        self.decoder = CrossDecoder(len(encoder.layout), encoder.dim, outputs, config.depth)
        self.expander = perceptron([encoder.dim, *3 * [config.expander]]) if config.pooled else None

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        x, valid = inputs(self.encoder, *self.view(batch, generator), self.setting.stream)
        kept, wanted = draw_tokens(self._tokens(x), self.config.hidden, self.config.asked, generator)
        motion = self._motion(x)
        motion = motion.gather(2, wanted[..., None, None].expand(-1, -1, -1, *motion.shape[3:]))
        target, weights = motion[..., :-1], motion[..., -1:]
        if not self.config.confidence:
            weights = (weights > 0).to(target.dtype)
        other = draw_tokens(self._tokens(x), self.config.hidden, 1.0, generator)[:1] if self.config.pooled else ()
        return x, valid, kept, wanted, target / sizes(target, weights, self.config.floor), weights, *other

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        x, valid, kept, wanted, target, weights, *other = seen
        memories = [self._remember(x, valid, tokens) for tokens in (kept, *other)]
        predicted = by_clip(self._predict(memories[0], x, valid, wanted), valid)
        if self.expander is None:
            return predicted, target, weights
        pooled = [by_clip(memory.mean(1), valid).sum(1) / valid.sum(1, keepdim=True) for memory in memories]
        return predicted, target, weights, *map(self.expander, pooled)

    def loss(self, *embedded: Tensor) -> Loss:
        predicted, target, weights, *pooled = embedded
        errors, totals = map(self.setting.group.gather, squared_errors(predicted, target, weights))
        terms = {"motion": weighted_mean(errors, totals)}
        if pooled:
            first, second = map(self.setting.group.gather, pooled)
            spread = (variance_loss(first) + variance_loss(second)) / 2
            redundancy = covariance_loss(first) + covariance_loss(second)
            terms["pooled"] = invariance_loss(first, second) + spread + redundancy / 25  # VICReg's own proportions
        return terms["motion"] + self.config.pooled * terms.get("pooled", 0), terms

    @torch.no_grad()
    def reconstruction(self, batch: Batch, generator: Generator) -> Reconstruction:
        """The first person of the first clip as predicted from a tenth of it, without augmentation.

        Each joint starts where it was last seen, and goes by the predicted motion; the size of a token's motion, which
        is not predicted, is the true one.
        """
        clip = batch.keypoints[:1, :1], batch.scores[:1, :1]
        x, valid = inputs(self.encoder, *clip, self.setting.stream)
        still, _ = inputs(self.encoder, *clip, self.setting.stream.removesuffix("_motion"))
        steps, joints = self._tokens(x)[2:]
        kept, rest = draw_tokens(self._tokens(x), self.config.hidden, 1.0, generator)
        hidden = torch.zeros(steps * joints, dtype=torch.bool, device=x.device)
        hidden[rest[0, 0]] = True
        motion = self._motion(x)[0, 0]
        change, present = motion[..., :-1], (motion[..., -1:] > 0).to(x.dtype)
        predicted = torch.zeros_like(change)
        predicted[rest[0, 0]] = self._predict(self._remember(x, valid, kept), x, valid, rest)[0]
        predicted = predicted * sizes(change, present, self.config.floor) * present
        moved = torch.where(hidden[:, None, None], predicted, change)
        frames = x.shape[2]
        moved = moved.unflatten(0, (steps, joints)).transpose(1, 2).flatten(0, 1)[:frames]
        hidden = hidden.view(steps, joints)
        points, scores = still[0, 0, ..., :-1], still[0, 0, ..., -1]
        seen = ~hidden.repeat_interleave(PATCH, 0)[:frames]
        return Reconstruction(points, scores, hidden, integrate(points, moved, seen))

    def _tokens(self, x: Tensor) -> tuple[int, int, int, int]:
        return x.shape[0], x.shape[1], -(-x.shape[2] // PATCH), x.shape[3]

    def _motion(self, x: Tensor) -> Tensor:
        """Motion and its score, (N, M, T' V, PATCH, C + 1); a motion stream is one already."""
        return patches(x if self.setting.stream.endswith("motion") else differences(x))

    def _remember(self, x: Tensor, valid: Tensor, kept: Tensor) -> Tensor:
        """Features (P, K, D) of the tokens ``kept`` (N, M, K) of the persons who are there."""
        return self.encoder.encode(keep(self.encoder.tokens(by_person(x, valid)), by_person(kept, valid)))

    def _predict(self, memory: Tensor, x: Tensor, valid: Tensor, wanted: Tensor) -> Tensor:
        """Motion (P, Q, PATCH, C) of the persons who are there at the tokens ``wanted``, from those in ``memory``."""
        predicted: Tensor = self.decoder(memory, by_person(wanted, valid), self._tokens(x)[2])
        return predicted.unflatten(-1, (PATCH, -1))

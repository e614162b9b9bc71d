"""Masked latent prediction: what a slow teacher makes of the whole clip, told from a masked one.

data2vec (Baevski et al., ICML 2022, arXiv:2202.03555) and I-JEPA (Assran et al., CVPR 2023, arXiv:2301.08243), with the
variance and covariance terms of VICReg against collapse, as GFP does for skeletons (ICCV 2025). A latent target leaves
out what cannot be known, as the noise of a detector.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pretrain import momentum
from pretrain.decoder import CrossDecoder, by_clip, by_person, draw_tokens, inputs, squared_errors
from pretrain.distributed import Group
from pretrain.heads import perceptron
from pretrain.objectives.objective import Loss, Objective, Setting, weighted_mean
from pretrain.objectives.vicreg import covariance_loss, variance_loss
from skelcore.batches import Batch
from skelcore.config import Config
from skelcore.encoders.encoder import Encoder
from skelcore.encoders.transformer import PATCH, SkeletonTransformer, keep, random_keep
from skelcore.errors import InputError

SPANS = 8  # equal parts of a clip, of which some are hidden


class LatentConfig(Config):
    """What is hidden, how it is predicted, and what keeps the features from collapsing."""

    name: Literal["latent"] = Field("latent", description="masked latent prediction with an EMA teacher")
    hidden: float = Field(0.9, ge=0.1, le=0.98, description="transformer: fraction of the tokens that are not seen")
    asked: float = Field(0.2, gt=0, le=1, description="transformer: fraction of the hidden tokens that are predicted")
    depth: int = Field(1, ge=1, le=8, description="transformer: blocks of the decoder")
    joints: float = Field(0.4, ge=0, le=0.9, description="other encoders: fraction of each person's joints not seen")
    spans: float = Field(0.25, ge=0, le=0.9, description="other encoders: fraction of the clip not seen, in spans")
    predictor: PositiveInt = Field(512, description="width of the hidden layer of perceptrons that predict")
    momentum: float = Field(0.996, ge=0, lt=1, description="of the teacher, at first; it rises to 1 by a half cosine")
    prediction: float = Field(5.0, ge=0, description="weight of the distance to the teacher's features")
    clip: float = Field(5.0, ge=0, description="weight of the distance to the teacher's pooled feature of the clip")
    variance: float = Field(5.0, ge=0, description="weight of the hinge that keeps each dimension's std above 1")
    covariance: float = Field(1.0, ge=0, description="weight of the squared off-diagonal covariances")
    confidence: bool = Field(False, description="weight a target by the score of the joints it stands for")


def centred(features: Tensor, group: Group) -> Tensor:
    """Features (P, L, D) less the mean at their place over the global batch, then layer-normalised; float32.

    Most of a teacher's feature says where in the body and the clip it is, which a student knows without looking.
    """
    features = features.float()
    count = torch.full((), float(len(features)), device=features.device)
    mean = group.mean(features.sum(0)) / group.mean(count)
    return F.layer_norm(features - mean, features.shape[-1:])


def pool(tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean (N, D) over the tokens (P, L, D) of each person and the persons of each clip who are there."""
    return by_clip(tokens.mean(1), valid).sum(1) / valid.sum(1, keepdim=True)


class TokenMasking(nn.Module):
    """For transformers: the student is given few tokens, and a decoder is asked for others, joint by joint."""

    def __init__(self, encoder: SkeletonTransformer, config: LatentConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self.predictor = CrossDecoder(len(encoder.layout), encoder.dim, encoder.dim, config.depth)

    def masks(self, scores: Tensor, generator: Generator) -> tuple[Tensor, ...]:
        """Tokens seen (N, M, K) and asked for (N, M, Q)."""
        clips, persons, frames, joints = scores.shape
        return draw_tokens((clips, persons, -(-frames // PATCH), joints), self.config.hidden, self.config.asked,
                           generator)

    def student(self, encoder: SkeletonTransformer, keypoints: Tensor, scores: Tensor, *masks: Tensor
                ) -> tuple[Tensor, Tensor]:
        """Predicted features (N, M, Q, D) and pooled ones (N, D)."""
        x, valid = inputs(encoder, keypoints, scores, self.setting.stream)
        kept, wanted = (by_person(mask, valid) for mask in masks)
        memory = encoder.encode(keep(encoder.tokens(by_person(x, valid)), kept))
        predicted = self.predictor(memory, wanted, -(-x.shape[2] // PATCH))
        return by_clip(predicted, valid), pool(memory, valid)

    def teacher(self, encoder: SkeletonTransformer, keypoints: Tensor, scores: Tensor, *masks: Tensor
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Targets (N, M, Q, D), the mean score (N, M, Q, 1) of what they stand for, and pooled features (N, D)."""
        x, valid = inputs(encoder, keypoints, scores, self.setting.stream)
        features = encoder.encode(encoder.tokens(by_person(x, valid)).flatten(1, 2))
        every = centred(features, self.setting.group)
        padded = F.pad(scores, (0, 0, 0, -scores.shape[2] % PATCH))
        each = padded.unflatten(2, (-1, PATCH)).mean(3).flatten(2)
        wanted = by_clip(keep(every, by_person(masks[1], valid)), valid)
        return wanted, each.gather(2, masks[1])[..., None], pool(features, valid)


class InputMasking(nn.Module):
    """For any encoder: joints and spans are missing from the student's input; each moment's features are predicted."""

    def __init__(self, encoder: Encoder, config: LatentConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self.predictor = perceptron([encoder.dim, config.predictor, encoder.dim], bias=True)

    def masks(self, scores: Tensor, generator: Generator) -> tuple[Tensor, ...]:
        """What is seen, (N, M, T, V) bool: all but some joints of each person and some spans of each clip."""
        clips, persons, frames, joints = scores.shape
        seen_joints = _some(clips * persons, joints, 1 - self.config.joints, generator).view(clips, persons, 1, joints)
        seen_spans = _some(clips, SPANS, 1 - self.config.spans, generator)
        span = torch.arange(frames, device=scores.device) * SPANS // frames
        return (seen_joints & seen_spans[:, span][:, None, :, None],)

    def student(self, encoder: Encoder, keypoints: Tensor, scores: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted features (N, T', D) and pooled ones (N, D)."""
        features = self._moments(encoder, keypoints, scores * seen)
        return self.predictor(features.flatten(0, 1)).view_as(features), features.mean(1)

    def teacher(self, encoder: Encoder, keypoints: Tensor, scores: Tensor, seen: Tensor
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Targets (N, T', D), the mean score (N, T', 1) of the joints at each moment, and pooled features (N, D)."""
        features = self._moments(encoder, keypoints, scores)
        certain = F.adaptive_avg_pool1d(scores.mean((1, 3))[:, None], features.shape[1]).transpose(1, 2)
        return centred(features, self.setting.group), certain, features.mean(1)

    def _moments(self, encoder: Encoder, keypoints: Tensor, scores: Tensor) -> Tensor:
        return encoder.timeline(*encoder.inputs(keypoints, scores, self.setting.stream)).transpose(1, 2)


class Latent(Objective):
    """Mean squared errors to the teacher's features, and VICReg's guard on the student's pooled ones.

    The pooled feature of the masked clip also predicts that of the whole clip, as in data2vec 2.0 (Baevski et al., ICML
    2023), which makes it a better neighbour. The guard is on the pooled features themselves, without an expander, for
    they are what is used afterwards.
    """

    name = "latent"

    def __init__(self, encoder: Encoder, config: LatentConfig, setting: Setting) -> None:
        super().__init__(encoder, setting)
        self.config = config
        self.masking: Any = (
            TokenMasking(encoder, config, setting) if isinstance(encoder, SkeletonTransformer)
            else InputMasking(encoder, config, setting))
        self.summary = perceptron([encoder.dim, config.predictor, encoder.dim], bias=True)
        self.teacher = momentum.teacher(encoder)

    def see(self, batch: Batch, generator: Generator) -> tuple[Tensor, ...]:
        keypoints, scores = self.view(batch, generator)
        return keypoints, scores, *self.masking.masks(scores, generator)

    def embed(self, *seen: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            target, weights, whole = self.masking.teacher(self.teacher, *seen)
            whole = centred(whole[:, None], self.setting.group)[:, 0]
        if not self.config.confidence:
            weights = (weights > 0).to(weights.dtype)
        predicted, pooled = self.masking.student(self.encoder, *seen)
        return predicted, target, weights, self.summary(pooled), whole, pooled

    def loss(self, *embedded: Tensor) -> Loss:
        """Raises InputError for a batch of one, whose variance is undefined."""
        predicted, target, weights, summary, whole, pooled = embedded
        errors = *squared_errors(predicted, target, weights), (summary - whole).square().mean(1)
        prediction, weights, clip, pooled = map(self.setting.group.gather, (*errors, pooled))
        if len(pooled) < 2:
            raise InputError("batch_size: latent needs at least 2 clips a batch")
        terms = {"prediction": weighted_mean(prediction, weights), "clip": clip.mean(),
                 "variance": variance_loss(pooled), "covariance": covariance_loss(pooled)}
        return torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum(), terms

    @torch.no_grad()
    def update(self, progress: float) -> None:
        momentum.follow(self.teacher, self.encoder, momentum.rising(self.config.momentum, progress))


def _some(rows: int, count: int, share: float, generator: Generator) -> Tensor:
    """(rows, count) bool, true in ``share`` of each row, at least once, drawn uniformly."""
    kept, _ = random_keep(rows, 1, count, share, generator)
    return torch.zeros(rows, count, dtype=torch.bool, device=kept.device).scatter_(1, kept, True)

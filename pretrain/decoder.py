"""The light decoder of masked objectives: hidden tokens are asked for one by one, and read only what was seen.

Queries attend to the encoded visible tokens and not to each other, as in CrossMAE (Fu et al., arXiv:2401.14391), so
each prediction stands alone, and any few of the hidden tokens may be asked for: attention costs Q K, not (T' V)^2.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.encoder import Encoder
from skelcore.encoders.transformer import HEAD, PLACES, places, random_keep


class CrossBlock(nn.Module):
    """Attention of queries (P, Q, D) to a memory (P, K, D), then a two-layer perceptron, each pre-norm and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.query_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attend(self.query_norm(x), memory)
        return x + self.mlp(self.mlp_norm(x))

    def attend(self, x: Tensor, memory: Tensor) -> Tensor:
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                             for y in (self.query(x), self.key(memory), self.value(memory)))
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class CrossDecoder(nn.Module):
    """Predicts (P, Q, ``outputs``) at tokens ``wanted`` (P, Q), as in ``random_keep``, from a memory (P, K, ``width``).

    A query is the sum of a learned embedding of its joint and one of its place in a clip of ``steps`` tokens a joint.
    """

    def __init__(self, joints: int, width: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.joints, self.times = nn.Parameter(torch.empty(joints, width)), nn.Parameter(torch.empty(PLACES, width))
        self.blocks = nn.ModuleList(CrossBlock(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        for position in (self.joints, self.times):
            nn.init.trunc_normal_(position, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, memory: Tensor, wanted: Tensor, steps: int) -> Tensor:
        times = places(steps, self.times) @ self.times
        x = F.embedding(wanted, (times[:, None] + self.joints).flatten(0, 1))
        for block in self.blocks:
            x = block(x, memory)
        predicted: Tensor = self.head(self.norm(x))
        return predicted


def draw_tokens(shape: tuple[int, int, int, int], hidden: float, asked: float, generator: Generator
                ) -> tuple[Tensor, Tensor]:
    """Indices (N, M, K) of the tokens to see and (N, M, Q) of those to predict, for ``shape`` (N, M, T', V).

    Each person's own draw, uniform: the fraction ``hidden`` of the tokens is not seen, and ``asked`` of that is wanted.
    """
    clips, persons, steps, joints = shape
    kept, rest = random_keep(clips * persons, steps, joints, 1 - hidden, generator)
    chosen, _ = random_keep(clips * persons, 1, rest.shape[1], asked, generator)
    return kept.unflatten(0, (clips, persons)), rest.gather(1, chosen).unflatten(0, (clips, persons))


def inputs(encoder: Encoder, keypoints: Tensor, scores: Tensor, stream: str) -> tuple[Tensor, Tensor]:
    """What ``encoder.inputs`` gives, with ``valid`` (N, M) also for lone persons."""
    x, valid = encoder.inputs(keypoints, scores, stream)
    return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if valid is None else valid


def by_person(x: Tensor, valid: Tensor) -> Tensor:
    """The persons (P, ...) of clips (N, M, ...) that ``valid`` (N, M) says are there."""
    return x[:, 0] if x.shape[1] == 1 else x[valid]  # the shape of a lone person does not depend on values


def by_clip(x: Tensor, valid: Tensor) -> Tensor:
    """Persons (P, ...) back in their clips (N, M, ...), zeros where ``valid`` (N, M) says that there is none."""
    if valid.shape[1] == 1:
        return x[:, None]
    return x.new_zeros(*valid.shape, *x.shape[1:]).index_put(valid.nonzero(as_tuple=True), x)


def squared_errors(predicted: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean squared error (N,) of each clip's (N, ...), and the sum (N,) of its weights, which broadcast."""
    weights = weights.expand_as(predicted).flatten(1)
    total = weights.sum(1)
    squared = (predicted - target).square().flatten(1)
    return (squared * weights).sum(1) / total.clamp(min=1e-6), total

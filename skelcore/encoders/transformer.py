"""A transformer over joint-time tokens, for masked pretraining: its cost is that of the tokens it is given.

A token is one joint of one person during PATCH frames. The encoder is a plain pre-norm vision transformer (Dosovitskiy
et al. 2021) over a person's T' V tokens, arranged as in masked autoencoding (He et al. 2022) and as MAMP does for
skeletons (Mao et al. 2023): embed and place the tokens first, drop the hidden ones, attend among the rest. Each block,

    y = x + W_o softmax(Q K^T / sqrt(d)) V  of  Q, K, V = W norm(x);      y + W_2 gelu(W_1 norm(y)).

A missing joint is a token like any other, whose score of 0 says so: masking it would cost more in ragged attention than
it saves, and would leave its place in the feature maps without a value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.joints import JointEncoder
from skelcore.errors import InputError
from skelcore.layouts import Layout

PATCH = 4  # frames a token
DEPTH = 8
HEAD = 32  # channels of an attention head
PLACES = 64  # learned temporal positions, spread evenly over a clip


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each behind a layer norm and beside a residual: (P, L, D) -> same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def attend(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class SkeletonTransformer(JointEncoder):
    """The encoder: (N, M, T, V, C) -> (N, M, width, ceil(T / PATCH), V); the width is also that of the tokens."""

    name = "transformer"
    WIDTH = 256

    def __init__(self, layout: Layout, in_channels: int = 3, width: int = 256) -> None:
        super().__init__(layout, in_channels, width)
        heads = max(1, width // HEAD)
        if width % heads:
            raise InputError(f"encoder {self.name}: width {width} does not divide among {heads} heads; "
                             f"take a multiple of {HEAD}")
        self.dim = width
        self.embed = nn.Linear(PATCH * in_channels, width)
        self.joints = nn.Parameter(torch.empty(len(layout), width))
        self.times = nn.Parameter(torch.empty(PLACES, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width)
        self._initialise()

    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        tokens = self.tokens(x)
        return self.encode(tokens.flatten(1, 2)).view_as(tokens).permute(0, 3, 1, 2)

    def tokens(self, x: Tensor) -> Tensor:
        """Embedded tokens (P, T', V, D), with their positions, of persons (P, T, V, C); T' = ceil(T / PATCH).

        The last frame is repeated to fill the last patch.
        """
        lacking = -x.shape[1] % PATCH
        if lacking:
            x = torch.cat([x, x[:, -1:].expand(-1, lacking, -1, -1)], 1)
        patches = x.unflatten(1, (-1, PATCH)).transpose(2, 3).flatten(3)
        times = places(patches.shape[1], self.times) @ self.times
        return self.embed(patches) + self.joints + times[:, None]

    def encode(self, tokens: Tensor) -> Tensor:
        """Features (P, L, D) of any L ``tokens`` of each person, (P, L, D); their order has no effect on each."""
        return self.norm(self.blocks(tokens))

    @torch.no_grad()
    def _initialise(self) -> None:
        for position in (self.joints, self.times):
            nn.init.trunc_normal_(position, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Query, key and value are three maps that share a product, not one of three times the width.
                for part in module.weight.chunk(3 if name.endswith("qkv") else 1):
                    nn.init.xavier_uniform_(part)
                nn.init.zeros_(module.bias)


def places(count: int, like: Tensor) -> Tensor:
    """Weights (count, PLACES) with which ``count`` equal parts of a clip read the learned temporal positions.

    A part's position is its place in the clip, whatever the clip's length: linear interpolation between the learned
    ones where the parts are more than PLACES, and a triangular average as wide as a part where they are fewer, so that
    every length trains all of them. Device and type are those of ``like``.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    learned = torch.arange(PLACES, dtype=exact, device=like.device)
    step = PLACES / count
    parts = (torch.arange(count, dtype=exact, device=like.device) + 0.5) * step - 0.5
    weights = (1 - (parts[:, None] - learned).abs() / max(step, 1)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def keep(tokens: Tensor, indices: Tensor) -> Tensor:
    """The tokens (P, K, D) at ``indices`` (P, K) among each person's, given as (P, T', V, D) or flat, (P, T' V, D)."""
    flat = tokens.flatten(1, -2)
    return flat.gather(1, indices[..., None].expand(-1, -1, flat.shape[-1]))


def random_keep(persons: int, steps: int, joints: int, ratio: float, generator: torch.Generator
                ) -> tuple[Tensor, Tensor]:
    """Indices (P, K) of the tokens to keep and (P, T' V - K) of the others, ascending, drawn uniformly.

    K is ``ratio`` of the T' V tokens (``steps`` x ``joints``) of each person, rounded, but at least one; the indices
    are on the generator's device. Raises InputError unless 0 < ratio <= 1.
    """
    if not 0 < ratio <= 1:
        raise InputError(f"the ratio of tokens to keep must be above 0 and at most 1, got {ratio}")
    count = max(1, round(ratio * steps * joints))
    order = torch.rand(persons, steps * joints, generator=generator, device=generator.device).argsort(1)
    return order[:, :count].sort(1).values, order[:, count:].sort(1).values

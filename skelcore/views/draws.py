"""Random numbers: one draw a clip, from one seeded generator."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Numbers uniform in [low, high), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def chance(count: int, probability: float, generator: Generator) -> Tensor:
    """(count,) bool, each true with ``probability``."""
    return torch.rand(count, generator=generator, device=generator.device) < probability

"""Errors of position: independent jitter, slow wander of joints, drift of the whole body."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from skelcore.views.draws import uniform

KNOTS = 8  # instants between which a joint wanders linearly


def displacement(shape: torch.Size, jitter: float, wander: float, drift: float, generator: Generator) -> Tensor:
    """Random offsets of the shape (N, C, M, T, V), in body scales.

    ``jitter`` is the standard deviation of an error drawn anew in every frame, ``wander`` of one drawn at eight
    instants and linear between them (a detector's errors are correlated in time; MotionBERT, Zhu et al. 2023, corrupts
    its input alike). ``drift`` bounds how far the whole body moves steadily during the clip, along each axis. A
    clip's own jitter and wander lie between none and these.
    """
    clips, channels, persons, frames, joints = shape
    device = generator.device
    strength = uniform((clips, 1, 1, 1, 1), 0, 1, generator)
    fast = torch.empty(shape, device=device).normal_(generator=generator).mul_(strength * jitter)
    slow = torch.empty((clips, channels, persons, KNOTS, joints), device=device).normal_(generator=generator)
    slow.mul_(strength * wander)
    time = torch.linspace(0, 1, frames, device=device)
    hats = (1 - (time[:, None] * (KNOTS - 1) - torch.arange(KNOTS, device=device)).abs()).clamp(min=0)
    steady = (time[:, None] - 0.5) * uniform((clips, channels, 1, 1, 1), -drift, drift, generator)
    with torch.autocast(device.type, enabled=False):
        wandering = torch.bmm(hats.expand(clips * channels * persons, -1, -1), slow.flatten(0, 2)).view(shape)
    return fast.add_(wandering).add_(steady)

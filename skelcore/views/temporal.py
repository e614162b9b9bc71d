"""Where in time a view looks, and how fast."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from skelcore.views.draws import chance, uniform


def crop_times(clips: int, frames: int, shortest: float, longest: float, speed: float, reverse: float,
               generator: Generator) -> Tensor:
    """Times (N, T) in frames at which a view samples its clip.

    A stretch of ``shortest`` to ``longest`` of the clip, at a random place, is spread over all T frames. Within it the
    speed varies sinusoidally by up to the fraction ``speed``; the stretch runs backwards with probability ``reverse``.
    """
    share = uniform((clips, 1), shortest, longest, generator)
    start = (1 - share) * uniform((clips, 1), 0, 1, generator)
    swing = uniform((clips, 1), -speed, speed, generator)
    phase = torch.linspace(0, 1, frames, device=generator.device)[None].expand(clips, -1)
    phase = torch.where(chance(clips, reverse, generator)[:, None], 1 - phase, phase)
    phase = phase + swing * torch.sin(2 * math.pi * phase) / (2 * math.pi)
    return ((start + share * phase) * (frames - 1)).clamp(0, frames - 1)


def resample(points: Tensor, scores: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Clips (N, C, M, T, V) at ``times`` (N, S) in frames, by linear interpolation of neighbours.

    Where one neighbour is missing the other stands in if it is the nearer one; otherwise the joint is missing.
    """
    clip = torch.cat([points, scores[:, None]], 1)
    clips, planes, persons, frames, joints = clip.shape
    before = times.floor().long().clamp(0, frames - 1)
    share = (times - before).to(points.dtype)[:, None, :, None]
    first = torch.arange(clips * planes * persons, device=times.device).view(clips, -1, 1) * frames

    def rows(index: Tensor) -> Tensor:
        chosen = clip.view(-1, joints).index_select(0, (first + index[:, None]).flatten())
        return chosen.view(clips, planes, persons, -1, joints)

    one, other = rows(before), rows((before + 1).clamp(max=frames - 1))
    weight, other_weight = (1 - share) * (one[:, -1] > 0), share * (other[:, -1] > 0)
    total = weight + other_weight
    scale = (total >= 0.5) / total.clamp(min=0.5)
    moved = torch.addcmul(one * (weight * scale)[:, None], other, (other_weight * scale)[:, None])
    return moved[:, :-1], moved[:, -1]

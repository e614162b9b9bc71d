"""Filling gaps: joints that are missing for a while, interpolated in time."""

from __future__ import annotations

import torch
from torch import Tensor


def fill(keypoints: Tensor, scores: Tensor, score: float) -> tuple[Tensor, Tensor]:
    """Clips (N, M, T, V, C) whose missing joints are interpolated, with ``score`` to tell them from seen ones.

    A joint that a clip never shows stays missing; a ``score`` of 0 leaves all as it is.
    """
    if not score:
        return keypoints, scores
    seen = scores > 0
    known = seen.any(2, keepdim=True)
    return fill_gaps(keypoints, seen), torch.where(seen | ~known, scores, score)


def fill_gaps(points: Tensor, seen: Tensor) -> Tensor:
    """``points`` (N, M, T, V, C) with each joint's frames outside ``seen`` (N, M, T, V) interpolated in time.

    Before its first frame and after its last a joint stays where it is then.
    """
    last = points.shape[2] - 1
    time = torch.arange(last + 1, device=points.device)[:, None].expand_as(seen)
    before = torch.where(seen, time, -1).cummax(2).values
    after = torch.where(seen, time, last + 1).flip(2).cummin(2).values.flip(2)
    start, end = torch.where(before < 0, after, before), torch.where(after > last, before, after)
    weight = ((time - start) / (end - start).clamp_min(1)).clamp(0, 1)[..., None]
    start, end = (index.clamp(0, last)[..., None].expand_as(points) for index in (start, end))
    filled = points.gather(2, start) * (1 - weight) + points.gather(2, end) * weight
    return torch.where(seen.any(2, keepdim=True)[..., None], filled, points)

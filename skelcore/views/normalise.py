"""Where a clip is, how large the body in it is, and the normalisation built on them."""

from __future__ import annotations

import torch
from torch import Tensor


def centre(keypoints: Tensor, scores: Tensor) -> Tensor:
    """Mean (N, C) of a clip's valid joints over persons and time; zeros for a clip without any."""
    valid = (scores > 0).to(keypoints.dtype)
    total = (keypoints * valid[..., None]).sum((1, 2, 3))
    return total / valid.sum((1, 2, 3)).clamp(min=1)[:, None]


def body_scale(keypoints: Tensor, scores: Tensor) -> Tensor:
    """Size (N,) of the body in a clip, in the keypoints' unit.

    The root-mean-square distance of a person's valid joints from their mean in one frame, averaged over the frames
    and persons with at least two valid joints. It depends neither on the frame's size nor on how far the body moves;
    1 where there is nothing to measure.
    """
    valid = (scores > 0).to(keypoints.dtype)
    count = valid.sum(-1)
    at_least_one = count.clamp(min=1)
    # Relative to the clip's centre, so that the difference of squares below keeps its digits.
    local = (keypoints - centre(keypoints, scores)[:, None, None, None]) * valid[..., None]
    mean = local.sum(-2) / at_least_one[..., None]
    variance = local.square().sum((-2, -1)) / at_least_one - mean.square().sum(-1)
    measurable = (count >= 2).to(keypoints.dtype)
    size = (variance.clamp(min=0).sqrt() * measurable).sum((1, 2)) / measurable.sum((1, 2)).clamp(min=1)
    return torch.where(size > 0, size, torch.ones_like(size))


def normalise(keypoints: Tensor, scores: Tensor) -> Tensor:
    """Centre a clip (N, M, T, V, C) and divide it by its body scale; missing joints are 0.

    The result does not change when the clip is moved or scaled.
    """
    scale = body_scale(keypoints, scores)[:, None, None, None, None]
    moved = keypoints - centre(keypoints, scores)[:, None, None, None]
    return moved / scale * (scores > 0)[..., None]

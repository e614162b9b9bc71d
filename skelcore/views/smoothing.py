"""Smoothing in time, as a slower or steadier detector shows a movement."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth(points: Tensor, scores: Tensor, width: Tensor) -> Tensor:
    """Clips (N, C, M, T, V) averaged over time by a Gaussian kernel of standard deviation ``width`` (N,) in frames.

    The blur of AimCLR (Guo et al., AAAI 2022) with weights that sum to 1, over the frames in which a joint is present
    (normalised convolution, Knutsson and Westin, CVPR 1993): a joint at rest stays where it is, missing joints stay
    missing, and the ends of the clip are not pulled towards 0. A width of 0 leaves a clip as it is.
    """
    wide = points.to(torch.promote_types(points.dtype, torch.float32))
    now = torch.arange(points.shape[3], device=points.device)
    lag = (now[:, None] - now).square()
    # Below a hundredth of a frame the neighbours weigh nothing and the division would overflow.
    kernel = torch.exp(-lag / (2 * width.clamp(min=0.01)[:, None, None].square())).to(wide.dtype)
    seen = (scores > 0).to(wide.dtype)[:, None]
    # Relative to each joint's mean, so that pixels far from 0 keep their digits.
    mean = (wide * seen).sum(3, keepdim=True) / seen.sum(3, keepdim=True).clamp(min=1)
    # Time first: one product a clip, where a kernel broadcast over coordinates and persons would be copied for each.
    rows = torch.cat([(wide - mean) * seen, seen], 1).movedim(3, 1)
    with torch.autocast(points.device.type, enabled=False):
        total = (kernel @ rows.flatten(2)).view(rows.shape).movedim(1, 3)
    smoothed = mean + total[:, :-1] / total[:, -1:].clamp(min=torch.finfo(wide.dtype).tiny)
    return (smoothed * seen).to(points.dtype)

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
    frames = points.shape[3]
    now = torch.arange(frames, device=points.device)
    lag = (now[:, None] - now).square()
    # Below a hundredth of a frame the neighbours weigh nothing and the division would overflow.
    kernel = torch.exp(-lag / (2 * width.clamp(min=0.01)[:, None, None].square())).to(points.dtype)[:, None, None]
    seen = (scores > 0).to(points.dtype)[:, None]
    # Relative to each joint's mean, so that pixels far from 0 keep their digits.
    count = seen.sum(3, keepdim=True).clamp(min=1)
    mean = (points * seen).sum(3, keepdim=True) / count
    total = kernel @ ((points - mean) * seen)
    return (mean + total / (kernel @ seen).clamp(min=torch.finfo(points.dtype).tiny)) * seen

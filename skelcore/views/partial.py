"""The partial masking of PSTL (Zhou et al., AAAI 2023, arXiv:2302.09018): joints of many bones are hidden rather."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from skelcore.layouts import Layout


@torch.no_grad()
def hide(keypoints: Tensor, scores: Tensor, layout: Layout, joints: float, frames: float,
         generator: Generator) -> tuple[Tensor, Tensor]:
    """Clips (N, M, T, V, C) of which joints are missing throughout, and all joints in some frames.

    ``joints`` and ``frames`` in [0, 1) are shares, rounded down, of what each person and each clip shows, so that
    neither ever takes all of it. A joint is drawn in proportion to its degree in the graph (central spatial masking);
    frames are drawn evenly and not by their motion, which of estimated poses is in large part the detector's noise.
    """
    seen = scores > 0
    degrees = _degrees(layout).to(scores.device)
    lost = _drawn(degrees * seen.any(2), joints, generator)[:, :, None]
    gone = _drawn(seen.any(3).any(1).float(), frames, generator)[:, None, :, None]
    kept = seen & ~(lost | gone)
    return keypoints.masked_fill(~kept[..., None], 0), scores.masked_fill(~kept, 0)


def _degrees(layout: Layout) -> Tensor:
    """Edges (V,) at each joint; a joint without any counts as the end of one."""
    ends = torch.tensor(layout.edges, dtype=torch.int64).flatten()
    return torch.bincount(ends, minlength=len(layout)).clamp(min=1).float()


def _drawn(weights: Tensor, share: float, generator: Generator) -> Tensor:
    """True at ``share`` of each row's entries (..., K) above 0, drawn one after the other in proportion to them.

    The largest u^(1/w), u uniform, are such a draw (Efraimidis, Spirakis, 2006).
    """
    draws = torch.rand(weights.shape, generator=generator, device=generator.device)
    order = (draws.log() / weights).masked_fill(weights == 0, -torch.inf).argsort(-1, descending=True)
    count = ((weights > 0).sum(-1, keepdim=True) * share).long()
    return order.argsort(-1) < count

"""Heatmaps of joints and limbs, rendered in batches on the device and never stored."""

from __future__ import annotations

from torch import Tensor

from skelcore.errors import InputError
from skelcore.layouts import Layout


def channels(layout: Layout, stream: str = "joint") -> int:
    """Number K of heatmaps of a stream: ``joint`` one a joint, ``bone`` one a limb; raises InputError for another."""
    counts = {"joint": len(layout), "bone": len(layout.limbs)}
    if stream not in counts:
        raise InputError(f"stream={stream}: heatmaps show {' or '.join(counts)}")
    return counts[stream]


def render(keypoints: Tensor, scores: Tensor, layout: Layout, stream: str = "joint", size: int = 56) -> Tensor:
    """Heatmaps (N, K, T, size, size) of clips (N, M, T, V, 2) in pixels, in the square around each clip's persons."""
    raise NotImplementedError

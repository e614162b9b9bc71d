"""The four input streams of a skeleton encoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skelcore.errors import InputError
from skelcore.layouts import Layout


def features(keypoints: Tensor, scores: Tensor, layout: Layout, stream: str = "joint") -> Tensor:
    """Input (N, M, T, V, C + 1) of an encoder: the stream's coordinates, then its score.

    ``joint``: as given. ``bone``: joint minus its parent. ``joint_motion`` and ``bone_motion``: the next frame minus
    this one, 0 in the last. The score of a difference is the mean of the two scores, as in the reference; where either
    is missing, difference and score are 0. Raises InputError for an unknown stream or another layout's joints.
    """
    if stream not in STREAMS:
        raise InputError(f"stream={stream}: unknown; known: {', '.join(STREAMS)}")
    if keypoints.shape[3] != len(layout):
        raise InputError(f"{keypoints.shape[3]} joints given, but layout {layout.name} has {len(layout)}")
    x = torch.cat([keypoints, scores[..., None]], -1)
    for step in STREAMS[stream]:
        x = step(x, layout)
    return x


def _bone(x: Tensor, layout: Layout) -> Tensor:
    parents = np.arange(len(layout))
    for joint, parent in layout.bones:
        parents[joint] = parent
    return _difference(x, x[:, :, :, torch.from_numpy(parents).to(x.device)])


def _motion(x: Tensor, layout: Layout) -> Tensor:
    moved = _difference(x[:, :, 1:], x[:, :, :-1])
    return torch.cat([moved, torch.zeros_like(x[:, :, :1])], 2)


def _difference(one: Tensor, other: Tensor) -> Tensor:
    both = (one[..., -1:] > 0) & (other[..., -1:] > 0)
    change = torch.cat([one[..., :-1] - other[..., :-1], (one[..., -1:] + other[..., -1:]) / 2], -1)
    return change * both


STREAMS: dict[str, tuple[Callable[[Tensor, Layout], Tensor], ...]] = {
    "joint": (),
    "bone": (_bone,),
    "joint_motion": (_motion,),
    "bone_motion": (_bone, _motion),
}

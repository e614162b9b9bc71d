"""Kinematic statistics of a clip: what can be known of a movement without learning anything.

A control beside raw coordinates, and much the stronger one: it has the invariances to size, place and time shift that
a pretrained encoder has to learn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adapt.features import Clips
from skelcore import views
from skelcore.layouts import Layout
from skelcore.views.fill import fill_gaps

FREQUENCIES = 12  # the lowest ones of a clip, the constant included


def statistics(clips: Clips) -> list[np.ndarray]:
    """Three blocks (n, F_i) for each clip: its bones' directions, the spectrum of its pose, and its joints' speeds.

    Missing joints are interpolated in time; each person stands beside the others.
    """
    rows = [_blocks(fill_gaps(views.normalise(batch.keypoints, batch.scores), batch.scores > 0), clips.layout)
            for batch in clips.batches()]
    return [torch.cat(block).cpu().numpy() for block in zip(*rows, strict=True)]


def _blocks(points: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks of clips (N, M, T, V, C); square roots keep a few fast joints from being all that counts."""
    ends, starts = (torch.tensor(each, device=points.device) for each in zip(*layout.bones, strict=True))
    directions = normalize(points[..., ends, :] - points[..., starts, :], dim=-1)
    pose = points - points.mean(3, keepdim=True)
    spectrum = torch.fft.rfft(pose, dim=2).abs()[:, :, :FREQUENCIES].sqrt()
    speed = points.diff(dim=2).norm(dim=-1).mean(2).sqrt()
    return directions.flatten(1), spectrum.flatten(1), speed.flatten(1)

"""What a view does not see: joints, body parts, stretches of time. All masks are true where a joint is kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from skelcore.layouts import Layout
from skelcore.views.draws import chance, uniform

_HEAD = ("head", "nose", "eye", "ear", "mouth")
_LIMBS = {"arm": ("elbow", "wrist", "hand", "thumb", "index", "middle", "ring", "pinky"),
          "leg": ("knee", "ankle", "heel", "foot")}


def parts(layout: Layout) -> dict[str, list[int]]:
    """Body parts by the names of the joints: the head, each arm and leg beyond its root; for a hand, each finger."""
    found: dict[str, list[int]] = {}
    for index, joint in enumerate(layout.joints):
        part = _part(joint)
        if part:
            found.setdefault(part, []).append(index)
    return found


def joint_mask(clips: int, persons: int, joints: int, rate: float, generator: Generator) -> Tensor:
    """(N, M, 1, V): joints missing throughout the clip, each with a probability of the clip's own, up to ``rate``."""
    limit = uniform((clips, 1, 1, 1), 0, rate, generator)
    return torch.rand((clips, persons, 1, joints), generator=generator, device=generator.device) >= limit


def part_mask(clips: int, persons: int, layout: Layout, probability: float, generator: Generator) -> Tensor:
    """(N, M, 1, V): with ``probability``, one body part of a person is missing throughout the clip."""
    table = np.ones((1 + len(parts(layout)), len(layout)), bool)
    for index, joints in enumerate(parts(layout).values(), 1):
        table[index, joints] = False
    hit = chance(clips * persons, probability, generator)
    row = uniform((clips * persons,), 1, len(table), generator).long().clamp(max=len(table) - 1)
    kept = torch.from_numpy(table).to(generator.device)[row * hit]
    return kept.view(clips, persons, 1, len(layout))


def frame_mask(clips: int, frames: int, longest: float, spans: int, generator: Generator) -> Tensor:
    """(N, 1, T, 1): ``spans`` stretches of missing frames, each up to the fraction ``longest`` of the clip."""
    length = uniform((clips, spans, 1), 0, longest, generator) * frames
    start = uniform((clips, spans, 1), 0, 1, generator) * (frames - length)
    instant = torch.arange(frames, device=generator.device) + 0.5
    inside = (instant >= start) & (instant < start + length)
    return ~inside.any(1)[:, None, :, None]


def _part(joint: str) -> str | None:
    side, _, name = joint.partition("_")
    if side not in ("left", "right"):
        side, name = "", joint
    if name.startswith(_HEAD):
        return "head"
    for limb, names in _LIMBS.items():
        if side and name.startswith(names):
            return f"{side} {limb}"
    # Joints of a lone hand: finger_1 .. finger_4.
    finger, _, number = joint.partition("_")
    return finger if number.isdigit() else None

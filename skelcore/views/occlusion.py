"""What a view does not see: joints, body parts, stretches of time. All masks are true where a joint is kept."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from skelcore.layouts import Layout
from skelcore.views.draws import chance, uniform
from skelcore.views.parts import OUTER, REGIONS, kind, side

_STRETCH = 0.2, 1.0  # how long a limb is lost or an occluder stands there, as a fraction of the clip
_TILT = math.radians(15)


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
    return ~stretch((clips, spans), frames, 0, longest, generator).any(1)[:, None, :, None]


def limb_mask(clips: int, persons: int, frames: int, layout: Layout, probability: float,
              generator: Generator) -> Tensor:
    """(N, M, T, V): each body part of a person is missing with ``probability``, for a stretch of the clip."""
    groups = list(parts(layout).values())
    table = np.zeros((len(groups), len(layout)), np.float32)
    for row, joints in zip(table, groups, strict=True):
        row[joints] = 1
    hit = torch.rand((clips, persons, len(groups), 1), generator=generator, device=generator.device) < probability
    lost = hit & stretch((clips, persons, len(groups)), frames, *_STRETCH, generator)
    return lost.transpose(-1, -2).float() @ torch.from_numpy(table).to(generator.device) == 0


def occluder_mask(points: Tensor, middle: Tensor, size: Tensor, probability: float, generator: Generator) -> Tensor:
    """(N, M, T, V): with ``probability``, something stands before the clip's persons for a stretch of time.

    It is either all that lies beyond a nearly upright or level line, as where the picture ends or behind a table, or a
    rectangle, as behind furniture. It keeps its place, drawn relative to the ``middle`` (N, C) of ``points``
    (N, C, M, T, V) and their body scale ``size`` (N,), in the first two axes.
    """
    clips, frames = len(points), points.shape[3]
    hit = chance(clips, probability, generator)[:, None] & stretch((clips,), frames, *_STRETCH, generator)
    edge = chance(clips, 0.5, generator)
    turn = uniform((clips,), 0, 4, generator).floor() * math.pi / 2 + uniform((clips,), -_TILT, _TILT, generator)
    place, reach = uniform((clips, 2), -1, 1, generator), uniform((clips, 2), 0.2, 0.8, generator)
    line = uniform((clips,), 0, 1.5, generator)
    away = (points[:, :2] - middle[:, :2, None, None, None]).float() / size.float()[:, None, None, None, None]
    cosine, sine = (value[:, None, None, None] for value in (turn.cos(), turn.sin()))
    x, y = away[:, 0] * cosine + away[:, 1] * sine, away[:, 1] * cosine - away[:, 0] * sine
    (left, top), (width, height) = (value.T[:, :, None, None, None] for value in (place, reach))
    inside = ((x - left).abs() < width) & ((y - top).abs() < height)
    covered = torch.where(edge[:, None, None, None], x > line[:, None, None, None], inside)
    return ~(covered & hit[:, None, :, None])


def stretch(shape: tuple[int, ...], frames: int, shortest: float, longest: float, generator: Generator) -> Tensor:
    """(*shape, T), true in one stretch of ``shortest`` to ``longest`` of the clip, at a random place."""
    length = uniform((*shape, 1), shortest, longest, generator) * frames
    start = uniform((*shape, 1), 0, 1, generator) * (frames - length)
    instant = torch.arange(frames, device=generator.device) + 0.5
    return (instant >= start) & (instant < start + length)


def _part(joint: str) -> str | None:
    region = REGIONS.get(kind(joint))
    if region == "head":
        return region
    if region in OUTER and side(joint):
        return f"{side(joint)} {region}"
    # Joints of a lone hand: finger_1 .. finger_4.
    finger, _, number = joint.partition("_")
    return finger if number.isdigit() else None

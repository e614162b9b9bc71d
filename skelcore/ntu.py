"""NTU RGB+D ``.skeleton`` files -> joint tracks, cleaned as the PYSKL 3D annotations were.

Shahroudy et al., "NTU RGB+D", CVPR 2016; Liu et al., "NTU RGB+D 120", TPAMI 2019. The cleaning rules (short bodies,
wide bodies, two tracks, which one comes first) are those behind the published ``ntu60_3danno`` and ``ntu120_3danno``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skelcore.errors import InputError

FPS = 30.0
SHORTEST_BODY = 12  # frames; fewer are noise when there is another body
WIDEST_BODY = 0.8  # width / height above which a body in a frame is taken for furniture
WIDE_SHARE = 0.69754  # share of such frames above which the whole body is dropped
EMPTY = 1e-3  # metres, summed over coordinates
TRAINING_PERFORMERS = frozenset((
    1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56,
    57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103))
TEST_CAMERA = 1

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


@dataclass(frozen=True)
class Name:
    """What the name of an NTU sample says; ``action`` counts from 0."""

    setup: int
    camera: int
    performer: int
    repetition: int
    action: int


def parse_name(name: str) -> Name:
    """Take ``SsssCcccPpppRrrrAaaa`` apart; raises InputError for any other name."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[5]) == 0:
        raise InputError(f"{name}: an NTU sample is named SsssCcccPpppRrrrAaaa, such as S001C001P001R001A001")
    setup, camera, performer, repetition, action = (int(number) for number in match.groups())
    return Name(setup, camera, performer, repetition, action - 1)


def splits(names: Sequence[str]) -> dict[str, list[str]]:
    """The official splits by rule: cross-subject, cross-view, cross-setup."""
    rules = {"xsub": lambda name: name.performer in TRAINING_PERFORMERS,
             "xview": lambda name: name.camera != TEST_CAMERA,
             "xset": lambda name: name.setup % 2 == 0}
    parsed = {name: parse_name(name) for name in names}
    return {f"{split}_{part}": [name for name in names if rule(parsed[name]) == (part == "train")]
            for split, rule in rules.items() for part in ("train", "val")}


def read_keypoints(text: str, where: str) -> np.ndarray | None:
    """The cleaned tracks (M, T, 25, 3) float32 in metres, M = 1 or 2, of one file's text; None when no body is left.

    Raises InputError for a file that does not follow the format.
    """
    try:
        bodies = _bodies(text)
    except (ValueError, IndexError) as error:
        raise InputError(f"{where}: not an NTU .skeleton file, or cut short ({error})") from None
    if len(bodies) > 1:
        bodies = [body for body in bodies if len(body.joints) >= SHORTEST_BODY]
    if len(bodies) > 1:
        bodies = [narrow for body in bodies if (narrow := _without_wide_frames(body))]
        bodies.sort(key=lambda body: -body.motion)
    if len(bodies) < 2:
        return bodies[0].joints[None] if bodies else None
    return _two_tracks(bodies)


@dataclass(frozen=True)
class _Body:
    joints: np.ndarray  # (t, 25, 3)
    start: int
    motion: float

    @property
    def end(self) -> int:
        return self.start + len(self.joints)


def _bodies(text: str) -> list[_Body]:
    """All bodies of a file, the one that moves most first; frames without a body do not count as time."""
    lines = iter(text.splitlines())
    starts: dict[int, int] = {}
    joints: dict[int, list[list[str]]] = {}
    time = 0
    for _ in range(int(_next(lines))):
        count = int(_next(lines))
        for _ in range(count):
            body = int(_next(lines).split(maxsplit=1)[0])
            if int(_next(lines)) != 25:
                raise ValueError("a body does not have 25 joints")
            starts.setdefault(body, time)
            joints.setdefault(body, []).extend(_next(lines).split(maxsplit=3)[:3] for _ in range(25))
        time += count > 0
    if any(line.strip() for line in lines):
        raise ValueError("more lines than the frame count says")
    arrays = {body: np.array(rows, np.float32).reshape(-1, 25, 3) for body, rows in joints.items()}
    bodies = [_Body(array, starts[body], _motion(array)) for body, array in arrays.items()]
    return sorted(bodies, key=lambda body: -body.motion)


def _next(lines: Iterator[str]) -> str:
    line = next(lines, None)
    if line is None:
        raise ValueError("the file ends before its last frame")
    return line


def _motion(joints: np.ndarray) -> float:
    return float(joints.reshape(-1, 3).var(axis=0).sum())


def _without_wide_frames(body: _Body) -> _Body | None:
    """None for a body that is mostly wider than tall; else its motion counts the upright frames only."""
    width, height = np.ptp(body.joints[..., 0], axis=1), np.ptp(body.joints[..., 1], axis=1)
    upright = width <= WIDEST_BODY * height
    if 1 - upright.mean() >= WIDE_SHARE:
        return None
    return body if upright.all() else replace(body, motion=min(body.motion, _motion(body.joints[upright])))


def _two_tracks(bodies: Sequence[_Body]) -> np.ndarray:
    """Lay bodies, in their order, into the first of two tracks that is free at that time; what fits in none is lost."""
    tracks = np.zeros((2, max(body.end for body in bodies), 25, 3), np.float32)
    spans = [(bodies[0].start, bodies[0].start), (0, 0)]
    for body in bodies:
        for track, (start, end) in enumerate(spans):
            if max(start, body.start) >= min(end, body.end):
                tracks[track, body.start:body.end] = body.joints
                spans[track] = (min(start, body.start), max(end, body.end))
                break
    seen = np.flatnonzero(np.abs(tracks).sum((0, 2, 3)) >= EMPTY)
    tracks = tracks[:, seen[0]:seen[-1] + 1] if len(seen) else tracks
    first, second = np.abs(tracks[:, 0, 1]).sum(-1)
    return tracks[::-1].copy() if first < EMPTY < second else tracks

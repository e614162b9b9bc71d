"""The actions of the mannequin: poses over time as functions of a clock and a style.

Hands and feet are targets in side-relative axes (out, up, forward), in arm or leg lengths, so that one description
serves both sides. Every action is written for a leading left side (index 0) and mirrored as a whole when the style
says so. The body solves the joints (`skelcore.body`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

TAU = 2 * np.pi
LEAD, OTHER = 0, 1


@dataclass
class Pose:
    """What the body is asked to do over T frames; side 0 is the left one.

    ``hands`` (T, 2, 3) from the shoulder in arm lengths, axes of the torso; ``elbows``, ``knees`` (T, 2, 3) where the
    joint points to; ``feet`` (T, 2, 3) from the standing place in leg lengths; ``root`` (T, 3) left, up, forward in leg
    lengths; ``turn`` (T,), ``spine`` (T, 3) forward, to the left, twist to the left, ``head`` (T, 2) down, to the left:
    all in radians.
    """

    hands: np.ndarray
    elbows: np.ndarray
    feet: np.ndarray
    knees: np.ndarray
    root: np.ndarray
    turn: np.ndarray
    spine: np.ndarray
    head: np.ndarray

    def mirrored(self) -> Pose:
        """The same motion with left and right exchanged."""
        return Pose(self.hands[:, ::-1], self.elbows[:, ::-1], self.feet[:, ::-1], self.knees[:, ::-1],
                    self.root * [-1, 1, 1], -self.turn, self.spine * [1, -1, -1], self.head * [1, -1])


@dataclass(frozen=True)
class Style:
    """How one performance differs from another of the same action.

    ``phase`` is where in its cycle the action begins (near the start, as in a trimmed clip); ``modes`` (3,) in [0, 1]
    choose between ways of doing it; ``habits`` (2,) index the idle arm positions; ``waves`` (12, K, 3) are frequency
    (Hz), phase and weight of the slow curves that make sway and uneven tempo; ``stance`` and ``lean`` are the person's.
    """

    amplitude: float
    tempo: float
    phase: float
    mirror: bool
    modes: np.ndarray
    habits: np.ndarray
    sway: float
    waves: np.ndarray
    stance: float = 0.08
    lean: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, stance: float = 0.08, lean: float = 0.0) -> Style:
        waves = np.stack([rng.uniform(0.1, 0.9, (12, 4)), rng.uniform(0, 1, (12, 4)), rng.normal(0, 0.5, (12, 4))], -1)
        return cls(
            amplitude=rng.uniform(0.65, 1.15), tempo=float(np.exp(rng.uniform(-0.36, 0.3))),
            phase=rng.uniform(-0.1, 0.3), mirror=bool(rng.integers(2)), modes=rng.uniform(size=3),
            habits=rng.choice(len(_IDLE), 2, p=[0.6, 0.13, 0.16, 0.11]), sway=rng.uniform(0.4, 1.6), waves=waves,
            stance=stance, lean=lean,
        )

    def wander(self, seconds: np.ndarray, channel: int) -> np.ndarray:
        """A slow random curve (T,) of about unit size, another one for each of the 12 channels."""
        frequency, phase, weight = np.moveaxis(self.waves[channel], -1, 0)
        return (np.sin(TAU * (seconds[:, None] * frequency + phase)) * weight).sum(-1)


# Idle arms: hanging, forearm forward, hand on hip, fist at the chest; and where the elbow then points.
_IDLE = np.array([[0.14, -0.97, 0.06], [0.08, -0.55, 0.5], [0.10, -0.66, 0.12], [-0.1, -0.3, 0.38]])
_IDLE_ELBOWS = np.array([[0.4, 0, -1], [0.3, -0.4, -1], [1, 0, -0.35], [0.6, -1, -0.3]])


def smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def bell(cycles: np.ndarray) -> np.ndarray:
    """0 to 1 and back in each cycle."""
    return 0.5 - 0.5 * np.cos(TAU * cycles)


def pulse(cycles: np.ndarray, width: float, edge: float) -> np.ndarray:
    """Up within ``edge``, held, down again by ``width``, then at rest until the cycle ends."""
    part = cycles % 1
    return smoothstep(part / edge) * smoothstep((width - part) / edge)


def keyed(cycles: np.ndarray, times: list[float], values: np.ndarray) -> np.ndarray:
    """Smooth curve through ``values`` (K, ...) at ``times`` in [0, 1); the cycle closes on the first one."""
    closed = np.concatenate([values, values[:1]])
    return PchipInterpolator([*times, 1.0], closed, axis=0)(cycles % 1)


def to(limb: np.ndarray, target: np.ndarray | tuple[float, ...], weight: np.ndarray) -> None:
    """Move a limb's curve (T, 3) towards ``target`` by ``weight`` (T,), in place."""
    limb += weight[:, None] * (np.asarray(target) - limb)


def vector(*parts: float | np.ndarray) -> np.ndarray:
    """(T, 3) out of numbers and curves."""
    return np.stack(np.broadcast_arrays(*parts), -1).astype(float)


def idle(seconds: np.ndarray, style: Style) -> Pose:
    """Standing with idle arms, shifting weight and looking about a little."""
    n, sway = len(seconds), style.sway
    hands = np.tile(_IDLE[style.habits], (n, 1, 1))
    feet = np.zeros((n, 2, 3))
    feet[..., 0] = style.stance
    feet[:, LEAD, 2], feet[:, OTHER, 2] = 0.06 * (style.modes[2] - 0.5), -0.06 * (style.modes[2] - 0.5)
    knees = np.tile([0.25, 0.0, 1.0], (n, 2, 1))
    curve = [style.wander(seconds, channel) for channel in range(11)]
    hands += 0.03 * sway * np.stack([vector(*curve[:3]), vector(*curve[3:6])], 1)
    root = vector(0.02 * sway * curve[6], -0.02 - 0.004 * sway * curve[7] ** 2, 0.01 * sway * curve[7])
    spine = vector(style.lean + 0.02 * sway * curve[8], 0.02 * sway * curve[6], 0.05 * sway * curve[9])
    head = np.stack([0.08 * curve[10], 0.15 * sway * curve[9]], -1)
    return Pose(hands, np.tile(_IDLE_ELBOWS[style.habits], (n, 1, 1)), feet, knees, root, 0.06 * sway * curve[10],
                spine, head)


def wave(pose: Pose, c: np.ndarray, style: Style) -> None:
    up = np.maximum(pulse(c / 5, 0.85, 0.12), float(style.modes[0] > 0.5))
    side = np.sin(TAU * c) * 0.24 * style.amplitude
    reach = 0.25 + 0.5 * style.modes[1]
    to(pose.hands[:, LEAD], vector(0.38 + side, reach - 0.3 * side**2, 0.25), up)
    to(pose.elbows[:, LEAD], (0.8, -1.0, 0.1), up)
    pose.spine[:, 1] -= 0.05 * up


def clap(pose: Pose, c: np.ndarray, style: Style) -> None:
    gap = bell(c) * (0.3 + 0.25 * style.amplitude)
    height = -0.35 + 0.55 * style.modes[0] + (0.55 if style.modes[1] > 0.8 else 0)
    for side in (LEAD, OTHER):
        pose.hands[:, side] = vector(-0.3 + gap, height - 0.1 * gap, 0.6 - 0.25 * gap)
        pose.elbows[:, side] = (0.7, -1.0, -0.2)


def jumping_jack(pose: Pose, c: np.ndarray, style: Style) -> None:
    open_ = bell(c)
    angle = np.radians(-78) + open_ * np.radians(100 + 60 * min(style.amplitude, 1.0))
    for side in (LEAD, OTHER):
        pose.hands[:, side] = 0.97 * vector(np.cos(angle), np.sin(angle), 0.08 + 0 * angle)
        pose.elbows[:, side] = (0.2, -0.5, -1.0)
        pose.feet[:, side, 0] += open_ * 0.28 * style.amplitude
        pose.feet[:, side, 1] += 0.09 * style.amplitude * np.abs(np.sin(TAU * c)) ** 2
    pose.root[:, 1] += 0.09 * style.amplitude * np.sin(TAU * c) ** 2 - 0.07 * open_ * style.amplitude


def squat(pose: Pose, c: np.ndarray, style: Style) -> None:
    down = bell(c)
    pose.root += vector(0 * c, -0.5 * style.amplitude * down, -0.16 * style.amplitude * down)
    pose.spine[:, 0] += (0.35 + 0.3 * style.modes[1]) * style.amplitude * down
    pose.head[:, 0] -= 0.25 * down
    pose.feet[..., 0] += 0.08
    pose.knees[..., 0] += 0.35
    if style.modes[0] > 0.35:
        for side in (LEAD, OTHER):
            to(pose.hands[:, side], (-0.05, 0.05 + 0.2 * style.modes[2], 0.9), down)
            to(pose.elbows[:, side], (0.6, -1.0, 0.0), down)


def kick(pose: Pose, c: np.ndarray, style: Style) -> None:
    hit = pulse(c, 0.55, 0.27)
    load = pulse(c + 0.2, 0.3, 0.15)
    sideways = style.modes[0] ** 2
    high = (0.25 + 0.5 * style.modes[1]) * style.amplitude
    pose.feet[:, LEAD] += hit[:, None] * np.array([0.6 * sideways, high, 0.75 * (1 - 0.7 * sideways)])
    pose.feet[:, LEAD] += load[:, None] * np.array([0, 0.12, -0.3]) * style.amplitude
    pose.spine += vector(-0.25 * hit * (1 - sideways) + 0.1 * load, -0.3 * hit * sideways, -0.2 * hit)
    pose.root[:, 0] -= 0.06 * (hit + load)
    to(pose.hands[:, OTHER], (0.3, -0.5, 0.6), 0.6 * hit)
    to(pose.hands[:, LEAD], (0.6, -0.6, -0.35), 0.6 * hit)


def walk_in_place(pose: Pose, c: np.ndarray, style: Style) -> None:
    lift = 0.12 + 0.24 * style.modes[0] * style.amplitude
    swing = np.sin(TAU * c)
    for side, sign in ((LEAD, 1), (OTHER, -1)):
        up = np.clip(sign * swing, 0, 1)
        pose.feet[:, side, 1] += lift * up
        pose.feet[:, side, 2] += 0.4 * lift * up
        pose.hands[:, side] += vector(0 * c, 0.1 * swing**2, -sign * swing * 0.35 * style.amplitude)
    pose.root[:, 1] -= 0.015 * np.cos(2 * TAU * c)
    pose.root[:, 0] -= 0.025 * swing
    pose.spine[:, 2] += 0.12 * swing


def punch(pose: Pose, c: np.ndarray, style: Style) -> None:
    guard = np.array([-0.12, -0.12 + 0.2 * style.modes[1], 0.4])
    target = np.array([-0.3, -0.05 + 0.3 * style.modes[1], 0.95 * min(1, 0.2 + style.amplitude)])
    both = style.modes[0] > 0.4
    for side in (LEAD, OTHER):
        hit = pulse(c + 0.5 * side, 0.45, 0.2) * float(side == LEAD or both)
        pose.hands[:, side] = guard
        pose.elbows[:, side] = (0.5, -1.0, -0.3)
        to(pose.hands[:, side], target, hit)
        pose.spine[:, 2] += (-0.45 if side == LEAD else 0.45) * hit * style.amplitude
    pose.feet[:, LEAD, 2] += 0.14
    pose.feet[:, OTHER, 2] -= 0.16
    pose.root[:, 1] -= 0.05


def bow(pose: Pose, c: np.ndarray, style: Style) -> None:
    down = pulse(c, 0.75, 0.3)
    pitch = (0.55 + 0.75 * style.modes[0]) * style.amplitude * down
    pose.spine[:, 0] += pitch
    pose.root[:, 2] -= 0.14 * pitch
    pose.head[:, 0] += 0.2 * down
    hang = vector(0.1, -0.95 * np.cos(pitch), 0.95 * np.sin(pitch))
    for side in (LEAD, OTHER):
        if style.modes[1] > 0.4:
            to(pose.hands[:, side], hang if style.modes[1] > 0.7 else (0.1, -0.9, 0.25), smoothstep(3 * down))


def throw(pose: Pose, c: np.ndarray, style: Style) -> None:
    times, a, high = [0.0, 0.3, 0.42, 0.52, 0.66], style.amplitude, 0.15 + 0.5 * style.modes[0]
    pose.hands[:, LEAD] = keyed(c, times, np.array([_IDLE[0], [0.45, high, -0.45 * a], [0.3, high + 0.2, 0.25],
                                                    [-0.05, high - 0.1, 0.95], [-0.4 * a, -0.5, 0.55]]))
    pose.elbows[:, LEAD] = keyed(c, times, np.array([[0.4, 0, -1.0], [1, -0.2, -0.4], [1, -0.1, 0.3], [0.8, -0.6, 0],
                                                     [0.8, -0.3, -0.5]]))
    twist = keyed(c, times, np.array([0, 0.6, 0.1, -0.45, -0.6])) * a
    pose.spine += vector(keyed(c, times, np.array([0, -0.12, 0, 0.25, 0.35])), 0 * c, twist)
    step = keyed(c, times, np.array([0, 0.1, 0.25, 0.3, 0.25])) * a
    pose.feet[:, OTHER, 2] += step
    pose.root[:, 2] += keyed(c, times, np.array([0, -0.05, 0.1, 0.15, 0.15])) * a
    to(pose.hands[:, OTHER], (0.1, -0.05, 0.75), 0.8 * pulse(c, 0.5, 0.22))


def turn_around(pose: Pose, c: np.ndarray, style: Style) -> None:
    whole, part = np.floor(c), smoothstep((c % 1 - 0.1) / 0.7)
    if style.modes[0] > 0.5:
        pose.turn += TAU * (whole + part)
    else:
        pose.turn += np.pi * (whole % 2 + part * (1 - 2 * (whole % 2)))
    moving = 4 * part * (1 - part)
    step = np.sin(TAU * 3 * c)
    for side, sign in ((LEAD, 1), (OTHER, -1)):
        pose.feet[:, side, 1] += 0.09 * moving * np.clip(sign * step, 0, 1)
    pose.root[:, 0] -= 0.03 * step * moving
    pose.head[:, 1] += 0.5 * moving
    pose.hands[..., 0] += 0.1 * moving[:, None] * style.amplitude


def raise_arms(pose: Pose, c: np.ndarray, style: Style) -> None:
    up = pulse(c, 0.9, 0.4)
    angle = np.radians(-80) + up * np.radians(95 + 70 * min(style.amplitude, 1))
    outward = np.cos(angle) * (0.25 + 0.75 * style.modes[0])
    forward = np.cos(angle) * (1 - style.modes[0])
    for side in (LEAD, OTHER):
        pose.hands[:, side] = 0.96 * vector(outward + 0.05, np.sin(angle), forward)
        pose.elbows[:, side] = (0.5, -0.5, -0.8)
    pose.head[:, 0] -= 0.2 * up


def side_bend(pose: Pose, c: np.ndarray, style: Style) -> None:
    swing = np.sin(TAU * c) if style.modes[0] > 0.5 else bell(c)
    pose.spine[:, 1] += (0.3 + 0.35 * style.modes[1]) * style.amplitude * swing
    pose.root[:, 0] -= 0.07 * swing
    if style.modes[2] > 0.5:
        over = np.clip(swing, 0, 1)
        to(pose.hands[:, OTHER], (-0.3, 0.9, 0.05), over)
        to(pose.elbows[:, OTHER], (1.0, 0.2, 0.0), over)
        to(pose.hands[:, LEAD], (0.1, -0.97, 0.0), over)


def point(pose: Pose, c: np.ndarray, style: Style) -> None:
    out = pulse(c, 0.8, 0.25)
    heading = np.radians(-15 + 100 * style.modes[0])
    target = (np.sin(heading), -0.1 + 0.45 * style.modes[1] * style.amplitude, np.cos(heading))
    to(pose.hands[:, LEAD], target, out)
    to(pose.elbows[:, LEAD], (0.4, -1.0, -0.2), out)
    pose.head[:, 1] += 0.6 * heading * out
    pose.spine[:, 2] += 0.15 * heading * out


# Each action with its natural number of cycles a second.
MOTIONS: dict[str, tuple[Callable[[Pose, np.ndarray, Style], None], float]] = {
    "wave": (wave, 1.5),
    "clap": (clap, 1.5),
    "jumping_jack": (jumping_jack, 0.95),
    "squat": (squat, 0.5),
    "kick": (kick, 0.65),
    "walk_in_place": (walk_in_place, 0.95),
    "punch": (punch, 0.9),
    "bow": (bow, 0.42),
    "throw": (throw, 0.55),
    "turn_around": (turn_around, 0.4),
    "raise_arms": (raise_arms, 0.5),
    "side_bend": (side_bend, 0.5),
    "point": (point, 0.45),
}


def move(action: str | None, seconds: np.ndarray, style: Style) -> Pose:
    """The pose curves of an action at the given times (T,); None stands idle."""
    pose = idle(seconds, style)
    if action is not None:
        motion, frequency = MOTIONS[action]
        uneven = seconds + 0.08 / frequency * style.wander(seconds, 11)
        motion(pose, style.phase + style.tempo * frequency * uneven, style)
    return pose.mirrored() if style.mirror else pose

"""Moves: what a body does on top of its postures: steps, jumps, turns, and two hands on one thing.

Each is drawn for N clips, with fields (N,), and changes the curves of the puppet in place; lengths are in leg lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skelcore.dice import Dice
from skelcore.motions import TAU, smoothstep
from skelcore.puppet import ARMS, SIDES

_GRAVITY = 9.81
_TAKE_OFF = 0.3  # share of the cycle in which a jumper still crouches
_SOCKET = 0.36  # from the middle of the chest to a shoulder, in arm lengths


@dataclass(frozen=True)
class Gait:
    """Feet in turn, ``rate`` strides a second with ``stride`` and ``lift``, towards ``heading`` (radians).

    ``going`` is how far the body goes with its feet, 0 on the spot and 1 without sliding, ``climb`` how far it rises
    with each stride; ``swing`` (radians) is that of the arms.
    """

    stride: np.ndarray
    lift: np.ndarray
    heading: np.ndarray
    rate: np.ndarray
    phase: np.ndarray
    going: np.ndarray
    climb: np.ndarray
    swing: np.ndarray

    @classmethod
    def draw(cls, dice: Dice, upright: np.ndarray, rate: np.ndarray) -> Gait:
        """Steps for many of those who are ``upright`` (N,), at their ``rate`` of cycles where that suits, or another.
        """
        active = dice.uniform(0, 1) < np.where(upright, 0.3, 0.08)
        own = dice.uniform(0.6, 1.7)
        suits = dice.chance(0.5) & (rate > 0.6) & (rate < 1.7)
        straight = dice.chance(0.75)
        return cls(
            stride=active * dice.uniform(0, 0.42), lift=active * dice.uniform(0.03, 0.4) ** 1.5,
            heading=np.where(straight, dice.normal(0.15), dice.uniform(-np.pi, np.pi)),
            rate=np.where(suits, rate, own), phase=dice.uniform(0, 1),
            going=active * upright * dice.chance(0.6) * dice.uniform(0.6, 1),
            climb=active * upright * dice.chance(0.15) * dice.uniform(-0.3, 0.5),
            swing=active * dice.chance(0.65) * dice.uniform(0.1, 0.9),
        )

    def apply(self, curves: dict[str, np.ndarray], seconds: np.ndarray) -> np.ndarray:
        """Move feet and arms; returns the way (3, N, T) that the body has gone at ``seconds`` (N, T)."""
        columns = {name: value[:, None].astype(np.float32) for name, value in vars(self).items()}
        stride, lift, rate, going, climb = (columns[name] for name in ("stride", "lift", "rate", "going", "climb"))
        strides = (rate * seconds).astype(np.float32)
        east, north = np.sin(columns["heading"]), np.cos(columns["heading"])
        for side, sign, offset in zip(SIDES, (1, -1), (0.0, 0.5), strict=True):
            angle = np.float32(TAU) * (strides + columns["phase"] + np.float32(offset))
            back = np.cos(angle)
            curves[f"{side}_foot_forward"] -= stride * north * back
            curves[f"{side}_foot_out"] -= sign * stride * east * back
            curves[f"{side}_foot_up"] += lift * np.maximum(np.sin(angle), 0)
            curves[f"{side}_arm_elevation"] += columns["swing"] * back
        # A body sinks when its feet are far apart.
        curves["up"] -= (0.35 * stride**2 + 0.04 * lift) * (1 + np.cos(2 * angle))
        way = 4 * stride * going * strides
        return np.stack([way * east, climb * strides, way * north])


@dataclass(frozen=True)
class Jump:
    """One jump a cycle of ``height``, ``air`` cycles long, with a crouch ``dip`` before and after; ``flip`` saltos."""

    height: np.ndarray
    dip: np.ndarray
    air: np.ndarray
    flip: np.ndarray

    @classmethod
    def draw(cls, dice: Dice, upright: np.ndarray, rate: np.ndarray, leg: np.ndarray) -> Jump:
        """Jumps for some of those who are ``upright``, as high as ``leg`` (N,) metres and the cycle's time allow."""
        active = upright & dice.chance(0.13)
        height = np.minimum(dice.uniform(0.05, 0.65), _GRAVITY * (0.55 / rate) ** 2 / 8 / leg)
        seconds = np.sqrt(8 * height * leg / _GRAVITY)
        flip = dice.chance(0.1) * np.where(dice.chance(0.5), 1, -1) * (seconds > 0.45)
        return cls(active * height, active * dice.uniform(0.02, 0.35), seconds * rate, active * flip)

    def apply(self, curves: dict[str, np.ndarray], cycles: np.ndarray) -> np.ndarray:
        """Crouch and roll over; returns the height above the floor (N, T) at ``cycles`` (N, T)."""
        height, dip, air, flip = (value[:, None] for value in vars(self).values())
        part = cycles % 1
        share = np.clip((part - _TAKE_OFF) / air, 0, 1)
        before, after = part / _TAKE_OFF, (part - _TAKE_OFF - air) / (1 - _TAKE_OFF - air)
        crouch = np.sin(np.pi * np.clip(before, 0, 1)) ** 2 + np.sin(np.pi * np.clip(after, 0, 1)) ** 2
        curves["up"] -= (dip * crouch).astype(np.float32)
        curves["pitch"] += (TAU * flip * smoothstep(share)).astype(np.float32)
        return np.asarray((height * 4 * share * (1 - share)).astype(np.float32))


@dataclass(frozen=True)
class Turn:
    """A turn of the whole body by ``angle`` from ``begin`` on, ``span`` seconds long, which the clip may cut."""

    angle: np.ndarray
    begin: np.ndarray
    span: np.ndarray

    @classmethod
    def draw(cls, dice: Dice, seconds: np.ndarray) -> Turn:
        """Turns for some of the clips that last ``seconds`` (N,)."""
        span = dice.uniform(0.6, 1) * np.maximum(seconds, 1)
        angle = np.minimum(dice.logarithmic(0.2, 2 * TAU), 4 * span) * np.where(dice.chance(0.5), 1, -1)
        return cls(dice.chance(0.25) * angle, dice.uniform(-0.3, 0.6) * seconds, span)

    def yaw(self, seconds: np.ndarray) -> np.ndarray:
        """(N, T) radians to the left."""
        angle, begin, span = (value[:, None] for value in vars(self).values())
        return np.asarray((angle * smoothstep((seconds - begin) / span)).astype(np.float32))


@dataclass(frozen=True)
class Pair:
    """Two hands on one thing, such as a bat, a bar or a ball; ``held`` or not, ``gap`` arm lengths between them."""

    held: np.ndarray
    gap: np.ndarray

    @classmethod
    def draw(cls, dice: Dice) -> Pair:
        return cls(dice.chance(0.2), np.where(dice.chance(0.5), dice.uniform(0.05, 0.2), dice.uniform(0.2, 0.9)))

    def apply(self, curves: dict[str, np.ndarray]) -> None:
        """Let the left arm's curves lead the thing, seen from the middle of the chest, and the right one's tilt it."""
        chosen = np.flatnonzero(self.held)
        azimuth, elevation, elbow, reach = (curves[f"left_{name}"][chosen] for name in ARMS)
        half = 0.5 * self.gap[chosen, None].astype(np.float32) * (0.6 + 0.4 * curves["right_arm_reach"][chosen])
        tilt = 0.3 * curves["right_arm_elevation"][chosen]
        far, aim = 0.25 + 0.6 * reach, 0.85 * azimuth - 0.55  # an arm reaches out further than across
        x, y, z = far * np.cos(elevation) * np.sin(aim), far * np.sin(elevation), far * np.cos(elevation) * np.cos(aim)
        for side, sign in zip(SIDES, (1, -1), strict=True):
            out, up = sign * x + half * np.cos(tilt) - np.float32(_SOCKET), y + sign * half * np.sin(tilt)
            level = np.hypot(out, z)
            found = np.arctan2(out, z), np.arctan2(up, level), 0.7 * elbow, np.hypot(level, up)
            for name, value in zip(ARMS, found, strict=True):
                curves[f"{side}_{name}"][chosen] = value


"""The puppet: many bodies at once, from curves of posture and limbs to the 17 joints of COCO in space.

Local axes are x to the body's left, y up, z forward, with the floor at y = 0. Arrays (N, T, 3) lie in memory with the
coordinate outermost, because short inner loops are slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skelcore.body import two_bones
from skelcore.dice import Dice

SIDES = ("left", "right")
# Of the whole body: place of the pelvis (leg lengths), tilt of the pelvis, spine and head relative to what bears them.
BODY = ("x", "up", "z", "pitch", "roll", "flex", "side", "twist", "nod", "look")
# Of each side. A foot is drawn to a place in the local axes by ``foot_plant`` and else hangs on the hip in polar
# coordinates; so is a hand by ``hand_hold`` (``hand_up`` 0 = floor, 1 = bar overhead) and else hangs on the shoulder.
LIMBS = ("foot_plant", "foot_out", "foot_up", "foot_forward", "leg_flex", "leg_apart", "leg_knee", "leg_reach",
         "hand_hold", "hand_out", "hand_up", "hand_forward")
ARMS = ("arm_azimuth", "arm_elevation", "arm_elbow", "arm_reach")

# Nose, eyes and ears in head heights from the head's centre.
_FACE = ((0, -0.06, 0.42), (0.135, 0.05, 0.335), (-0.135, 0.05, 0.335), (0.305, -0.01, 0), (-0.305, -0.01, 0))

Curves = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Build:
    """Proportions of N bodies in metres, each (N, 1) float32."""

    torso: np.ndarray
    shoulder: np.ndarray
    hip: np.ndarray
    upper_arm: np.ndarray
    forearm: np.ndarray
    thigh: np.ndarray
    shin: np.ndarray
    head: np.ndarray

    @classmethod
    def draw(cls, dice: Dice) -> Build:
        """Random persons, children and odd skeletons of pose estimators among them."""
        height = 1.7 * np.exp(dice.normal(0.08, 1))
        means = np.array([0.295, 0.113, 0.056, 0.166, 0.146, 0.242, 0.236, 0.134])
        spread = np.array([0.06, 0.09, 0.15, 0.06, 0.06, 0.06, 0.06, 0.12])
        lengths = height * means * np.exp(spread * dice.normal(1, 8))
        return cls(*lengths.astype(np.float32).T[..., None])

    @property
    def arm(self) -> np.ndarray:
        return self.upper_arm + self.forearm

    @property
    def leg(self) -> np.ndarray:
        return self.thigh + self.shin


class Frame(NamedTuple):
    """The axes of a body part as vectors (N, T, 3)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def upright(cls, like: np.ndarray) -> Frame:
        """The local axes themselves, as often as ``like`` (N, T) has entries."""
        zero = np.zeros_like(like)
        return cls(vector(zero + 1, zero, zero), vector(zero, zero + 1, zero), vector(zero, zero, zero + 1))

    def turned(self, axis: int, angle: np.ndarray) -> Frame:
        """Turned by (N, T) radians about one of its own axes, right-handed."""
        i, j = (axis + 1) % 3, (axis + 2) % 3
        cosine, sine = np.cos(angle)[..., None], np.sin(angle)[..., None]
        axes = list(self)
        axes[i], axes[j] = cosine * self[i] + sine * self[j], cosine * self[j] - sine * self[i]
        return Frame(*axes)

    def at(self, x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
        """The vector (N, T, 3) with these coordinates, each a number or (N, T)."""
        parts = [np.asarray(part, np.float32)[..., None] * axis for part, axis in zip((x, y, z), self, strict=True)]
        return parts[0] + parts[1] + parts[2]


def vector(*parts: np.ndarray | float) -> np.ndarray:
    """(N, T, 3) from coordinates, with the coordinate outermost in memory."""
    return np.moveaxis(np.stack(np.broadcast_arrays(*parts)).astype(np.float32), 0, -1)


def joints(build: Build, curves: Curves) -> np.ndarray:
    """Joints (17, N, T, 3) in metres, in COCO order; ``curves`` name (N, T) float32 radians, or shares of a length."""
    leg = build.leg
    world = Frame.upright(curves["x"])
    pelvis = vector(curves["x"] * leg, (curves["up"] + 0.09) * leg, curves["z"] * leg)
    seat = world.turned(0, curves["pitch"]).turned(2, curves["roll"])
    torso = seat.turned(1, curves["twist"]).turned(0, curves["flex"]).turned(2, -curves["side"])
    neck = pelvis + torso.at(0, 0.95 * build.torso, 0)
    points = _head(build, curves, neck, torso)
    for limb in ([_arm(build, curves, side, neck, torso) for side in SIDES],
                 [_leg(build, curves, side, pelvis, seat, world) for side in SIDES]):
        points += [each for both in zip(*limb, strict=True) for each in both]
    return np.moveaxis(np.stack([np.moveaxis(point, -1, 0) for point in points], 1), 0, -1)


def _head(build: Build, curves: Curves, neck: np.ndarray, torso: Frame) -> list[np.ndarray]:
    head = torso.turned(1, curves["look"]).turned(0, curves["nod"])
    centre = neck + torso.at(0, 0.04 * build.torso, 0) + head.at(0, 0.7 * build.head, 0.06 * build.head)
    return [centre + head.at(*(share * build.head for share in place)) for place in _FACE]


def _arm(build: Build, curves: Curves, side: str, neck: np.ndarray, torso: Frame) -> list[np.ndarray]:
    azimuth, elevation, elbow, reach = (curves[f"{side}_{name}"] for name in ARMS)
    hold, out, up, forward = (curves[f"{side}_{name}"] for name in LIMBS[8:])
    sign = 1 if side == "left" else -1
    socket = neck + torso.at(sign * build.shoulder, 0, 0)
    sine, cosine, rise, flat = np.sin(azimuth), np.cos(azimuth), np.sin(elevation), np.cos(elevation)
    far = reach * build.arm
    goal = socket + torso.at(sign * sine * flat * far, rise * far, cosine * flat * far)
    # The elbow points along the meridian (down, for an arm held forward) or, by the angle ``elbow``, outwards.
    low, wide = np.cos(elbow), np.sin(elbow)
    pole = torso.at(sign * (low * sine * rise + wide * cosine), -low * flat, low * cosine * rise - wide * sine)
    bar = 1.05 * build.leg + 0.95 * build.torso + 0.97 * build.arm
    grip = vector(sign * (build.shoulder + out * build.arm), up * bar + 0.03, forward * build.leg)
    share = hold[..., None]
    goal = goal + share * (grip - goal)
    pole = pole + share * (torso.at(0.8 * sign, -0.6, 0.2) - pole)
    # Collar bones follow an arm that is raised.
    lift = 0.3 * np.clip(((goal - socket) * torso.y).sum(-1) / build.arm, 0, 1)
    shoulder = neck + torso.at(sign * build.shoulder * np.cos(lift), build.shoulder * np.sin(lift), 0)
    return [shoulder, *two_bones(shoulder, goal, pole, build.upper_arm[..., None], build.forearm[..., None])]


def _leg(build: Build, curves: Curves, side: str, pelvis: np.ndarray, seat: Frame, world: Frame) -> list[np.ndarray]:
    plant, out, up, forward, flex, apart, knee, reach = (curves[f"{side}_{name}"] for name in LIMBS[:8])
    sign = 1 if side == "left" else -1
    hip = pelvis + seat.at(sign * build.hip, 0, 0)
    far = reach * build.leg
    rise, flat, wide, near = np.sin(flex), np.cos(flex), np.sin(apart), np.cos(apart)
    goal = hip + seat.at(sign * wide * far, -near * flat * far, near * rise * far)
    ahead, aside = np.cos(knee), np.sin(knee)
    pole = seat.at(sign * aside * near, ahead * rise + aside * wide * flat, ahead * flat - aside * wide * rise)
    floor = vector(sign * (build.hip + out * build.leg), (up + 0.09) * build.leg, forward * build.leg)
    share = plant[..., None]
    goal = goal + share * (floor - goal)
    pole = pole + share * (seat.at(sign * np.tan(np.clip(knee, -1.2, 1.2)), 0, 1) + 0.5 * world.z - pole)
    return [hip, *two_bones(hip, goal, pole, build.thigh[..., None], build.shin[..., None])]

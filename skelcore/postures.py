"""Postures as data: what people's bodies do in sport, exercise and daily life, and what each easily turns into.

The channels are those of the puppet (`skelcore.puppet`): angles in degrees, lengths in leg lengths (hands: arm
lengths). ``left_`` and ``right_`` set one side, a name without them both; what is not said is as in a person standing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from skelcore.puppet import ARMS, BODY, LIMBS, SIDES

CHANNELS = (*BODY, *(f"{side}_{name}" for side in SIDES for name in LIMBS))
_ANGLES = {"pitch", "roll", "flex", "side", "twist", "nod", "look", "leg_flex", "leg_apart", "leg_knee"}

_STANDING = {"up": 0.97, "foot_plant": 1.0, "foot_out": 0.1, "leg_flex": 5.0, "leg_apart": 4.0, "leg_knee": 8.0,
             "leg_reach": 0.97, "hand_out": 0.15}
# How far each channel strays between keys and between persons.
_STRAY = {"x": 0.03, "up": 0.025, "z": 0.03, "pitch": 6.0, "roll": 4.0, "flex": 8.0, "side": 7.0, "twist": 13.0,
          "nod": 10.0, "look": 20.0, "foot_out": 0.05, "foot_up": 0.012, "foot_forward": 0.06, "leg_flex": 13.0,
          "leg_apart": 7.0, "leg_knee": 12.0, "leg_reach": 0.06, "hand_out": 0.1, "hand_up": 0.01,
          "hand_forward": 0.05}
# Azimuth (0 forward, 90 out), elevation, where the elbow points (0 down, 90 out), reach; how often.
_PLACES = {
    "hanging": (20, -80, 12, 0.97, 4.0), "hip": (50, -62, 60, 0.68, 1.0), "guard": (-15, -25, 40, 0.5, 1.5),
    "forward": (0, 0, 30, 0.95, 1.5), "sideways": (85, 0, 20, 0.96, 1.5), "overhead": (30, 82, 40, 0.95, 2.0),
    "face": (-10, 30, 45, 0.42, 1.0), "nape": (60, 70, 80, 0.4, 0.7), "across": (-42, -12, 40, 0.75, 1.0),
    "low": (0, -50, 20, 0.88, 1.5), "behind": (145, -50, 0, 0.9, 0.7), "high": (10, 45, 35, 0.93, 1.5),
    "cocked": (100, 10, 20, 0.6, 1.0), "lap": (0, -60, 40, 0.75, 1.0), "diagonal": (70, 45, 30, 0.95, 1.0),
}


@dataclass(frozen=True)
class Posture:
    """``values`` of channels, how often it begins a clip, what it turns into, and whether one can step and jump."""

    often: float
    values: dict[str, float]
    into: tuple[str, ...] = ()
    upright: bool = False


_HANG = {"up": 1.05, "foot_plant": 0.0, "hand_hold": 1.0, "hand_up": 1.0, "hand_out": 0.1}
_BACK = {"up": 0.02, "pitch": -88.0, "foot_plant": 0.0, "leg_reach": 0.98}
_KNEES_UP = {"up": 0.02, "pitch": -88.0, "foot_forward": 0.55}
_FRONT = {"up": 0.02, "pitch": 88.0, "foot_plant": 0.0, "leg_flex": -3.0, "leg_reach": 0.98, "nod": -25.0}
_PLANK = {"up": 0.33, "pitch": 73.0, "foot_forward": -0.88, "hand_hold": 1.0, "hand_forward": 0.57, "nod": -15.0}
_FOURS = {"up": 0.42, "pitch": 84.0, "foot_forward": -0.46, "hand_hold": 1.0, "hand_forward": 0.55, "nod": -25.0}
_KNEEL = {"up": 0.42, "foot_forward": -0.46, "foot_out": 0.06}
_SIDE = {"up": 0.05, "roll": 88.0, "foot_plant": 0.0, "leg_flex": 15.0, "leg_apart": 2.0}

POSTURES: dict[str, Posture] = {
    "stand": Posture(22, {}, ("squat", "ready", "sit", "bend", "knee lift", "kick", "lunge", "wide", "arabesque",
                              "tiptoe", "reach back", "half kneel"), True),
    "ready": Posture(7, {"up": 0.86, "pitch": 22, "flex": 12, "foot_out": 0.25, "nod": -12},
                     ("stand", "squat", "lunge", "side lunge", "kick", "bend", "reach back"), True),
    "wide": Posture(5, {"up": 0.88, "foot_out": 0.42}, ("side lunge", "bend", "squat", "stand", "ready"), True),
    "stride": Posture(6, {"up": 0.9, "left_foot_forward": 0.4, "right_foot_forward": -0.3, "left_foot_out": 0.05,
                          "right_foot_out": 0.05}, ("lunge", "ready", "stand", "reach back", "kick"), True),
    "tiptoe": Posture(1, {"up": 1.04, "foot_up": 0.06}, ("stand", "squat", "bend"), True),
    "squat": Posture(3, {"up": 0.45, "z": -0.2, "pitch": 32, "flex": 12, "foot_out": 0.2, "leg_knee": 25, "nod": -20},
                     ("stand", "tiptoe", "plank", "ready", "crouch"), True),
    "crouch": Posture(1, {"up": 0.2, "z": -0.1, "pitch": 25, "flex": 30, "foot_out": 0.12, "leg_knee": 20, "nod": -20},
                      ("stand", "ready", "plank", "tiptoe")),
    "lunge": Posture(2, {"up": 0.6, "left_foot_forward": 0.5, "right_foot_forward": -0.6, "right_foot_up": 0.06,
                         "foot_out": 0.05}, ("stand", "half kneel", "stride", "knee lift"), True),
    "side lunge": Posture(2, {"up": 0.62, "x": 0.35, "pitch": 20, "foot_out": 0.6}, ("wide", "stand", "ready"), True),
    "bend": Posture(3, {"up": 0.96, "z": -0.12, "pitch": 45, "flex": 48, "nod": -5}, ("stand", "wide", "squat",
                                                                                  "reach back", "down dog"), True),
    "knee lift": Posture(2, {"up": 0.97, "left_foot_plant": 0, "left_leg_flex": 80, "left_leg_reach": 0.7},
                         ("stand", "kick", "lunge", "stride"), True),
    "kick": Posture(2, {"up": 0.97, "left_foot_plant": 0, "left_leg_flex": 75, "left_leg_apart": 12,
                        "left_leg_reach": 0.98, "pitch": -14, "flex": -5},
                    ("stand", "knee lift", "swing back", "ready"), True),
    "swing back": Posture(1, {"up": 0.95, "left_foot_plant": 0, "left_leg_flex": -40, "left_leg_reach": 0.8,
                              "pitch": 15}, ("kick", "stand", "knee lift"), True),
    "arabesque": Posture(1, {"up": 0.97, "left_foot_plant": 0, "left_leg_flex": -35, "left_leg_reach": 0.97,
                             "pitch": 48, "nod": -30}, ("stand", "knee lift", "kick"), True),
    "reach back": Posture(2, {"up": 0.94, "pitch": -10, "flex": -18, "twist": 45, "left_foot_forward": 0.2,
                              "right_foot_forward": -0.2}, ("bend", "ready", "stride", "stand"), True),
    "sit": Posture(6, {"up": 0.44, "z": -0.05, "foot_forward": 0.45, "nod": 5},
                   ("stand", "sit forward", "sit", "ready", "sit leg")),
    "sit forward": Posture(1, {"up": 0.44, "pitch": 25, "flex": 25, "foot_forward": 0.42}, ("stand", "sit")),
    "sit leg": Posture(1, {"up": 0.44, "left_foot_plant": 0, "left_leg_flex": 85, "left_leg_reach": 0.95,
                           "foot_forward": 0.45}, ("sit",)),
    "cross-legged": Posture(2, {"up": 0.02, "foot_forward": 0.3, "foot_out": -0.12, "leg_knee": 60, "flex": 8},
                            ("sit floor", "kneel", "crouch")),
    "sit floor": Posture(3, {"up": 0.02, "foot_plant": 0, "leg_flex": 86, "leg_reach": 0.98, "pitch": -4, "flex": 8},
                         ("fold", "lie", "knees up", "cross-legged", "straddle", "boat")),
    "fold": Posture(1, {"up": 0.02, "foot_plant": 0, "leg_flex": 115, "leg_reach": 0.98, "pitch": 30, "flex": 40},
                    ("sit floor", "lie")),
    "straddle": Posture(1, {"up": 0.02, "foot_plant": 0, "leg_flex": 86, "leg_apart": 48, "leg_reach": 0.97},
                        ("sit floor", "fold")),
    "knees up": Posture(2, {"up": 0.02, "pitch": -15, "flex": 20, "foot_forward": 0.5},
                        ("lie bent", "sit floor", "crouch", "boat")),
    "boat": Posture(1, {"up": 0.03, "pitch": -35, "flex": 8, "foot_plant": 0, "leg_flex": 70, "leg_reach": 0.88},
                    ("lie", "knees up", "sit floor")),
    "kneel": Posture(2, _KNEEL, ("heels", "fours", "half kneel", "stand", "backbend")),
    "heels": Posture(1, {"up": 0.14, "foot_forward": -0.05, "foot_out": 0.05}, ("kneel", "child", "fours")),
    "backbend": Posture(0.3, {**_KNEEL, "pitch": -25, "flex": -25}, ("kneel",)),
    "half kneel": Posture(1, {"up": 0.42, "left_foot_forward": 0.42, "right_foot_forward": -0.46},
                          ("stand", "kneel", "lunge")),
    "child": Posture(0.4, {"up": 0.14, "foot_forward": -0.05, "pitch": 60, "flex": 30}, ("heels", "fours")),
    "lie": Posture(3, _BACK, ("knees up", "sit floor", "legs up", "lie bent", "lie side", "boat", "lie")),
    "legs up": Posture(1, {**_BACK, "leg_flex": 88}, ("lie", "fold", "lie bent")),
    "lie bent": Posture(5, _KNEES_UP, ("knees up", "crunch", "bridge", "lie bent", "legs up")),
    "crunch": Posture(1, {**_KNEES_UP, "flex": 38, "nod": 15}, ("lie bent", "knees up")),
    "bridge": Posture(1, {**_KNEES_UP, "up": 0.3, "pitch": -112, "foot_forward": 0.42}, ("lie bent", "lie")),
    "bench": Posture(4, {**_KNEES_UP, "up": 0.42, "foot_out": 0.22, "foot_forward": 0.45}, ("bench",)),
    "lie front": Posture(1, _FRONT, ("cobra", "superman", "plank", "lie front")),
    "cobra": Posture(0.5, {**_FRONT, "pitch": 70, "flex": -38}, ("lie front", "plank", "down dog")),
    "superman": Posture(0.5, {**_FRONT, "leg_flex": -22, "flex": -22}, ("lie front",)),
    "lie side": Posture(1.5, _SIDE, ("side raise", "lie", "lie side")),
    "side raise": Posture(0.5, {**_SIDE, "left_leg_apart": 48, "left_leg_reach": 0.98}, ("lie side",)),
    "side plank": Posture(0.6, {"up": 0.27, "roll": 66, "right_hand_hold": 1, "right_hand_out": -0.2, "foot_out": 0,
                                "foot_plant": 0, "leg_flex": 2, "leg_apart": 0}, ("side plank", "lie side")),
    "plank": Posture(6, _PLANK, ("low plank", "low plank", "low plank", "down dog", "climber", "crouch", "fours")),
    "low plank": Posture(0.7, {**_PLANK, "up": 0.1, "pitch": 83, "foot_forward": -0.95}, ("plank", "cobra")),
    "climber": Posture(0.7, {**_PLANK, "left_foot_forward": -0.1, "left_foot_up": 0.05}, ("plank",)),
    "down dog": Posture(0.8, {"up": 0.76, "pitch": 125, "foot_forward": -0.4, "hand_hold": 1, "hand_forward": 0.9},
                        ("plank", "bend", "cobra")),
    "fours": Posture(1.5, _FOURS, ("cat", "plank", "heels", "donkey", "fours")),
    "cat": Posture(0.4, {**_FOURS, "flex": 22, "nod": 30}, ("fours",)),
    "donkey": Posture(0.5, {**_FOURS, "left_foot_plant": 0, "left_leg_flex": -5, "left_leg_reach": 0.97}, ("fours",)),
    "handstand": Posture(0.6, {"up": 1.13, "pitch": 180, "foot_plant": 0, "leg_flex": 3, "hand_hold": 1},
                         ("handstand", "down dog")),
    "hang": Posture(5, _HANG, ("chin up", "chin up", "chin up", "leg raise", "hang swing", "hang")),
    "chin up": Posture(0.7, {**_HANG, "up": 1.52, "nod": -12, "leg_flex": 12}, ("hang",)),
    "leg raise": Posture(0.5, {**_HANG, "leg_flex": 88, "pitch": -8}, ("hang", "hang swing")),
    "hang swing": Posture(0.5, {**_HANG, "z": 0.4, "up": 1.12, "pitch": -28, "leg_flex": 20}, ("hang", "hang arch")),
    "hang arch": Posture(0.3, {**_HANG, "z": -0.35, "up": 1.1, "pitch": 25, "leg_flex": -20}, ("hang swing",)),
    "support": Posture(0.7, {"up": 0.9, "foot_plant": 0, "hand_hold": 1, "hand_up": 0.4, "hand_forward": 0.05,
                             "leg_flex": 15, "leg_reach": 0.85}, ("dip",)),
    "dip": Posture(0.4, {"up": 0.62, "foot_plant": 0, "hand_hold": 1, "hand_up": 0.4, "hand_forward": 0.05,
                         "leg_flex": 10, "leg_reach": 0.8, "pitch": 15}, ("support",)),
    "lean": Posture(1, {"hand_hold": 1, "hand_up": 0.45, "hand_forward": 0.45, "pitch": 18, "foot_forward": -0.15},
                    ("lean", "squat"), True),
}


def row(values: dict[str, float], angle: float = 1.0) -> np.ndarray:
    """Values by channel name as (D,), angles in radians; a value without a side is for both."""
    said = {f"{side}_{name}": values[name] for name in LIMBS if name in values for side in SIDES}
    said.update({name: value for name, value in values.items() if name not in LIMBS})
    scale = [np.pi / 180 if name.removeprefix("left_").removeprefix("right_") in _ANGLES else 1 for name in CHANNELS]
    return np.array([said.get(name, 0.0) for name in CHANNELS]) * scale


@cache
def table() -> np.ndarray:
    """The channels (P, D) of all postures."""
    return np.stack([row({**_STANDING, **posture.values}) for posture in POSTURES.values()])


@cache
def stray() -> np.ndarray:
    """Standard deviations (D,) of the channels."""
    return row(_STRAY)


@cache
def turns_into() -> tuple[np.ndarray, np.ndarray]:
    """Positions (P, Q) of the postures that each turns into, padded, and how many (P,) there are."""
    names, most = list(POSTURES), max(len(posture.into) for posture in POSTURES.values())
    rows = [[names.index(name) for name in posture.into] for posture in POSTURES.values()]
    return (np.array([found + [0] * (most - len(found)) for found in rows]), np.array([len(found) for found in rows]))


@cache
def places() -> tuple[np.ndarray, np.ndarray]:
    """Where free hands go (P, 4), in the order of ``ARMS``, and how often (P,)."""
    values = np.array(list(_PLACES.values()), float)
    values[:, :len(ARMS) - 1] *= np.pi / 180
    return values[:, :-1], values[:, -1]

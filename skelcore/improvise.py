"""Improvisation: a random program of motion for each of many clips, from random numbers to joints in space.

Trunk and legs pass through keys, each a whole posture (`skelcore.postures`) with random deviations. Each arm has keys
and a clock of its own, which often keeps step with the trunk's or the other arm's. Moves (`skelcore.moves`) and a
little trembling lie on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skelcore import puppet
from skelcore.dice import Dice
from skelcore.motions import TAU
from skelcore.moves import Gait, Jump, Pair, Turn
from skelcore.postures import CHANNELS, POSTURES, places, stray, table, turns_into
from skelcore.puppet import ARMS, SIDES, Build
from skelcore.track import KEYS, Track

_ALL = (*CHANNELS, *(f"{side}_{name}" for side in SIDES for name in ARMS))
_FASTEST = 1.8  # cycles a second
_LOWEST, _HIGHEST = np.array([-0.8, -1.5, 0.0, 0.4]), np.array([2.2, 1.5, 1.5, 1.0])  # what an arm can reach
_EFFORT = {"up": 2.0, "pitch": 1.3, "roll": 1.3, "left_foot_plant": 0.6, "right_foot_plant": 0.6,
           "left_foot_forward": 0.8, "right_foot_forward": 0.8}
_ARM_STRAY = np.array([0.18, 0.18, 0.25, 0.05])


@dataclass(frozen=True)
class Program:
    """The motions of N clips as functions of time.

    ``sway`` (3, D, N) are the size, rate and phase of a tremor of each channel, ``tempo`` (3, N) the strength, period
    in seconds and phase of the haste and delay that all clocks share.
    """

    build: Build
    tracks: tuple[Track, Track, Track]
    sway: np.ndarray
    tempo: np.ndarray
    gait: Gait
    jump: Jump
    turn: Turn
    pair: Pair

    def joints(self, seconds: np.ndarray) -> np.ndarray:
        """Joints (17, N, T, 3) float32 in metres at ``seconds`` (N, T); x left, y up, z to where the body began."""
        strength, period, phase = self.tempo[..., None]
        time = seconds + strength * period / TAU * np.sin(TAU * (seconds / period + phase))
        channels = np.concatenate([track.curves(time) for track in self.tracks])
        size, rate, phase = self.sway[..., None].astype(np.float32)
        channels += size * np.sin(np.float32(TAU) * (rate * seconds.astype(np.float32) + phase))
        curves = dict(zip(_ALL, channels, strict=True))
        self.pair.apply(curves)
        way = self.gait.apply(curves, time)
        way[1] += self.jump.apply(curves, self.tracks[0].clock(time))
        x, y, z = np.moveaxis(puppet.joints(self.build, curves), -1, 0)
        yaw = self.turn.yaw(seconds)
        left, up, forward = way * self.build.leg
        cosine, sine = np.cos(yaw), np.sin(yaw)
        return puppet.vector(cosine * x + sine * z + left, y + up, cosine * z - sine * x + forward)


def improvise(dice: Dice, seconds: np.ndarray) -> Program:
    """Draw the programs of N clips that last ``seconds`` (N,)."""
    postures = list(POSTURES.values())
    first = dice.choice([posture.often for posture in postures])
    upright = np.array([posture.upright for posture in postures])[first]
    once, again = dice.logarithmic(0.5, 1.4) / seconds, dice.logarithmic(0.3, _FASTEST)
    route = _route(dice, first)
    rate = np.minimum(np.where(dice.chance(0.45), once, again), _FASTEST / np.maximum(_effort(route), 1))
    build = Build.draw(dice)
    trunk = Track.draw(dice, _bodies(dice, route), dice.uniform(0, 1), rate)
    return Program(
        build, (trunk, *_arms(dice, trunk)), _sway(dice),
        tempo=np.stack([dice.uniform(0, 0.4), dice.uniform(1, 4), dice.uniform(0, 1)]),
        gait=Gait.draw(dice, upright, rate), jump=Jump.draw(dice, upright, rate, build.leg[:, 0]),
        turn=Turn.draw(dice, seconds), pair=Pair.draw(dice),
    )


def _route(dice: Dice, first: np.ndarray) -> np.ndarray:
    """Postures (N, K) of the keys: the ``first`` (N,) alone, or a walk to others and back."""
    other, third = _next(dice, first), _next(dice, first)
    second = np.where(dice.chance(0.65), other, first)
    third = np.where(dice.chance(0.5), _next(dice, second), third)
    third = np.where(dice.chance(0.4), third, first)
    return np.stack([first, second, third, second, first, second], 1)


def _next(dice: Dice, posture: np.ndarray) -> np.ndarray:
    others, count = turns_into()
    return np.asarray(others[posture, (dice.uniform(0, 1) * count[posture]).astype(int)])


def _effort(route: np.ndarray) -> np.ndarray:
    """How much longer than the shortest cycle (N,) a route takes, as the whole body has to be moved and turned."""
    change = np.ptp(table()[route], axis=1)
    return np.asarray(sum(weight * change[:, CHANNELS.index(name)] for name, weight in _EFFORT.items()))


def _bodies(dice: Dice, route: np.ndarray) -> np.ndarray:
    """Keys (N, K, D) of trunk and legs: the postures of a ``route`` (N, K) as this person does them this time."""
    home = table()[route[:, :1]]
    depth = np.where(route == route[:, :1], 1, dice.uniform(0.5, 1.1)[:, None])[..., None]
    own = dice.normal(1, 1, len(CHANNELS))
    varied = dice.logarithmic(0.15, 1.8)[:, None, None] * dice.normal(1, KEYS, len(CHANNELS))
    keys = home + depth * (table()[route] - home) + stray() * (own + varied)
    sides_change = dice.chance(0.25)[:, None] & (np.arange(KEYS) >= 2)
    swapped = sides_change ^ dice.chance(0.5)[:, None]
    return np.where(swapped[..., None], keys[..., _MIRROR] * _SIGN, keys)


def _arms(dice: Dice, trunk: Track) -> tuple[Track, Track]:
    """The arms' tracks: the right one as the left one, half a cycle behind it, in step with it, or on its own."""
    relation = dice.choice([30, 15, 30, 25])
    ratio = np.array([1, 0.5, 2])[dice.choice([6, 1, 1])]
    ratio = np.where(dice.chance(0.15), dice.logarithmic(0.4, 2.5), ratio)
    rate = np.minimum(ratio * trunk.rate, 1.2 * _FASTEST)
    calm = np.minimum(1.2 / rate, 1)  # fast motions are small
    left = Track.draw(dice, _reaches(dice, calm), trunk.phase + dice.chance(0.3) * dice.uniform(0, 1), rate)
    keys = np.where((relation < 2)[:, None, None], left.keys, _reaches(dice, calm))
    own = Track.draw(dice, keys, trunk.phase + dice.uniform(0, 1), rate)
    alone = relation == 3
    return left, Track(keys, np.where(alone[:, None], own.times, left.times), np.where(alone, own.count, left.count),
                       np.where(alone, own.phase, left.phase + 0.5 * (relation == 1)), rate)


def _reaches(dice: Dice, calm: np.ndarray) -> np.ndarray:
    """Keys (N, K, 4) of one arm: usual places of hands or anywhere; all the same, near each other or far apart."""
    where, often = places()
    usual = where[dice.choice(often, KEYS)] + _ARM_STRAY * dice.normal(1, KEYS, len(ARMS))
    anywhere = _LOWEST + (_HIGHEST - _LOWEST) * dice.uniform(0, 1, KEYS, len(ARMS))
    keys = np.where(dice.chance(0.65, KEYS, 1), usual, anywhere)
    hanging = where[0] + _ARM_STRAY * dice.normal(1, len(ARMS))
    keys[:, 0] = np.where(dice.chance(0.4)[:, None], hanging, keys[:, 0])
    activity = np.array([0, 0.3, 1])[dice.choice([2, 2, 6])] * dice.uniform(0.7, 1) * calm
    keys = keys[:, :1] + activity[:, None, None] * (keys - keys[:, :1])
    keys[..., 3] = np.clip(keys[..., 3], 0.3, 1)
    return keys


def _sway(dice: Dice) -> np.ndarray:
    """Trembling (3, D, N) of everything, and a wave, shake or beat of some arms."""
    shape = len(_ALL)
    usual = 0.15 * np.concatenate([stray(), np.tile(_ARM_STRAY, len(SIDES))])
    size = usual[:, None] * dice.logarithmic(0.3, 2.5) * dice.normal(1, shape).T
    rate, phase = dice.uniform(0.1, 0.9, shape).T.copy(), dice.uniform(0, 1, shape).T
    beat = dice.logarithmic(0.6, 3)
    for side in SIDES:
        active = dice.chance(0.14)
        for name in ARMS[:2]:
            channel, strong = _ALL.index(f"{side}_{name}"), active & dice.chance(0.7)
            size[channel] = np.where(strong, dice.uniform(0.1, 0.6) / np.maximum(beat, 1), size[channel])
            rate[channel] = np.where(strong, beat, rate[channel])
    return np.stack([size, rate, phase])


def _across(name: str) -> int:
    """The channel that takes this one's part when left and right are exchanged."""
    side, _, part = name.partition("_")
    return CHANNELS.index(f"{_OPPOSITE[side]}_{part}" if side in _OPPOSITE else name)


_OPPOSITE = dict(zip(SIDES, reversed(SIDES), strict=True))
_MIRROR = [_across(name) for name in CHANNELS]
_SIGN = np.where(np.isin(CHANNELS, ["x", "roll", "side", "twist", "look"]), -1, 1)

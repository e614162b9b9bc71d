"""Procedural clips: as many unlabelled poses of moving people as wanted, made from a seed when they are read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skelcore.dice import Dice
from skelcore.errors import InputError
from skelcore.improvise import Program, improvise
from skelcore.layouts import get
from skelcore.names import LazyNames
from skelcore.puppet import vector
from skelcore.resample import clear_missing
from skelcore.sequence import PoseSequence

_URI = re.compile(r"procedural:([0-9]{1,9})(?:\?seed=([0-9]{1,9}))?")
_VERSION = 1  # part of the fingerprint: another number whenever the same seed makes other clips
_STEP = 64  # clips made at a time: enough to spread the cost of the calls, few enough for the processor's cache
_LOOKS = 9  # instants by which the camera is set up
_SIZES = np.array([[270, 480], [360, 480], [480, 360], [320, 320], [480, 270]])
_RATES = np.array([10.0, 15.0, 25.0, 30.0])
_FRAMES = 20, 150


def read(uri: str) -> ProceduralStore:
    """The store of ``procedural:COUNT`` or ``procedural:COUNT?seed=SEED``; raises InputError for anything else."""
    found = _URI.fullmatch(uri)
    if found is None or int(found[1]) < 1:
        raise InputError(f"data={uri}: expected procedural:COUNT or procedural:COUNT?seed=SEED, such as "
                         "procedural:20000?seed=3")
    return ProceduralStore(int(found[1]), int(found[2] or 0))


class ProceduralStore:
    """``count`` clips of one person each, a ``Store`` without labels; clip i is a pure function of ``seed`` and i.

    A clip is a motion continuous in time: ``clips`` samples it at as many instants as it is asked for, ``store[i]`` at
    its own 20 to 150 frames, 10 to 30 a second. Nothing is kept in memory. Scores are 1, 0.5 behind the own trunk and
    0 outside of the frame.
    """

    channels = 2
    layout = get("coco17")
    classes: Sequence[str] = ()

    def __init__(self, count: int, seed: int = 0) -> None:
        self._count, self._seed = count, seed
        self.ids: Sequence[str] = Numbered(seed, count)
        self.groups = self.ids
        self.fingerprint = hashlib.sha256(f"procedural {_VERSION} {seed} {count}".encode()).hexdigest()

    @property
    def labels(self) -> np.ndarray:
        return np.broadcast_to(np.int64(-1), self._count)

    @property
    def splits(self) -> dict[str, list[str]]:
        return {}

    @property
    def group_codes(self) -> np.ndarray:
        """Numbers (n,) int64, another for each clip and seed."""
        return np.arange(self._count, dtype=np.int64) + ((self._seed + 1) << 32)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> PoseSequence:
        index = range(len(self))[index]
        scene = Scene.draw(self._seed, np.array([index]))
        keypoints, scores = scene.film(int(scene.frames[0]))
        height, width = scene.size[0].tolist()
        return PoseSequence(keypoints, scores, self.layout, (height, width), float(scene.fps[0]), self.ids[index])

    def clips(self, positions: Sequence[int] | np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Clips at ``frames`` instants spread evenly: keypoints (N, 1, frames, 17, 2), scores (N, 1, frames, 17)."""
        positions = np.asarray(positions, np.int64)
        keypoints = np.empty((len(positions), 1, frames, 17, 2), np.float32)
        scores = np.empty(keypoints.shape[:-1], np.float32)
        for begin in range(0, len(positions), _STEP):
            step = slice(begin, begin + _STEP)
            scene = Scene.draw(self._seed, positions[step])
            keypoints[step, 0], scores[step, 0] = scene.film(frames)
        return keypoints, scores


class Numbered(LazyNames):
    """``procedural-SEED/00000000`` and on."""

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count

    def __len__(self) -> int:
        return self._count

    def _name(self, index: int) -> str:
        return f"procedural-{self._seed}/{index:08d}"


@dataclass(frozen=True)
class Scene:
    """N improvised motions before N cameras; ``size`` (N, 2) height and width, ``frames`` and ``fps`` (N,).

    ``view`` (4, N) yaw, pitch, roll (radians) and distance (metres), ``follow`` (N,) how far the camera goes with the
    person, ``framing`` (3, N) share of the frame that the motion fills and the place of its middle as shares of the
    frame, ``drift`` (3, 3, N) of zoom (log), x and y (shares): trend over the clip, size and cycles of a sway.
    """

    program: Program
    size: np.ndarray
    frames: np.ndarray
    fps: np.ndarray
    view: np.ndarray
    follow: np.ndarray
    framing: np.ndarray
    drift: np.ndarray

    @classmethod
    def draw(cls, seed: int, positions: np.ndarray) -> Scene:
        """The scenes of the clips at ``positions`` (N,)."""
        dice = Dice([(seed, int(i)) for i in positions])
        size = _SIZES[dice.choice([3, 3, 2, 1, 2])]
        fps = _RATES[dice.choice([1, 1, 2, 4])]
        frames = np.clip(np.rint(dice.logarithmic(_FRAMES[0], _FRAMES[1])), *_FRAMES)
        program = improvise(dice, (frames - 1) / fps)
        yaw = np.where(dice.chance(0.35), dice.normal(0.35), dice.uniform(-np.pi, np.pi))
        yaw = np.where(dice.chance(0.25), np.where(dice.chance(0.5), 1, -1) * (np.pi / 2 + dice.normal(0.2)), yaw)
        pitch = np.where(dice.chance(0.85), dice.normal(0.12) + 0.08, dice.uniform(-0.4, 1.0))
        roll = np.where(dice.chance(0.9), dice.normal(0.03), dice.normal(0.15))
        view = np.stack([yaw, pitch, roll, dice.logarithmic(2.5, 12)])
        close = dice.chance(0.18)
        share = np.where(close, dice.uniform(0.95, 1.35), dice.uniform(0.4, 0.95))
        middle = 0.5 + dice.normal(0.05, 2).T * np.where(close, 2, 0.7)
        calm = dice.chance(0.5)
        drift = np.stack([dice.normal(1, 3).T, dice.normal(1, 3).T, dice.uniform(0.3, 2.5, 3).T], 1)
        drift[:, :2] *= np.array([0.12, 0.06, 0.04])[:, None, None] * np.where(calm, 0.1, 1)
        drift[:, 1] *= 0.3
        follow = np.where(dice.chance(0.6), dice.uniform(0.8, 1), dice.uniform(0, 0.5))
        return cls(program, size, frames, fps, view, follow, np.concatenate([share[None], middle]), drift)

    def film(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (N, frames, 17, 2) in pixels and scores (N, frames, 17), 0 outside of the frame."""
        duration = ((self.frames - 1) / self.fps)[:, None]
        shares = np.concatenate([np.linspace(0, 1, frames) if frames > 1 else [0.5], np.linspace(0, 1, _LOOKS)])
        points = self.program.joints(duration * shares)
        flat, depth = self._project(points)
        pixels = self._framed(flat, shares)[..., :frames, :]
        scores = np.where(_hidden(pixels, depth[..., :frames]), np.float32(0.5), np.float32(1))
        extent = self.size[:, None, ::-1].astype(np.float32)
        scores *= ((pixels >= 0) & (pixels <= extent - 1)).all(-1)
        keypoints = np.ascontiguousarray(pixels.transpose(1, 2, 0, 3))
        scores = np.ascontiguousarray(scores.transpose(1, 2, 0))
        clear_missing(keypoints, scores)
        return keypoints, scores

    def _project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image coordinates (17, N, T, 2) at focal length 1, y down, and depths (17, N, T) in metres."""
        yaw, pitch, roll, distance = self.view[..., None].astype(np.float32)
        looks = points[..., -_LOOKS:, :]
        low, high = looks.min((0, 2)), looks.max((0, 2))
        root = 0.5 * (points[11] + points[12])
        off = (root - root[:, -1 - _LOOKS // 2, None]) * self.follow[:, None, None].astype(np.float32)
        seen = points - (0.5 * (low + high)[:, None] + off)
        x, y, z = np.moveaxis(seen, -1, 0)
        x, z = np.cos(yaw) * x + np.sin(yaw) * z, np.cos(yaw) * z - np.sin(yaw) * x
        y, z = np.cos(pitch) * y - np.sin(pitch) * z, np.sin(pitch) * y + np.cos(pitch) * z
        depth = np.maximum(distance - z, np.float32(0.5))
        x, y = x / depth, -y / depth
        return vector(np.cos(roll) * x - np.sin(roll) * y, np.sin(roll) * x + np.cos(roll) * y), depth

    def _framed(self, flat: np.ndarray, shares: np.ndarray) -> np.ndarray:
        looks = flat[..., -_LOOKS:, :]
        low, high = looks.min((0, 2)), looks.max((0, 2))
        size = self.size[:, ::-1]
        least = 0.6 / self.view[3, :, None]  # a person seen end on is still as large as this
        scale = self.framing[0] * (size / np.maximum(high - low, least)).min(-1)
        trend, sway, cycles = self.drift[..., None].swapaxes(0, 1)
        zoom, *shift = trend * (shares - 0.5) + sway * np.sin(2 * np.pi * cycles * shares)
        scale = (scale[:, None] * np.exp(zoom)).astype(np.float32)
        place = [(self.framing[1 + axis, :, None] + shift[axis]) * size[:, axis, None] for axis in range(2)]
        return (flat - 0.5 * (low + high)[:, None]) * scale[..., None] + vector(*place)


def _hidden(pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Whether the own trunk lies before each joint (17, N, T)."""
    top, bottom = pixels[5:7].mean(0), pixels[11:13].mean(0)
    axis = bottom - top
    length = np.maximum((axis * axis).sum(-1), 1e-6)
    along = np.clip(((pixels - top) * axis).sum(-1) / length, 0, 1)
    gap = pixels - top - along[..., None] * axis
    near = depth[5:7].mean(0) + along * (depth[11:13].mean(0) - depth[5:7].mean(0))
    across = np.float32(0.045) * length
    found = ((gap * gap).sum(-1) < across) & (depth > near + 0.12)
    found[:5] = False
    return found

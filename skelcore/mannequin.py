"""The mannequin: videos of a procedural person in action, with the exact joints as ground truth.

The person (body, clothes, face, posture) and the take (view, style, light, background) have a seed each, so that
people and views can be held out apart from each other. Actions differ in motion only, never in looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from skelcore.body import POINTS, Body
from skelcore.errors import InputError
from skelcore.layouts import get
from skelcore.motions import MOTIONS, Style, move
from skelcore.scene import Camera, Occluder, background, framed
from skelcore.sequence import PoseSequence
from skelcore.shading import Capsules, Painter

ACTIONS: tuple[str, ...] = tuple(MOTIONS)

_PERSON, _TAKE, _SCENERY, _BYSTANDER = range(4)


@dataclass(frozen=True)
class Performance:
    """One clip of M persons over T frames; the first person does the action, others stand by.

    ``keypoints`` (M, T, 17, 2) pixels and ``joints`` (M, T, 17, 3) metres in COCO-17 order; ``visible`` (M, T, 17) is
    False where a joint is out of the frame or behind the own body, another person or the occluder. ``size`` is
    (height, width). Frames are drawn only by `render`.
    """

    action: str
    person: int
    take: int
    fps: float
    size: tuple[int, int]
    keypoints: np.ndarray
    joints: np.ndarray
    visible: np.ndarray
    capsules: Capsules = field(repr=False)
    camera: Camera = field(repr=False)
    drift: np.ndarray = field(repr=False)
    soles: np.ndarray = field(repr=False)
    occluder: Occluder | None = field(repr=False)

    def __len__(self) -> int:
        return self.keypoints.shape[1]

    def sequence(self) -> PoseSequence:
        """The truth as a sequence: score 1 where visible, 0.5 where hidden within the frame, 0 (missing) outside."""
        scores = np.where(self.visible, 1.0, 0.5 * _within(self.keypoints, self.size))
        return PoseSequence(self.keypoints, scores, get("coco17"), self.size, self.fps,
                            id=f"{self.action}_p{self.person:03d}_t{self.take:03d}",
                            meta={"action": self.action, "person": self.person, "take": self.take})

    def render(self, people: bool = True) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8 RGB one by one; without ``people`` the same scenery stands empty."""
        rng = _seeded(_SCENERY, self.take)
        light = np.array([rng.uniform(-0.8, 0.8), -rng.uniform(0.4, 1.0), -rng.uniform(0.5, 1.0)])
        ambient = rng.uniform(0.35, 0.6)
        level = rng.uniform(0.65, 0.95)
        scenery = background(rng, self.size, self._floor_line(rng))
        light *= (level - 0.5 * ambient) / np.linalg.norm(light)
        painter = Painter(self.size, self.capsules, light, ambient, rng)
        grain = rng.normal(0, rng.uniform(1, 5), (self.size[0] + 32, self.size[1] + 32, 3)).astype(np.int16)
        blur = rng.uniform(0.4, 0.9)
        for index in range(len(self)):
            frame = framed(scenery, self.drift[index], self.size)
            if people:
                self._shadow(frame, index)
                painter.paint(frame, index)
            if self.occluder is not None:
                self.occluder.paint(frame, self.drift[index])
            y, x = rng.integers(0, 32, 2)
            frame = cv2.GaussianBlur(frame, (3, 3), blur)
            yield cv2.add(frame, grain[y : y + self.size[0], x : x + self.size[1]], dtype=cv2.CV_8U)

    def _floor_line(self, rng: np.random.Generator) -> float:
        """Row where wall and floor meet: between the feet and the horizon."""
        feet = float(self.soles[0, ..., 1].max())
        return feet - rng.uniform(0.1, 0.9) * max(0.05 * self.size[0], feet - self.camera.horizon())

    def _shadow(self, frame: np.ndarray, index: int) -> None:
        for x, y, half in self.soles[:, index]:
            flat = half * (0.15 + abs(np.sin(self.camera.pitch)))
            low = np.clip([x - half, y - flat], 0, None).astype(int)
            view = frame[low[1] : max(int(y + flat) + 1, 0), low[0] : max(int(x + half) + 1, 0)]
            if view.size:
                rows, columns = np.ogrid[: view.shape[0], : view.shape[1]]
                away = ((columns + low[0] - x) / half) ** 2 + ((rows + low[1] - y) / flat) ** 2
                view[:] = view * (1 - 0.55 * np.clip(1 - away, 0, 1))[..., None]


def perform(action: str, person: int, take: int, *, seconds: float = 3.0, fps: float = 20.0,
            size: int | tuple[int, int] = 320, persons: int = 1, occluder: bool = False,
            away: float = 1.0) -> Performance:
    """Perform an action: ``person`` seeds body, posture and clothes; ``take`` seeds view, style, light and background.

    ``size`` is (height, width) or the side of a square, even; ``away`` how many times as far off the camera stands as
    for a person who fills the frame. Time is continuous: another ``fps`` samples the same motion. Raises InputError for
    an unknown action or a number out of range.
    """
    height, width = _checked(action, person, take, seconds, fps, size, persons)
    if not 1 <= away <= 20:
        raise InputError(f"away={away}: must be 1 to 20")
    rng = _seeded(_TAKE, take)
    camera = Camera.draw(rng, (height, width), persons > 1)
    camera = replace(camera, distance=camera.distance * away)
    style_seed = int(rng.integers(2**32))
    times = np.arange(max(1, round(seconds * fps))) / fps
    drift = camera.drift(times)
    bodies, points = [], []
    for number in range(persons):
        body = Body.draw(_seeded(_PERSON, person) if number == 0 else _seeded(_BYSTANDER, person, number))
        style = Style.draw(_seeded(style_seed, number), body.stance, body.lean)
        placed = body.points(move(action if number == 0 else None, times, style))
        bodies.append(body)
        points.append(placed + _place(number, camera.yaw, rng))
    capsules = _capsules(bodies, points, camera, drift)
    every = np.stack(points)
    joints = every[:, :, :17]
    projected = [camera.project(each, drift) for each in joints]
    keypoints = np.stack([pixels for pixels, _ in projected])
    box = np.concatenate([keypoints[0].min((0, 1)), keypoints[0].max((0, 1))])
    thing = Occluder.draw(_seeded(style_seed, persons, 1), box, (height, width)) if occluder else None
    visible = _within(keypoints, (height, width))
    for m, (pixels, depth) in enumerate(projected):
        visible[m] &= ~capsules.hidden(pixels, depth, bodies[m].flesh())
        if thing is not None:
            visible[m] &= ~thing.covers(pixels, drift)
    ground = every[:, :, POINTS["pelvis"]] * [1, 0, 1]
    shadows = [camera.project(each[:, None], drift) for each in ground]
    soles = np.stack([np.concatenate([pixels[:, 0], 0.42 * camera.focal / depth], -1) for pixels, depth in shadows])
    return Performance(action, person, take, fps, (height, width), keypoints.astype(np.float32),
                       joints.astype(np.float32), visible, capsules, camera, drift, soles, thing)


def write_video(performance: Performance, path: str | Path, people: bool = True) -> None:
    """Write the clip as H.264 MP4, complete or not at all; without ``people`` the same scenery stands empty."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    height, width = performance.size
    try:
        with av.open(str(part), "w", format="mp4") as container:
            rate = Fraction(performance.fps).limit_denominator(1001)
            # Without the last, x264's bytes vary from run to run, and with them what a pose model makes of the clip.
            options = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "cpu-independent=1"}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for image in performance.render(people):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _capsules(bodies: list[Body], points: list[np.ndarray], camera: Camera, drift: np.ndarray) -> Capsules:
    ends, radii, depths, every = [], [], [], []
    for body, placed in zip(bodies, points, strict=True):
        parts = body.parts()
        pixels, depth = camera.project(placed, drift)
        ends.append(pixels[:, parts.ends])
        depths.append(depth[:, parts.ends])
        radii.append(camera.focal * parts.radii / depths[-1])
        every.append(parts)
    return Capsules(np.concatenate(ends, 1), np.concatenate(radii, 1), np.concatenate(depths, 1),
                    np.concatenate([parts.radii.mean(-1) for parts in every]),
                    np.concatenate([parts.colours for parts in every]),
                    np.concatenate([parts.cloth for parts in every]))


def _place(number: int, yaw: float, rng: np.random.Generator) -> np.ndarray:
    """Where a person stands: the performer in the middle, others beside as the camera sees it and a little behind."""
    if number == 0:
        return np.zeros(3)
    side = (1 if number % 2 else -1) * (0.55 + 0.35 * number + rng.uniform(0, 0.2))
    back = rng.uniform(0.2, 0.9)
    return np.array([side * np.cos(yaw) + back * np.sin(yaw), 0, side * np.sin(yaw) - back * np.cos(yaw)])


def _within(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    inside = (keypoints >= 0) & (keypoints <= [size[1] - 1, size[0] - 1])
    return np.asarray(inside.all(-1))


def _seeded(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def _checked(action: str, person: int, take: int, seconds: float, fps: float, size: int | tuple[int, int],
             persons: int) -> tuple[int, int]:
    if action not in MOTIONS:
        near = get_close_matches(action, ACTIONS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(ACTIONS)}"
        raise InputError(f"action={action}: unknown; {hint}")
    if person < 0 or take < 0:
        raise InputError(f"person={person}, take={take}: seeds must be 0 or more")
    if not (0 < seconds <= 3600 and 0 < fps <= 240):
        raise InputError(f"seconds={seconds}, fps={fps}: must be above 0 and at most 3600 s and 240 frames/s")
    height, width = (size, size) if isinstance(size, int) else size
    if not (64 <= height <= 4096 and 64 <= width <= 4096) or height % 2 or width % 2:
        raise InputError(f"size={size}: height and width must be even and within 64..4096 pixels")
    if not 1 <= persons <= 4:
        raise InputError(f"persons={persons}: must be 1 to 4")
    return height, width

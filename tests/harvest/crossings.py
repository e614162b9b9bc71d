"""Rendered persons who walk past one another, out of the picture and into it, and how well tracks keep them apart."""

from dataclasses import replace

import numpy as np

from harvest.estimators import People
from harvest.extract import scan
from skelcore.mannequin import perform

RATE, SIZE, FRAMES = 15.0, (360, 960), 75
KINDS = ("cross", "leave", "enter", "three")


def routes(kind):
    """Places (G, T) of the hips; the later in the list, the nearer to the camera."""
    t = np.linspace(0, 1, FRAMES)
    right, left = 150 + 660 * t, 810 - 660 * t
    return np.stack({"cross": [right, left],
                     "leave": [150 + 1100 * t, np.full(FRAMES, 420.0)],
                     "enter": [np.full(FRAMES, 600.0), 1200 - 900 * t],
                     "three": [right, left, np.full(FRAMES, 480.0)],
                     "close": [np.full(FRAMES, 450.0), np.full(FRAMES, 500.0)]}[kind])


def scene(kind, seed):
    """Frames (T, H, W, 3), the true boxes (G, T, 4) of all joints and the shares (G, T) of the bodies in view, and
    boxes (G, T, 4) of who is partly in view.

    A box is nan while one of the joints is out of the picture; in the last, while none is, or all are.
    """
    places = routes(kind)
    seconds = FRAMES / RATE
    frames = np.empty((FRAMES, *SIZE, 3), np.uint8)
    frames[:] = np.linspace(90, 170, SIZE[0])[:, None, None]
    boxes, bodies = np.full((*places.shape, 4), np.nan), np.ones(places.shape)
    partly = boxes.copy()
    shown = np.full((FRAMES, *SIZE), -1, np.int8)
    for person, place in enumerate(places):
        number = 10 * seed + person
        clip = perform("walk_in_place", number, number, seconds=seconds, fps=RATE, size=320)
        clip = replace(clip, soles=clip.soles - [1e4, 1e4, 0])  # no shadow, which would hide whoever is behind
        middle = clip.keypoints[0, :, 11:13, 0].mean(1)
        for t, (whole, empty) in enumerate(zip(clip.render(), clip.render(people=False), strict=True)):
            shift = np.array([round(float(place[t] - middle[t])), 10 + 12 * person])
            at = np.argwhere((whole != empty).any(-1))
            to = at + shift[::-1]
            inside = ((to >= 0) & (to < SIZE)).all(1)
            frames[t][tuple(to[inside].T)] = whole[tuple(at[inside].T)]
            shown[t][tuple(to[inside].T)] = person
            bodies[person, t] = max(1, inside.sum())
            joints = clip.keypoints[0, t] + shift
            there = ((joints >= 0) & (joints < SIZE[::-1])).all(1)
            if there.any():
                (boxes if there.all() else partly)[person, t] = _within([*joints.min(0), *joints.max(0)])
    visible = np.stack([(shown == person).sum((1, 2)) for person in range(len(places))]) / bodies
    return frames, boxes, visible, partly


def _within(box):
    """The part of boxes (..., 4) inside the picture."""
    return np.clip(box, 0, [*SIZE[::-1], *SIZE[::-1]])


class Forgetful:
    """An estimator whose detector overlooks a share of the persons."""

    def __init__(self, inner, drop, seed):
        self.inner, self.drop, self.rng = inner, drop, np.random.default_rng(seed)
        self.layout, self.provenance, self.estimate = inner.layout, inner.provenance, inner.estimate
        self.sequential = getattr(inner, "sequential", True)

    def detect(self, frames):
        return [People(found.boxes[kept], found.scores[kept], None if found.regions is None else found.regions[kept])
                for found in self.inner.detect(frames)
                for kept in [np.flatnonzero(self.rng.random(len(found)) >= self.drop)]]


def found(path, estimator):
    """Boxes (H, T, 4) of all joints, as far as in the picture, of the tracks that a harvest makes; nan where absent."""
    tracks = scan(path, estimator, RATE, 5, 720, float("inf"), 8).sequences
    boxes = np.full((len(tracks), FRAMES, 4), np.nan)
    for row, track in zip(boxes, tracks, strict=True):
        seen = np.flatnonzero(track.scores[0].max(1) > 0)
        points = track.keypoints[0, seen]
        row[round(track.meta["start"] * RATE) + seen] = _within(np.concatenate([points.min(1), points.max(1)], 1))
    return boxes

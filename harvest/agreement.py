"""How far two sets of tracks of one video put the limbs in the same places (PCK).

Distances are in torsos, shoulder to opposite hip, of the second set. In each frame the nearest two persons are taken
for the same one, then the nearest of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from skelcore.layouts import Layout
from skelcore.pck import LIMBS
from skelcore.sequence import PoseSequence

ALPHA, SEEN = 0.2, 0.3
IN_VIEW = 0.5  # in a truth whose hidden joints have this score, for the torso's sake
SAME = 1.0  # torsos, mean over the joints, beyond which two persons are not the same one
_SIDES = ("left", "right")


def agreement(one: Sequence[PoseSequence], other: Sequence[PoseSequence], alpha: float = ALPHA) -> float:
    """Share of the limb joints seen by both, score above ``SEEN``, within ``alpha`` torsos; nan where there is none.

    Persons whom only one of them found do not count.
    """
    distances = [apart for apart, _ in _matched(one, other, SEEN, SEEN)]
    known = [each[np.isfinite(each)] for each in distances]
    return float((np.concatenate(known) <= alpha).mean()) if any(map(len, known)) else float("nan")


def accuracy(estimate: Sequence[PoseSequence], truth: Sequence[PoseSequence], alpha: float = ALPHA) -> float:
    """Share of the limb joints in view in the truth, score above ``IN_VIEW``, that the estimate puts within ``alpha``.

    What the estimate lacks is wrong, whole persons too; nan where the truth shows nobody.
    """
    right = [(apart <= alpha)[seen] for apart, seen in _matched(estimate, truth, 0, IN_VIEW)]
    return float(np.concatenate(right).mean()) if any(map(len, right)) else float("nan")


@dataclass(frozen=True)
class Encounter:
    """Two sets of tracks of one video: the persons of all frames in each, ``ours`` and ``theirs``, how many of them are
    in both, ``shared``, and how far the joints that both see of those lie ``apart`` (K,), in torsos of the second."""

    ours: int
    theirs: int
    shared: int
    apart: np.ndarray

    def __add__(self, other: Encounter) -> Encounter:
        return Encounter(self.ours + other.ours, self.theirs + other.theirs, self.shared + other.shared,
                         np.concatenate([self.apart, other.apart]))


def encounter(one: Sequence[PoseSequence], other: Sequence[PoseSequence], seen: float = SEEN) -> Encounter:
    """Who is in both sets of tracks: the nearest two of a frame, at most ``SAME`` apart.

    ``seen`` is the score above which the other sees a joint: ``IN_VIEW`` for a truth.
    """
    joints = [person[np.isfinite(person)] for apart, _ in _matched(one, other, SEEN, seen) for person in apart]
    same = [person for person in joints if len(person) and person.mean() <= SAME]
    ours, theirs = (sum(len(present(each)) for each in tracks) for tracks in (one, other))
    return Encounter(ours, theirs, len(same), np.concatenate([*same, np.zeros(0)]))


def present(sequence: PoseSequence) -> np.ndarray:
    """The frames (T,) in which the person of a track was seen."""
    return np.flatnonzero((sequence.scores[0] > 0).any(1))


def first_tick(sequence: PoseSequence) -> int:
    """The frame of the video in which a track begins."""
    return round(float(sequence.meta["start"]) * (sequence.fps or 1.0))


@dataclass(frozen=True)
class _Person:
    """One person in one frame: limb joints (12, 2), whether seen (12,), torso in pixels."""

    limbs: np.ndarray
    seen: np.ndarray
    torso: float


def _matched(one: Sequence[PoseSequence], other: Sequence[PoseSequence], ours_seen: float,
             theirs_seen: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each frame the joints of the other's persons (P, 12): how far off they are, and whether the other sees them.

    Joints above either's score are seen; those of a person without a torso are not. The distance is infinite where
    either does not see the joint or nobody was found for the person.
    """
    ours, theirs = _by_tick(one, ours_seen), _by_tick(other, theirs_seen)
    for tick, persons in theirs.items():
        found = ours.get(tick, [])
        there = np.stack([each.seen for each in persons])
        apart = np.full(there.shape, np.inf)
        distances = np.array([[_distances(a, b) for b in persons] for a in found]).reshape(-1, *there.shape)
        known = np.isfinite(distances)
        means = np.where(known, distances, 0).sum(-1) / np.maximum(known.sum(-1), 1)
        means[~known.any(-1)] = np.inf
        while np.isfinite(means).any():
            i, j = np.unravel_index(means.argmin(), means.shape)
            apart[j] = distances[i, j]
            means[i], means[:, j] = np.inf, np.inf
        yield apart, there


def _by_tick(sequences: Sequence[PoseSequence], seen: float) -> dict[int, list[_Person]]:
    found: dict[int, list[_Person]] = {}
    for sequence in sequences:
        limbs, shoulders, hips = _joints(sequence.layout)
        for t in present(sequence):
            points, scores = sequence.keypoints[0, t], sequence.scores[0, t]
            known = (scores[shoulders] > 0) & (scores[hips] > 0)
            torso = np.linalg.norm(points[shoulders] - points[hips], axis=-1)[known]
            size = float(torso.mean()) if len(torso) else 0.0
            person = _Person(points[limbs], (scores[limbs] > seen) & known.any(), size)
            found.setdefault(first_tick(sequence) + int(t), []).append(person)
    return found


def _distances(one: _Person, other: _Person) -> np.ndarray:
    apart = np.linalg.norm(one.limbs - other.limbs, axis=-1) / max(other.torso, 1e-6)
    return np.where(one.seen & other.seen, apart, np.inf)


def _joints(layout: Layout) -> tuple[list[int], list[int], list[int]]:
    """The limbs, both shoulders, and the hip opposite to each."""
    return (layout.index(*(f"{side}_{part}" for part in LIMBS for side in _SIDES)),
            layout.index("left_shoulder", "right_shoulder"), layout.index("right_hip", "left_hip"))

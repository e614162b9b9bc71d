"""Following the persons of one shot: where to look for them, and which of the answers to believe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from harvest.estimators import Estimator, People, Poses
from harvest.lookback import Birth, look_back
from harvest.oks import distinct, iou
from harvest.stitch import stitch, without_shadows
from harvest.track import Track, merged
from harvest.tracker import Tracker
from harvest.untangle import untangled

# Overlap (IoU) of one person's boxes in one frame, and in those of two passes of the detector.
_SAME_PERSON, _NEXT_PASS = 0.4, 0.2


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames (B, h, w, 3), the first of which is tick ``first``, with what the detector found in that one.

    ``detections`` is None where it did not look; ``scale`` (y, x) source pixels a pixel; ``opening``: a shot begins.
    """

    frames: np.ndarray
    first: int
    scale: tuple[float, float]
    detections: People | None
    opening: bool


class Shot:
    """The persons of one shot, followed stretch by stretch.

    An estimator whose regions come from its own last poses is asked frame by frame. One that takes boxes and says so
    (``sequential`` = False) is asked once a stretch: the boxes between two passes of the detector are known ahead.
    ``first`` is the shot's first tick, ``crowd`` the most persons at once.
    """

    def __init__(self, estimator: Estimator, rate: float, max_persons: int) -> None:
        self._estimator, self._rate, self._most = estimator, rate, max_persons
        self._sequential = bool(getattr(estimator, "sequential", True))
        self._tracker = Tracker(estimator.layout, rate)
        self._people = People(np.zeros((0, 4)), np.zeros(0), None)
        self._before: Stretch | None = None
        self._births: list[Birth] = []
        self._preludes: list[tuple[np.ndarray, Track]] = []  # a track's first pose, and those before it
        self.first, self.crowd = -1, 0

    def follow(self, stretch: Stretch, ahead: People | None) -> None:
        """Go on with the next stretch; ``ahead`` is what the detector finds in the frame after it, if it looks."""
        if self.first < 0:
            self.first = stretch.first
        if stretch.detections is not None:
            self.crowd = max(self.crowd, len(stretch.detections))
            self._people = join(self._people, stretch.detections, self._most)
        self._births = []
        if self._sequential:
            for index in range(len(stretch.frames)):
                frame = stretch.frames[index:index + 1]
                self._take(stretch, index, self._estimator.estimate(frame, [self._people])[0] if self._people else None)
        else:
            people = between(self._people, ahead, len(stretch.frames))
            found = self._estimator.estimate(stretch.frames, people) if self._people else [None] * len(people)
            for index, poses in enumerate(found):
                self._take(stretch, index, poses)
        self._look_back()
        self._before = stretch

    def tracks(self) -> list[Track]:
        """The persons, in order of birth."""
        layout = self._estimator.layout
        tracks = untangled(without_shadows(self._tracker.finish(), layout), layout, self._rate)
        tracks = stitch(tracks, layout, self._rate)
        # Only now, for poses of somebody who has just come into view are poor evidence of who it is.
        before = {id(pose): prelude for pose, prelude in self._preludes}
        tracks = [merged([track, *(before[id(pose)] for pose in track.keypoints if id(pose) in before)])
                  for track in tracks]
        return sorted(tracks, key=lambda track: track.first)

    def _take(self, stretch: Stretch, index: int, poses: Poses | None) -> None:
        """Track the poses of one frame, and go on with the persons that a track accepts."""
        if poses is None:
            layout = len(self._estimator.layout)
            self._tracker.update(stretch.first + index, np.zeros((0, layout, 2)), np.zeros((0, layout)), np.zeros(0))
            return
        poses = self._distinct(poses)
        agreed = None
        if index == 0 and stretch.detections is not None:
            agreed = overlap(poses.people, stretch.detections).max(1, initial=0) > _SAME_PERSON
        keypoints = np.asarray(poses.keypoints * np.array(stretch.scale[::-1]), np.float32)
        owners = self._tracker.update(stretch.first + index, keypoints, np.asarray(poses.scores, np.float32),
                                      poses.presence, agreed)
        self._people = _take(poses.people, np.flatnonzero([owner is not None for owner in owners]))
        if agreed is not None:
            self._births = [Birth(owner, _take(poses.people, np.array([row]))) for row, owner in enumerate(owners)
                            if owner and len(owner) == 1]
        self.crowd = max(self.crowd, len(self._people))

    def _look_back(self) -> None:
        """Where were those who were found in this stretch's pass of the detector, in the stretch before it?"""
        before = self._before
        if before is None:
            return
        for birth in self._births:
            if self._tracker.grown(birth.track):
                others = (track for track in self._tracker.alive if track is not birth.track)
                prelude = look_back(self._estimator, birth, before.frames, before.first, before.scale, others,
                                    before.detections is not None)
                if len(prelude):
                    self._preludes.append((birth.track.keypoints[0], prelude))

    def _distinct(self, poses: Poses) -> Poses:
        """Each person once, as the pose that the model believes in most."""
        rank = poses.presence * poses.scores.mean(1) if len(poses) else np.zeros(0)
        index = distinct(poses.keypoints, poses.scores, rank, self._estimator.layout)
        return Poses(poses.keypoints[index], poses.scores[index], poses.presence[index], _take(poses.people, index))


def join(carried: People, detections: People, most: int) -> People:
    """The persons being followed and those newly detected, at most ``most``, the former first.

    One person explains one detection: where two persons embrace, the second is found although the first is there.
    """
    _, known = _matched(carried, detections, _SAME_PERSON)
    fresh = np.setdiff1d(np.arange(len(detections)), known)
    fresh = fresh[np.argsort(-detections.scores[fresh], kind="stable")][:max(0, most - len(carried))]
    if not len(carried):
        return _take(detections, fresh)
    if not len(fresh):
        return carried
    new = _take(detections, fresh)
    regions = (None if carried.regions is None or new.regions is None
               else np.concatenate([carried.regions, new.regions]))
    return People(np.concatenate([carried.boxes, new.boxes]), np.concatenate([carried.scores, new.scores]), regions)


def between(people: People, ahead: People | None, frames: int) -> list[People]:
    """Where the ``people`` of one pass of the detector are in the ``frames`` up to the next, which finds ``ahead``.

    Boxes move evenly to those that the next pass has for the same persons, and stay where it has none.
    """
    goal = people.boxes.copy()
    if ahead is not None:
        here, there = _matched(people, ahead, _NEXT_PASS)
        goal[here] = ahead.boxes[there]
    shares = np.arange(frames) / frames
    return [People((1 - share) * people.boxes + share * goal, people.scores, None) for share in shares]


def overlap(people: People, others: People) -> np.ndarray:
    """IoU (P, Q) of persons detected and persons carried over."""
    return iou(_extent(people)[:, None], _extent(others))


def _take(people: People, index: np.ndarray) -> People:
    return People(people.boxes[index], people.scores[index], None if people.regions is None else people.regions[index])


def _matched(people: People, others: People, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the same persons in both, one to one, for the most overlap in sum."""
    likeness = overlap(people, others)
    likeness[likeness <= least] = 0
    rows, columns = linear_sum_assignment(-likeness)
    good = likeness[rows, columns] > 0
    return rows[good], columns[good]


def _extent(people: People) -> np.ndarray:
    """Boxes (P, 4) that can be compared between a detection and a person carried over."""
    if people.regions is None:
        return people.boxes
    centre, half = people.regions[:, :2], people.regions[:, 2:3] / 2
    return np.concatenate([centre - half, centre + half], 1)

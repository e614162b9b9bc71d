"""Looking back: a person is found when the detector looks, and was there in the frames since it last did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harvest.estimators import Estimator, People
from harvest.oks import boxes, iou, oks, sigmas
from harvest.track import Track, part

# Presence of a pose that is believed, likeness (OKS, or half the IoU) of one that goes on, and overlap (IoU) with
# another person beside whom no pose is believed: who comes out from behind somebody is not yet seen well.
_SURE, _LEAST, _NEAR = 0.5, 0.25, 0.1
_PACE = 3  # steps that tell how fast a person moves


@dataclass(frozen=True)
class Birth:
    """A ``track`` that began in a pass of the detector, and where to look for its one person in the next frame."""

    track: Track
    people: People


def look_back(estimator: Estimator, birth: Birth, frames: np.ndarray, first: int, scale: tuple[float, float],
              others: Iterable[Track], looked: bool) -> Track:
    """The poses, if any, of a track's person in the ``frames`` (B, h, w, 3) that end where it begins.

    Going back, they end where the person is not there, does not go on, or is near one of the ``others``. ``first`` is
    the tick of the first frame, in which the detector ``looked``; ``scale`` (y, x) source pixels a pixel.
    """
    track, people, sigma = birth.track, birth.people, sigmas(estimator.layout)
    pace = track.pace(range(1, min(_PACE, len(track) - 1) + 1))
    others, found = list(others), Track()
    last, sure = track.keypoints[0], track.scores[0]
    for index in reversed(range(len(frames))):
        poses = estimator.estimate(frames[index:index + 1], [people])[0]
        if not len(poses) or poses.presence[0] < _SURE:
            break
        keypoints = np.asarray(poses.keypoints[0] * np.array(scale[::-1]), np.float32)
        scores, tick = np.asarray(poses.scores[0], np.float32), first + index
        box, before = boxes(keypoints, scores), last - pace
        likeness = max(oks(before, sure, keypoints, scores, sigma), iou(boxes(before, sure), box) / 2)
        if likeness < _LEAST or any(_near(other, tick, box) for other in others):
            break
        found.add(tick, keypoints, scores, float(poses.presence[0]), False if looked and not index else None)
        last, sure, people = keypoints, scores, poses.people
    return part(found, list(reversed(range(len(found)))))


def _near(other: Track, tick: int, box: np.ndarray) -> bool:
    at = int(np.searchsorted(other.ticks, tick))
    if at == len(other) or other.ticks[at] != tick:
        return False
    return bool(iou(boxes(other.keypoints[at], other.scores[at]), box) > _NEAR)

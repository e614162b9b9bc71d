"""Figures that walk about, as a pose model would see them: exact poses with noise, drop-outs, merges and ghosts."""

from functools import cache

import numpy as np

from harvest import oks
from harvest.tracker import Tracker
from skelcore import layouts
from skelcore.mannequin import perform

LAYOUT, RATE = layouts.get("coco17"), 15.0


@cache
def gait(person, frames):
    """Poses (T, 17, 2) of a mannequin on the spot, 120 pixels high, hips at the origin."""
    poses = perform("walk_in_place", person, person, seconds=frames / RATE, fps=RATE).keypoints[0].astype(float)
    poses -= poses[:, 11:13].mean(1, keepdims=True)
    return poses * 120 / np.ptp(poses[0, :, 1])


def walkers(xs, apart=6.0):
    """True poses (G, T, 17, 2) of persons whose hips are at ``xs`` (G, T), nan where a person is out of view."""
    return np.stack([gait(p, len(x)) + np.stack([x, np.full(len(x), 150 + apart * p)], -1)[:, None]
                     for p, x in enumerate(np.asarray(xs, float))])


def boxes(poses):
    """Boxes (G, T, 4) of poses (G, T, 17, 2), nan where absent."""
    return np.concatenate([poses.min(2), poses.max(2)], -1)


def seen(truth, seed=0, drop=0.0, noise=0.0, ghosts=0.0, merge=None):
    """Which true poses (G, T) are detected, and a list of (keypoints (P, 17, 2), scores, presence) a frame, shuffled.

    Of two persons who overlap by more than ``merge`` (IoU) the later in the list is lost, as behind the other.
    """
    rng = np.random.default_rng(seed)
    there = np.isfinite(truth).all((2, 3)) & (rng.random(truth.shape[:2]) >= drop)
    if merge is not None:
        box = boxes(truth)
        for g in range(len(truth)):
            for h in range(g):
                there[g] &= ~(oks.iou(box[g], box[h]) > merge) | ~there[h]
    answers = []
    for t in range(truth.shape[1]):
        poses = list(truth[there[:, t], t])
        if rng.random() < ghosts:
            poses.append(gait(9, 1)[0] * rng.uniform(0.5, 1) + rng.uniform([0, 80], [500, 200]))
        poses = np.array([poses[i] for i in rng.permutation(len(poses))]).reshape(-1, 17, 2)
        scores = np.where(rng.random(poses.shape[:2]) < 0.05, 0.1, 0.9)
        answers.append((poses + rng.normal(0, noise, poses.shape), scores, np.ones(len(poses))))
    return there, answers


def tracks(answers):
    tracker = Tracker(LAYOUT, RATE)
    for tick, answer in enumerate(answers):
        tracker.update(tick, *answer)
    return tracker.finish()


def track_boxes(found, frames):
    """Boxes (H, T, 4) of all joints of tracks, nan where absent."""
    result = np.full((len(found), frames, 4), np.nan)
    for row, track in zip(result, found, strict=True):
        poses = np.stack(track.keypoints)
        row[track.ticks] = np.concatenate([poses.min(1), poses.max(1)], -1)
    return result

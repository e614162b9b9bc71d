"""Small labelled data sets with a known answer."""

from pathlib import Path

import numpy as np

from skelcore import annotations, layouts
from skelcore.sequence import PoseSequence


def moving_joint(label: int, seed: int, layout: str = "coco17", frames: int = 24, name: str = "") -> PoseSequence:
    """A fixed random body (the same for all) with noise, whose joint ``label`` swings: the class is in the motion."""
    target = layouts.get(layout)
    body = np.random.default_rng(99).uniform(0, 100, (len(target), 2))
    noise = np.random.default_rng([seed, label])
    points = np.broadcast_to(body, (1, frames, *body.shape)) + noise.normal(0, 1, (1, frames, *body.shape))
    points[:, :, label] += 60 * np.sin(np.linspace(0, 6, frames) + noise.uniform(0, 0.3))[:, None]
    scores = (noise.uniform(size=points.shape[:3]) > 0.05).astype(np.float32)
    return PoseSequence(points, scores, target, (480, 640), 15.0, name or f"clip-{label}-{seed}", label)


def write(path: Path, classes: int = 3, train: int = 6, test: int = 4, layout: str = "coco17") -> Path:
    """A PYSKL pickle of ``classes`` such motions with a train and a test split."""
    clips = [moving_joint(label, seed, layout) for label in range(classes) for seed in range(train + test)]
    splits = {"train": [clip.id for clip in clips if int(clip.id.split("-")[2]) < train],
              "test": [clip.id for clip in clips if int(clip.id.split("-")[2]) >= train]}
    annotations.write_pyskl(path, clips, splits)
    return path

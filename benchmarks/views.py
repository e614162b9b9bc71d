"""Augmentation of 2D clips on one core: batched tensor code against a loop over clips in numpy.

Both do the same: crop in time with varying speed, mirror, affine map, jitter, wander and drift, and occlusion of
joints, parts and frames, for 256 clips of 64 frames and 17 joints. Run: python benchmarks/views.py
"""

from __future__ import annotations

import math
import statistics
import time

import numpy as np
import torch

from skelcore import layouts
from skelcore.views import ViewConfig, Views, occlusion

CLIPS, FRAMES, ROUNDS = 256, 64, 9
LAYOUT = layouts.get("coco17")
CONFIG = ViewConfig(reverse=0.5)
PARTS = list(occlusion.parts(LAYOUT).values())


def numpy_view(keypoints: np.ndarray, scores: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One view of one clip (M, T, V, 2), the way a data set's transforms are commonly written."""
    c = CONFIG
    persons, frames, joints, _ = keypoints.shape
    share = rng.uniform(c.crop_min, c.crop_max)
    phase = np.linspace(0, 1, frames)
    if rng.random() < c.reverse:
        phase = 1 - phase
    phase = phase + rng.uniform(-c.speed, c.speed) * np.sin(2 * math.pi * phase) / (2 * math.pi)
    times = np.clip((rng.uniform(0, 1 - share) + share * phase) * (frames - 1), 0, frames - 1)
    low = times.astype(int)
    high, part = np.minimum(low + 1, frames - 1), (times - low)[None, :, None]
    one, other = (1 - part) * (scores[:, low] > 0), part * (scores[:, high] > 0)
    total = one + other
    scale = (total >= 0.5) / np.maximum(total, 0.5)
    one, other = one * scale, other * scale
    keypoints = keypoints[:, low] * one[..., None] + keypoints[:, high] * other[..., None]
    scores = scores[:, low] * one + scores[:, high] * other

    valid = scores > 0
    middle = keypoints[valid].mean(0) if valid.any() else np.zeros(2)
    factors = np.exp(rng.uniform(-c.scale, c.scale) + rng.uniform(-c.stretch, c.stretch, 2))
    factors[0] *= 1 - rng.uniform(0, c.squeeze)
    slant = np.eye(2) + rng.uniform(-c.shear, c.shear, (2, 2)) * (1 - np.eye(2))
    angle = math.radians(rng.uniform(-c.rotation, c.rotation))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ slant @ np.diag(factors)
    if rng.random() < c.mirror:
        keypoints, scores = keypoints[:, :, LAYOUT.mirror], scores[:, :, LAYOUT.mirror]
        matrix = matrix @ np.diag([-1.0, 1.0])
    keypoints = (keypoints - middle) @ matrix.T + middle

    if rng.random() < c.noise:
        valid = scores > 0
        count = np.maximum(valid.sum(-1), 1)
        mean = (keypoints * valid[..., None]).sum(-2) / count[..., None]
        away = (((keypoints - mean[:, :, None]) ** 2).sum(-1) * valid).sum(-1) / count
        measurable = valid.sum(-1) >= 2
        size = np.sqrt(away[measurable]).mean() if measurable.any() else 1.0
        strength = rng.uniform()
        knots = rng.normal(size=(persons, 8, joints, 2)) * strength * c.wander
        place = np.linspace(0, 7, frames)
        first = np.minimum(place.astype(int), 6)
        share_of_second = (place - first)[None, :, None, None]
        offset = rng.normal(size=keypoints.shape) * strength * c.jitter
        offset += knots[:, first] * (1 - share_of_second) + knots[:, first + 1] * share_of_second
        offset += np.linspace(-0.5, 0.5, frames)[:, None, None] * rng.uniform(-c.drift, c.drift, 2)
        keypoints = keypoints + offset * size

    kept = np.ones(scores.shape, bool)
    kept &= rng.random((persons, 1, joints)) >= rng.uniform(0, c.joint_dropout)
    for person in range(persons):
        if rng.random() < c.part_mask:
            kept[person][:, PARTS[rng.integers(len(PARTS))]] = False
    for _ in range(c.frame_spans):
        length = rng.uniform(0, c.frame_dropout) * frames
        start = rng.uniform(0, frames - length)
        kept[:, round(start) : round(start + length)] = False
    scores = scores * kept
    return (keypoints * (scores > 0)[..., None]).astype(np.float32), scores.astype(np.float32)


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 1, (CLIPS, 1, FRAMES, len(LAYOUT))).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = 0
    keypoints = (rng.normal(300, 80, (*scores.shape, 2)) * (scores > 0)[..., None]).astype(np.float32)
    batch = torch.from_numpy(keypoints), torch.from_numpy(scores)
    views, generator = Views(CONFIG), torch.Generator().manual_seed(0)
    runs = {
        "numpy, a loop over clips": lambda: [numpy_view(k, s, rng) for k, s in zip(keypoints, scores, strict=True)],
        "skelcore.views, batched": lambda: views(*batch, LAYOUT, generator),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()  # of the one core, so that a busy machine distorts little
            run()
            seconds[name].append(time.process_time() - start)
    rates = {name: CLIPS / statistics.median(values) for name, values in seconds.items()}
    baseline = rates["numpy, a loop over clips"]
    print(f"{'all transforms, 2D, T=64, V=17, one core':<42}{'clips/s':>10}{'ratio':>8}")
    for name, rate in rates.items():
        print(f"{name:<42}{rate:>10,.0f}{rate / baseline:>8.1f}")


if __name__ == "__main__":
    main()

"""Augmentation and preparation of 2D clips on one core: batched tensor code against a loop over clips in numpy.

In the first table both do the same, the default transforms: crop in time with varying speed, also backwards, mirror,
affine map, jitter, wander and drift, and occlusion of joints, parts and frames, for 256 clips of 64 frames and 17
joints. The last row adds what is off by default, for every clip: detector errors, smoothing, lost limbs, an occluder
and a masked axis; the loop has none of these. In the second table they make the input of a graph encoder from 256 PYSKL
records of 90 frames: normalise by the image, joint stream, 100 frames by uniform sampling, pad to 2 persons; ours in
batches of 64. The ratio to row 1 counts: PYSKL also searches for frames in which the number of persons changes, which
has no effect; row 2, and the ratio to it, are with that search. Run: python benchmarks/views.py
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from skelcore import layouts
from skelcore.views import ViewConfig, Views, features, occlusion, sampling
from skelcore.views.normalise import normalise_by_image

CLIPS, FRAMES, ROUNDS = 256, 64, 9
LAYOUT = layouts.get("coco17")
CONFIG = ViewConfig(reverse=0.5)
EVERYTHING = ViewConfig(reverse=0.5, smoothing=1, detector=1, axis_mask=1, limb_loss=0.2, occluder=1)
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


def numpy_input(record: dict[str, Any], rng: np.random.RandomState, search: bool) -> np.ndarray:
    """Encoder input (1, 2, 100, V, 3) of one record, one transform after the other."""
    record = copy.deepcopy(record)
    poses = np.concatenate([record["keypoint"].astype(np.float32),
                            record["keypoint_score"].astype(np.float32)[..., None]], -1)
    height, width = record["img_shape"]
    missing = poses[..., 2] <= 0.01
    poses[..., 0] = (poses[..., 0] - width / 2) / (width / 2)
    poses[..., 1] = (poses[..., 1] - height / 2) / (height / 2)
    poses[..., :2][missing] = 0
    index = numpy_sample(record["total_frames"], 100, rng)
    if search:
        near = changing(poses)
        here = np.array([near[frame] for frame in index])
        index = (here * index + (1 - here) * index).astype(np.float32).astype(int)
    poses = poses[:, index].astype(np.float32)
    if len(poses) < 2:
        poses = np.concatenate([poses, np.zeros((2 - len(poses), *poses.shape[1:]), poses.dtype)])
    return np.ascontiguousarray(poses.reshape(2, 1, 100, *poses.shape[2:]).swapaxes(0, 1))


def numpy_sample(frames: int, wanted: int, rng: np.random.RandomState) -> np.ndarray:
    """Uniform sampling of one clip."""
    if frames < wanted:
        index = np.arange(wanted) + rng.randint(frames)
    elif frames < 2 * wanted:
        skipped = np.zeros(wanted + 1, np.int64)
        skipped[rng.choice(wanted + 1, frames - wanted, replace=False)] = 1
        index = np.arange(wanted) + np.cumsum(skipped)[:-1]
    else:
        bounds = np.array([i * frames // wanted for i in range(wanted + 1)])
        index = bounds[:-1] + rng.randint(np.diff(bounds))
    return np.mod(index, frames)


def changing(poses: np.ndarray) -> list[bool]:
    """Whether the number of persons changes at each frame."""
    persons, frames = poses.shape[:2]
    count = [persons] * frames
    for frame in range(frames):
        person = persons - 1
        while person >= 0 and np.all(np.abs(poses[person, frame]) < 1e-5):
            person -= 1
        count[frame] = person + 1
    near = [False] * frames
    for frame in range(1, frames - 1):
        for other in (frame - 1, frame + 1):
            if count[frame] != count[other]:
                near[frame] = near[other] = True
    return near


def batched_input(records: list[dict[str, Any]], generator: torch.Generator) -> torch.Tensor:
    """The same for all records at once (N, 2, 100, V, 3)."""
    keypoints = torch.from_numpy(np.stack([record["keypoint"] for record in records]))
    scores = torch.from_numpy(np.stack([record["keypoint_score"] for record in records]))
    sizes = torch.tensor([record["img_shape"] for record in records])
    lengths = torch.tensor([record["total_frames"] for record in records])
    index = sampling.uniform_train(lengths, 100, generator)
    keypoints, scores = sampling.gather(keypoints, index).float(), sampling.gather(scores, index).float()
    return sampling.pad_persons(features(normalise_by_image(keypoints, scores, sizes, 0.01), scores, LAYOUT), 2)


def table(title: str, runs: dict[str, Callable[[], object]], baselines: int = 1) -> None:
    """Clips per second of each run, interleaved, as medians, and the ratios to the first ``baselines`` runs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()  # of the one core, so that a busy machine distorts little
            run()
            seconds[name].append(time.process_time() - start)
    rates = {name: CLIPS / statistics.median(values) for name, values in seconds.items()}
    slow = list(rates.values())[:baselines]
    print(f"{title:<46}{'clips/s':>10}" + "".join(f"{f'/ row {row + 1}':>9}" for row in range(baselines)))
    for name, rate in rates.items():
        print(f"{name:<46}{rate:>10,.0f}" + "".join(f"{rate / each:>9.1f}" for each in slow))


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 1, (CLIPS, 1, FRAMES, len(LAYOUT))).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = 0
    keypoints = (rng.normal(300, 80, (*scores.shape, 2)) * (scores > 0)[..., None]).astype(np.float32)
    batch = torch.from_numpy(keypoints), torch.from_numpy(scores)
    views, everything, generator = Views(CONFIG), Views(EVERYTHING), torch.Generator().manual_seed(0)
    table("default transforms, 2D, T=64, V=17, one core", {
        "numpy, a loop over clips": lambda: [numpy_view(k, s, rng) for k, s in zip(keypoints, scores, strict=True)],
        "skelcore.views, batched": lambda: views(*batch, LAYOUT, generator),
        "skelcore.views, all that exist": lambda: everything(*batch, LAYOUT, generator),
    })
    for persons in (1, 2):
        inputs(persons, generator)


def inputs(persons: int, generator: torch.Generator) -> None:
    """The second table, for records of so many persons."""
    rng, state = np.random.default_rng(0), np.random.RandomState(0)
    records = []
    for number in range(CLIPS):
        scores = rng.uniform(0.1, 1, (persons, 90, len(LAYOUT)))
        scores[rng.random(scores.shape) < 0.1] = 0
        keypoints = rng.normal(300, 80, (*scores.shape, 2)) * (scores > 0)[..., None]
        records.append({"frame_dir": str(number), "label": 0, "total_frames": 90, "img_shape": (480, 640),
                        "original_shape": (480, 640), "keypoint": keypoints.astype(np.float16),
                        "keypoint_score": scores.astype(np.float16)})
    print()
    table(f"graph input, T=90 to 100, M={persons}, one core", {
        "numpy, PYSKL without its search": lambda: [numpy_input(record, state, search=False) for record in records],
        "numpy, PYSKL": lambda: [numpy_input(record, state, search=True) for record in records],
        "skelcore.views, batched": lambda: [batched_input(records[first : first + 64], generator)
                                            for first in range(0, CLIPS, 64)],
    }, baselines=2)


if __name__ == "__main__":
    main()

"""Joint and limb heatmaps on one core: batched sparse rendering against a numpy loop over keypoints.

Clips of 48 frames of COCO-17 mannequins, 56 x 56 pixels. The baseline draws one keypoint (limb) of one person in one
frame at a time, as the published data pipelines do. Run: python benchmarks/heatmaps.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from skelcore import layouts
from skelcore.mannequin import perform
from skelcore.views import heatmaps

CLIPS, FRAMES, SIZE, SIGMA, FAINT, ROUNDS = 8, 48, (56, 56), 0.6, 1e-3, 9
LAYOUT = layouts.get("coco17")


def plain_joints(points: np.ndarray, scores: np.ndarray, size: tuple[int, int],
                 sigma: float = SIGMA) -> np.ndarray:
    """Joint heatmaps (V, T, H, W) of one clip (M, T, V, 2), one keypoint at a time."""
    persons, frames, joints = scores.shape
    maps = np.zeros((joints, frames, *size), np.float32)
    for frame in range(frames):
        for joint in range(joints):
            for person in range(persons):
                _plain_joint(maps[joint, frame], points[person, frame, joint], scores[person, frame, joint], sigma)
    return maps


def plain_limbs(points: np.ndarray, scores: np.ndarray, pairs: heatmaps.Pairs, size: tuple[int, int],
                sigma: float = SIGMA) -> np.ndarray:
    """Limb heatmaps (K, T, H, W) of one clip (M, T, V, 2), one limb at a time."""
    persons, frames, _ = scores.shape
    maps = np.zeros((len(pairs), frames, *size), np.float32)
    for frame in range(frames):
        for limb, (one, other) in enumerate(pairs):
            for person in range(persons):
                _plain_limb(maps[limb, frame], points[person, frame, one], points[person, frame, other],
                            scores[person, frame, one], scores[person, frame, other], sigma)
    return maps


def _plain_joint(image: np.ndarray, point: np.ndarray, score: float, sigma: float) -> None:
    if score < FAINT:
        return
    columns, rows = (_pixels(value, value, sigma, side) for value, side in zip(point, image.shape[::-1], strict=True))
    if not len(columns) or not len(rows):
        return
    patch = score * np.exp(-((columns - point[0]) ** 2 + (rows[:, None] - point[1]) ** 2) / (2 * sigma**2))
    window = image[int(rows[0]):int(rows[-1]) + 1, int(columns[0]):int(columns[-1]) + 1]
    np.maximum(window, patch, out=window)


def _plain_limb(image: np.ndarray, start: np.ndarray, end: np.ndarray, start_score: float, end_score: float,
                sigma: float) -> None:
    score = min(start_score, end_score)
    if score < FAINT:
        return
    length2 = ((end - start) ** 2).sum()
    if length2 < 1:
        _plain_joint(image, start, start_score, sigma)
        return
    columns, rows = (_pixels(min(a, b), max(a, b), sigma, side)
                     for a, b, side in zip(start, end, image.shape[::-1], strict=True))
    if not len(columns) or not len(rows):
        return
    x, y = columns - start[0], rows[:, None] - start[1]
    along = np.clip((x * (end[0] - start[0]) + y * (end[1] - start[1])) / length2, 0, 1)
    distance2 = (x - along * (end[0] - start[0])) ** 2 + (y - along * (end[1] - start[1])) ** 2
    patch = score * np.exp(-distance2 / (2 * sigma**2))
    window = image[int(rows[0]):int(rows[-1]) + 1, int(columns[0]):int(columns[-1]) + 1]
    np.maximum(window, patch, out=window)


def _pixels(low: float, high: float, sigma: float, side: int) -> np.ndarray:
    """Whole pixels of a map from ``low`` - 3 sigma to ``high`` + 3 sigma, both rounded towards zero."""
    return np.arange(max(int(low - 3 * sigma), 0), min(int(high + 3 * sigma) + 1, side), dtype=np.float32)


def clips(persons: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points in pixels of the map (N, M, T, V, 2) and scores of waving mannequins, ``persons`` a clip."""
    shown = [perform("wave", person, 0, seconds=FRAMES / 20, fps=20).sequence() for person in range(CLIPS * persons)]
    keypoints, scores = (torch.from_numpy(np.concatenate(each)).unflatten(0, (CLIPS, persons))[:, :, :FRAMES]
                         for each in ([one.keypoints for one in shown], [one.scores for one in shown]))
    return heatmaps.fit(keypoints, scores, SIZE[0]), scores


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    torch.set_num_threads(1)
    print(f"{CLIPS} clips of {FRAMES} frames, {len(LAYOUT)} joints, {SIZE[0]} x {SIZE[1]} pixels; one core, medians of "
          f"{ROUNDS} rounds in turns")
    print(f"{'':24}{'loop, clips/s':>16}{'float32':>10}{'ratio':>8}{'float16':>10}{'ratio':>8}{'zeros alone':>14}")
    for persons in (1, 2):
        points, scores = clips(persons)
        for name, pairs, plain in (
            ("joints", [(joint, joint) for joint in range(len(LAYOUT))], partial(plain_joints, size=SIZE)),
            ("limbs", LAYOUT.limbs, partial(plain_limbs, pairs=LAYOUT.limbs, size=SIZE)),
        ):
            print(f"{f'{name}, persons: {persons}':24}" + row(points, scores, pairs, plain))


def row(points: torch.Tensor, scores: torch.Tensor, pairs: heatmaps.Pairs, plain: Callable[..., object]) -> str:
    """Clips a second of the loop, of both types, and of making the float32 maps without drawing."""
    contenders: list[tuple[Callable[[], object], int]] = [
        (lambda: plain(points[0].numpy(), scores[0].numpy()), 1),
        (lambda: heatmaps.limbs(points, scores, pairs, SIZE), CLIPS),
        (lambda: heatmaps.limbs(points, scores, pairs, SIZE, dtype=torch.float16), CLIPS),
        (lambda: heatmaps.limbs(points, scores * 0, pairs, SIZE).view(-1)[::512].fill_(0), CLIPS),
    ]
    times = [[seconds(work) / clips for work, clips in contenders] for _ in range(ROUNDS)]
    loop, single, half, zeros = (statistics.median(column) for column in zip(*times, strict=True))
    return (f"{1 / loop:16.0f}{1 / single:10.0f}{loop / single:8.1f}{1 / half:10.0f}{loop / half:8.1f}"
            f"{1 / zeros:14.0f}")


if __name__ == "__main__":
    main()

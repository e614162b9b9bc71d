"""Frames a second that workers harvest who share one GPU: decoding, cuts, YOLOX-nano, RTMPose-s, tracks, quality.

Each worker is a process that extracts the same rendered clips of one person, 640x360 at 15 frames/s, through `onnx`.
RTMPose's weights are random, which cost the same; so that people are followed as with a trained model, each is given
an upright pose in the box in which it was looked for. Ray, which moves no frames, is left out.
Run: python benchmarks/gpu.py [--workers N ...] [--providers cuda cpu]   (needs MMPose for RTMPose, as estimators.py)
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import numpy as np

from harvest.estimators import People, Poses, build
from harvest.estimators.config import OnnxConfig
from harvest.extract import extract
from skelcore import layouts
from skelcore.mannequin import perform, write_video

CLIPS, SECONDS, FPS, ROUNDS = 8, 8.0, 15.0, 3
UPRIGHT = perform("wave", 0, 0, seconds=0.2, fps=FPS).sequence().to_layout(layouts.get("coco17")).keypoints[0, 0]


class Followed:
    """An `onnx` estimator whose poses are an upright one in each box that was looked at."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.layout, self.provenance, self.sequential = inner, inner.layout, inner.provenance, False
        low, high = UPRIGHT.min(0), UPRIGHT.max(0)
        self._template = 0.05 + 0.9 * (UPRIGHT - low) / (high - low)

    def detect(self, frames: np.ndarray) -> list[People]:
        return list(self._inner.detect(frames))

    def estimate(self, frames: np.ndarray, people: list[People]) -> list[Poses]:
        self._inner.estimate(frames, people)
        return [self._poses(each) for each in people]

    def _poses(self, people: People) -> Poses:
        corner, size = people.boxes[:, None, :2], people.boxes[:, None, 2:] - people.boxes[:, None, :2]
        return Poses((corner + size * self._template).astype(np.float32),
                     np.ones((len(people), len(self._template)), np.float32), np.ones(len(people)), people)


def start(barrier: Any, config: OnnxConfig) -> None:
    """A worker of its own: the model is loaded and warm before the clock runs."""
    global _estimator, _barrier
    _estimator, _barrier = Followed(build(config)), barrier


def work(paths: list[str]) -> tuple[float, float, int]:
    """When all had begun and when this worker was done, and the frames in which it saw somebody."""
    extract(paths[0], _estimator)
    _barrier.wait()
    begin = time.monotonic()
    seen = sum(sequence.frames for path in paths for sequence in extract(path, _estimator))
    return begin, time.monotonic(), seen


def rate(config: OnnxConfig, workers: int, paths: list[str]) -> tuple[float, float]:
    """Frames a second of all workers together, and the share of frames in which somebody was seen."""
    context = get_context("spawn")
    barrier: Any = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, start, (barrier, config)) as pool:
        told = list(pool.map(work, [paths] * workers))
    frames = int(workers * len(paths) * SECONDS * FPS)
    return frames / (max(end for _, end, _ in told) - min(begin for begin, _, _ in told)), sum(
        seen for *_, seen in told) / frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--providers", nargs="+", default=["cuda", "cpu"])
    words = parser.parse_args()
    import estimators as bench  # benchmarks/estimators.py

    from harvest.estimators import mmpose_models

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        model = mmpose_models._api().init_model(mmpose_models._settings(bench.POSES.format("s")), device="cpu")
        pose = bench.export(bench.Pose(model), folder / "pose.onnx", (2, 3, 256, 192), ["simcc_x", "simcc_y"])
        config = OnnxConfig(detector=str(bench.NANO), pose=str(pose), providers=words.providers)
        for i in range(CLIPS):
            write_video(perform("wave", i, 0, seconds=SECONDS, fps=FPS, size=(360, 640)), folder / f"{i}.mp4")
        paths = [str(path) for path in sorted(folder.glob("*.mp4"))]
        print(f"{build(config).provenance.get('provider')}; {os.cpu_count()} cores; medians of {ROUNDS}")
        print(f"{'workers':>8} {'frames/s':>10} {'of one':>8} {'seen in':>8}")
        one = 0.0
        for workers in words.workers:
            rates, seen = zip(*(rate(config, workers, paths) for _ in range(ROUNDS)), strict=True)
            one = one or median(rates) / workers
            print(f"{workers:8} {median(rates):10.1f} {median(rates) / one:8.2f} {median(seen):8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

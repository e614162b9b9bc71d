"""Pipeline efficiency: the harvest's frames a second over those of the bare pose model on the same frames.

The baseline loops over frames that lie decoded in memory: detector on every fifth, landmarks on all, nothing else.
`extract` adds decoding, tracking and quality numbers; the harvest adds Ray, the ledger and shards (measured from the
first settled video to the last, so without Ray's start). The first two take turns; medians over the rounds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from harvest import decode, drive, sources
from harvest.config import Harvest
from harvest.estimators import Estimator, build
from harvest.extract import extract
from harvest.video import Outcome
from skelcore.mannequin import perform, write_video

EVERY, ROUNDS, VIDEOS, SECONDS = 5, 5, 12, 4.0


def bare(estimator: Estimator, frames: np.ndarray) -> None:
    people = None
    for i in range(len(frames)):
        if i % EVERY == 0 or people is None:
            people = estimator.detect(frames[i:i + 1])[0]
        people = estimator.estimate(frames[i:i + 1], [people])[0].people


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def harvest(folder: Path, workers: int) -> float:
    """Frames a second between the first video and the last."""
    config = Harvest.model_validate({"sources": [str(folder)], "output": str(folder / "out"), "workers": workers})
    frames: list[int] = []
    times: list[float] = []

    def settle(index: int, outcome: Outcome, attempts: int) -> None:
        frames.append(outcome.frames)
        times.append(time.perf_counter())

    found = list(sources.expand(config.sources))
    drive.drive(config, found, range(len(found)), settle, lambda *_: None)
    # Videos still in hand when the first one settled had begun before: count from a full round of the workers.
    return sum(frames[workers:]) / (times[-1] - times[workers - 1])


def main() -> int:
    estimator = build("blazepose")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(VIDEOS):
            write_video(perform("wave", i, 0, seconds=SECONDS, fps=25, size=(360, 640)), folder / f"{i:02d}.mp4")
        path = folder / "00.mp4"
        frames = np.concatenate([chunk.frames for chunk in decode.chunks(path, 15)])
        extract(path, estimator)
        pairs = [(seconds(lambda: bare(estimator, frames)), seconds(lambda: extract(path, estimator)))
                 for _ in range(ROUNDS)]
        alone, piped = (len(frames) / median(times) for times in zip(*pairs, strict=True))
        print(f"{'640x360, one person':28} {'frames/s':>9} {'over bare':>10}")
        print(f"{'bare model, 1 core':28} {alone:9.1f} {1:10.2f}")
        print(f"{'extract, 1 core':28} {piped:9.1f} {median(a / b for a, b in pairs):10.2f}")
        for workers in sorted({1, min(2, os.cpu_count() or 1)}):
            rate = harvest(folder, workers)
            print(f"{f'harvest, {workers} workers':28} {rate:9.1f} {rate / alone / workers:10.2f} per worker")
    return 0


if __name__ == "__main__":
    sys.exit(main())

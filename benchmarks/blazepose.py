"""BlazePose on one core: frames a second end to end, and how much of the time is the bare models.

One person at 640x360. The baseline of every row is the invocation of the models that the row needs, with nothing
around them, measured in turns with the row itself; "of the models' speed" near 1 means that nothing is wasted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import cv2
import numpy as np

from harvest.estimators import People, weights
from harvest.estimators.blazepose import BlazePose, Network
from skelcore.mannequin import perform

EVERY, ROUNDS = 5, 8


def follow(pose: BlazePose, frames: np.ndarray, every: int) -> int:
    """Poses found in the frames when the detector runs at each ``every``-th, or when nobody is left."""
    count, people = 0, None
    for i in range(len(frames)):
        if i % every == 0 or not people:
            people = pose.detect(frames[i : i + 1])[0]
        found = pose.estimate(frames[i : i + 1], [people])[0]
        count, people = count + len(found), found.people
    return count


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    cv2.setNumThreads(1)
    frames = np.stack(list(perform("wave", 0, 0, seconds=1, fps=15, size=(360, 640)).render()))
    plain, tiled = BlazePose(tiles=False), BlazePose(tiles=True)
    detector, landmarks = plain._detector._interpreter.invoke, plain._landmarks._interpreter.invoke
    every_output = Network(weights.load(weights.LANDMARKS), 0, 1)._interpreter.invoke
    people: list[People] = plain.detect(frames)
    found = follow(plain, frames, EVERY)
    print(f"{len(frames)} frames 640x360, people detected in {sum(map(bool, people))}, poses {found}")
    # Each row: what is timed, and how often a frame it runs the detector and the landmark model.
    rows: dict[str, tuple[Callable[[], object], float, float]] = {
        "detector alone": (detector, 1, 0),
        "landmarks alone": (landmarks, 0, 1),
        "landmarks alone, with mask": (every_output, 0, 1),
        "detector at every frame": (lambda: follow(plain, frames, 1), 1, 1),
        f"detector at every {EVERY}th": (lambda: follow(plain, frames, EVERY), 1 / EVERY, 1),
        "the same with tiles (default)": (lambda: follow(tiled, frames, EVERY), 3 / EVERY, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, (work, _, _) in rows.items():
            if "alone" in name:
                times[name] += [seconds(work) for _ in range(len(frames))]
            else:
                times[name].append(seconds(work) / len(frames))
    medians = {name: median(values) for name, values in times.items()}
    print(f"{'':30} ms/frame  frames/s  of the models' speed")
    for name, (_, detections, crops) in rows.items():
        bare = detections * medians["detector alone"] + crops * medians["landmarks alone"]
        print(f"{name:30} {medians[name] * 1e3:8.2f} {1 / medians[name]:9.1f} {bare / medians[name]:12.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

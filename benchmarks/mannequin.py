"""Speed of the mannequin on one core: drawing, keypoints alone, and video, at 320x320.

The baseline of drawing shades every capsule over the whole frame instead of its own box; the baseline of keypoints is
the drawn clip. Runs are interleaved, medians are shown.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from skelcore.mannequin import ACTIONS, Performance, perform, write_video
from skelcore.shading import Painter

ROUNDS, SECONDS, FPS = 7, 2.0, 20.0


class WholeFramePainter(Painter):
    """The same picture without bounding boxes."""

    def _capsule(self, p: int, box: tuple[slice, slice], ends: np.ndarray, radii: np.ndarray, depths: np.ndarray
                 ) -> None:
        super()._capsule(p, (slice(None), slice(None)), ends, radii, depths)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def paint(kind: type[Painter], clip: Performance) -> None:
    painter = kind(clip.size, clip.capsules, np.array([0.3, -0.5, -0.5]), 0.4, np.random.default_rng(0))
    frame = np.zeros((*clip.size, 3), np.uint8)
    for index in range(len(clip)):
        painter.paint(frame, index)


def draw(clip: Performance) -> None:
    for _ in clip.render():
        pass


def main() -> None:
    cv2.setNumThreads(1)
    folder = tempfile.TemporaryDirectory()
    times: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        action = ACTIONS[number % len(ACTIONS)]
        clip = perform(action, number, number, seconds=SECONDS, fps=FPS)
        works: dict[str, Callable[[], object]] = {
            "paint, whole frame": partial(paint, WholeFramePainter, clip),
            "paint, boxes": partial(paint, Painter, clip),
            "render": partial(draw, clip),
            "write_video": partial(write_video, clip, Path(folder.name) / "clip.mp4"),
            "perform (no pixels)": partial(perform, action, number, number, seconds=SECONDS, fps=FPS),
        }
        for name, work in works.items():
            times.setdefault(name, []).append(seconds_of(work))
    folder.cleanup()
    frames = SECONDS * FPS
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'320x320, CPU time of one core':32s}{'frames/s':>10s}{'clips/min':>11s}{'ratio':>8s}")
    for name, value in medians.items():
        base = medians["paint, whole frame" if name.startswith("paint") else "render"]
        print(f"{name:32s}{frames / value:10.0f}{60 / value:11.0f}{base / value:8.1f}")


if __name__ == "__main__":
    main()

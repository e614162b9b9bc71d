"""Shots: where a video cuts from one scene to another."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode

from harvest.decode import Chunk

# The content of a frame is compared at this width in pixels.
_WIDTH = 128
# Frames on either side with which a change is compared: a cut stands out, the sweep of a camera does not.
_WINDOW = 2


def marked(chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, list[int]]]:
    """Each chunk with the ticks in it at which another shot begins; it comes when the next one has been looked at.

    A cut is a frame that differs from the one before in hue, saturation and brightness by 15 of 255 or more, and three
    times as much as its neighbours do (PySceneDetect's AdaptiveDetector with its own thresholds). Fades and dissolves
    are none; a flash is taken for one, and what changes in the last two frames is not.
    """
    # The detector measures a shot from its last cut, so that this also says how long a shot lasts at least.
    detector = AdaptiveDetector(min_scene_len=_WINDOW + 1, window_width=_WINDOW)
    held: Chunk | None = None
    cuts: list[int] = []
    for chunk in chunks:
        for tick, frame in enumerate(chunk.frames, chunk.first):
            time = FrameTimecode(tick, float(chunk.rate))
            cuts += [cut.frame_num for cut in detector.process_frame(time, _small(frame))]
        if held is not None:
            yield held, _within(held, cuts)
        held = chunk
    if held is not None:
        yield held, _within(held, cuts)


def _within(chunk: Chunk, cuts: list[int]) -> list[int]:
    return [cut for cut in cuts if chunk.first <= cut < chunk.first + len(chunk.frames)]


def _small(frame: np.ndarray) -> np.ndarray:
    """An RGB frame (H, W, 3) as the detector wants it: small, and BGR."""
    height, width = frame.shape[:2]
    shape = _WIDTH, max(1, round(_WIDTH * height / width))
    return cv2.cvtColor(cv2.resize(frame, shape, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)

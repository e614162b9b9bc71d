"""A tiny estimator and the videos that it understands: a person is a white rectangle on black."""

import os
import time

import av
import cv2
import numpy as np

from harvest.estimators import People, Poses
from skelcore import layouts

LAYOUT = layouts.get("coco17")
# Where each joint lies in a person's rectangle; no two joints coincide.
TEMPLATE = np.stack([0.5 + 0.4 * np.cos(np.arange(17)), np.linspace(0.05, 0.95, 17)], -1)
POISON, TARPIT = (0, 255, 0), (0, 0, 255)


class Blobs:
    """Finds white rectangles; a green corner kills its process, a blue one hangs it."""

    def __init__(self, layout="coco17"):
        self.layout = layouts.get(layout)
        self.provenance = {"estimator": "blobs"}

    def detect(self, frames):
        for frame in frames:
            corner = frame[:8, :8].reshape(-1, 3).mean(0)
            if corner[1] > 150 and corner[0] < 100:
                os._exit(139)
            if corner[2] > 150 and corner[0] < 100:
                time.sleep(600)
        return [People(b := self._boxes(f), np.full(len(b), 0.9), None) for f in frames]

    def estimate(self, frames, people):
        time.sleep(float(os.environ.get("BLOBS_SECONDS", 0)))
        return [self._poses(frame, found) for frame, found in zip(frames, people, strict=True)]

    def _boxes(self, frame):
        count, _, stats, _ = cv2.connectedComponentsWithStats((frame.min(-1) > 128).astype(np.uint8))
        found = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:count] if area > 100]
        return np.array(found, float).reshape(-1, 4)

    def _poses(self, frame, people):
        now = self._boxes(frame)
        boxes = []
        for box in people.boxes:
            centre = (box[:2] + box[2:]) / 2
            distance = np.abs((now[:, :2] + now[:, 2:]) / 2 - centre).sum(1) if len(now) else np.zeros(0)
            if len(now) and distance.min() < 40:
                boxes.append(now[distance.argmin()])
        boxes = np.array(boxes).reshape(-1, 4)
        keypoints = boxes[:, None, :2] + TEMPLATE * (boxes[:, None, 2:] - boxes[:, None, :2])
        sure = np.ones(len(boxes))
        return Poses(keypoints, np.full((len(boxes), 17), 0.9), sure, People(boxes, sure))


def write(path, frames, fps=15, times=None, options=None, codec="libx264", rate=1000):
    """Encode RGB frames (T, H, W, 3); ``times`` in seconds makes the frame rate variable."""
    from fractions import Fraction

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast"} if codec == "libx264" else {}
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * rate), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def walk(seconds=2.0, fps=15, persons=1, seed=0, corner=None, size=(96, 160)):
    """Frames of persons who walk to and fro."""
    rng = np.random.default_rng(seed)
    starts, speeds = rng.uniform(0, 6, persons), rng.uniform(0.5, 2, persons)
    frames = np.zeros((round(seconds * fps), *size, 3), np.uint8)
    for t, frame in enumerate(frames):
        for p in range(persons):
            x = 20 + 50 * p + round(14 * np.sin(starts[p] + speeds[p] * t / fps))
            frame[20:80, x:x + 20] = 255
        if corner is not None:
            frame[:16, :16] = corner
    return frames

"""Annotate: a video with the skeletons of the people in it, and what each is doing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

from adapt.windows import UNKNOWN, Answer
from skelcore.draw import draw_frame
from skelcore.files import atomic
from skelcore.sequence import PoseSequence

_TEXT, _PLATE, _DOUBT = (255, 255, 255), (20, 24, 32), (120, 40, 40)
_CODEC = {"crf": "23", "preset": "veryfast", "threads": "1"}
_STRENGTH = 0.75  # of the plate under a text


@dataclass(frozen=True)
class Person:
    """A track, and the answers for consecutive stretches of it."""

    track: PoseSequence
    segments: Sequence[Answer]

    @property
    def first(self) -> int:
        """Frame of the video at which the track begins."""
        return round(self.track.meta["start"] * (self.track.fps or 1.0))


def write(path: Path, frames: Iterable[tuple[np.ndarray, float]], people: Sequence[Person], note: str = "") -> None:
    """Write frames (H, W, 3) uint8 RGB as H.264 with everyone's skeleton, class and confidence, complete or not at all.

    Each frame comes with their number a second, which is that of all tracks; ``note`` stands below.
    """
    with atomic(path) as file, av.open(file, "w", format="mp4") as container:
        stream = None
        for number, (frame, rate) in enumerate(frames):
            height, width = (side - side % 2 for side in frame.shape[:2])  # the codec wants even sides
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options=_CODEC)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            picture = np.ascontiguousarray(drawn(frame, number, people, note)[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def drawn(frame: np.ndarray, number: int, people: Sequence[Person], note: str = "") -> np.ndarray:
    """A copy of frame ``number`` with what is to be seen and said of it."""
    image = frame.copy()
    labels = []
    taken: list[tuple[slice, slice]] = []
    for person in people:
        t = number - person.first
        if 0 <= t < person.track.frames and (person.track.scores[0, t] > 0).any():
            image = draw_frame(image, person.track, t)
            labels.append((_above(person.track, t, image.shape), _answer_at(person, number)))
    for place, answer in labels:
        text = (f"{UNKNOWN} ({answer.ranked[0][0]}?)" if answer.name == UNKNOWN
                else f"{answer.name} {100 * answer.confidence:.0f} %")
        _write_on(image, text, place, _DOUBT if answer.name == UNKNOWN else _PLATE, taken)
    if note:
        _write_on(image, note, (0, image.shape[0]), _PLATE, taken)
    return image


def _answer_at(person: Person, number: int) -> Answer:
    now = number / (person.track.fps or 1.0)
    return next((each for each in person.segments if now < each.stop), person.segments[-1])


def _above(track: PoseSequence, t: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Where a label's lower left corner stands: a little above the highest seen joint, x of the leftmost one."""
    height, width = track.size or shape[:2]
    points = track.keypoints[0, t][track.scores[0, t] > 0] * (shape[1] / width, shape[0] / height)
    left, top = points.min(0)
    return round(float(left)), round(float(top) - 0.02 * shape[0])


def _write_on(image: np.ndarray, text: str, place: tuple[int, int], plate: tuple[int, int, int],
              taken: list[tuple[slice, slice]]) -> None:
    """Put text on a plate whose lower left corner is ``place``, moved into the image and above what is ``taken``."""
    mask = _rendered(text, max(11, round(min(image.shape[:2]) / 20)))[:image.shape[0], :image.shape[1]]
    height, width = mask.shape
    x = int(np.clip(place[0], 0, image.shape[1] - width))
    y = int(np.clip(place[1] - height, 0, image.shape[0] - height))
    for rows, columns in sorted(taken, key=lambda each: -each[0].stop):  # the lowest first, since plates move up
        if x < columns.stop and columns.start < x + width and y < rows.stop and rows.start < y + height:
            y = max(0, rows.start - height)
    taken.append((slice(y, y + height), slice(x, x + width)))
    under = image[taken[-1]]
    ground = cv2.addWeighted(np.full_like(under, plate), _STRENGTH, under, 1 - _STRENGTH, 0)
    share = mask[..., None] / 255
    under[:] = np.round(ground * (1 - share) + np.array(_TEXT) * share).astype(np.uint8)


@lru_cache(maxsize=256)
def _rendered(text: str, size: int) -> np.ndarray:
    """Text as a mask (h, w) uint8 with a margin; matplotlib's font has many scripts' letters, cv2's only ASCII."""
    font = FT2Font(findfont(FontProperties(family="DejaVu Sans")))
    font.set_size(size, 72)
    font.set_text(text)
    font.draw_glyphs_to_bitmap()
    return np.pad(np.asarray(font.get_image()), size // 4)

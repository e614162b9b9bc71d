"""Video to person tracks: decode, find shots, detect, estimate, track. No Ray, no network.

The door through which ``adapt`` reads a user's videos: what it needs beside is here by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from harvest import decode, quality, shots
from harvest.estimators import Estimator, build, pinned
from harvest.estimators.config import BlazePoseConfig, Choice, EstimatorConfig, identity, nameless
from harvest.follow import Shot, Stretch
from harvest.interactions import groups
from harvest.reasons import VideoError
from harvest.track import Track
from skelcore.sequence import PoseSequence

__all__ = ["BlazePoseConfig", "Choice", "Estimator", "EstimatorConfig", "Extraction", "VideoError", "build", "decode",
           "extract", "identity", "nameless", "pinned", "scan"]

# Frames that are decoded at a time, about.
_CHUNK = 16

Worth = Callable[[dict[str, float]], bool]  # whether the numbers of a sequence (quality.measure) are good enough


@dataclass(frozen=True)
class Extraction:
    """Tracks of one video or clip, how many frames and seconds of it were looked at, and the seconds of its cuts."""

    sequences: list[PoseSequence]
    frames: int
    seconds: float
    cuts: list[float]


def extract(path: str | Path, estimator: Estimator, fps: float = 15.0, detect_every: int = 5, short_side: int = 720,
            max_seconds: float = float("inf"), max_persons: int = 8) -> list[PoseSequence]:
    """Person tracks of a video, one PoseSequence (1, T, V, 2) each, in pixels of the video as displayed.

    Frames in which a person was not seen have score 0. ``meta["start"]`` is the second at which the track begins,
    ``meta["quality"]`` its measured numbers (quality.measure). No track crosses a cut. Nobody in view gives an empty
    list; a video that cannot be read raises VideoError with a named reason.
    """
    return scan(path, estimator, fps, detect_every, short_side, max_seconds, max_persons).sequences


def scan(path: str | Path, estimator: Estimator, fps: float, detect_every: int, short_side: int, max_seconds: float,
         max_persons: int, clip: tuple[float, float] | None = None, together: Worth | None = None) -> Extraction:
    """``extract`` with the frames, seconds and cuts that it saw; of a ``clip`` (see decode.chunks) only.

    Times are those of the whole video. With ``together``, two persons who stay close to each other are one sequence
    (2, T, V, 2) instead of two, where it says that either and both are worth it: a phantom spoils nobody.
    """
    # So that, at the full rate, chunks begin with a pass of the detector.
    length = detect_every * max(1, round(_CHUNK / detect_every)) if detect_every <= 2 * _CHUNK else _CHUNK
    marked = shots.marked(decode.chunks(path, fps, short_side, max_seconds, length, clip))
    chunk, cuts = next(marked)  # decode raises when there is no frame
    # As often in seconds as for a video of the full rate.
    every = max(1, round(detect_every * chunk.rate / fps))
    followed: list[Shot] = []
    frames = 0
    stretches = _stretches(chain([(chunk, cuts)], marked), estimator, every)
    for stretch, following in pairwise(chain(stretches, [None])):
        assert stretch is not None
        if stretch.opening:
            followed.append(Shot(estimator, chunk.rate, max_persons))
        ahead = following.detections if following is not None and not following.opening else None
        followed[-1].follow(stretch, ahead)
        frames += len(stretch.frames)
    begin = 0.0 if clip is None else clip[0]
    crowd = max(shot.crowd for shot in followed)
    make = partial(_sequence, estimator=estimator, chunk=chunk, begin=begin, crowd=crowd)
    found = [sequence for shot in followed for sequence in _samples(shot.tracks(), chunk.rate, make, together)]
    sequences = [replace(sequence, id=f"{Path(path).stem}/{number:04d}") for number, sequence in enumerate(found)]
    return Extraction(sequences, frames, frames / chunk.rate,
                      [round(begin + shot.first / chunk.rate, 4) for shot in followed[1:]])


def _stretches(marked: Iterator[tuple[decode.Chunk, list[int]]], estimator: Estimator, every: int) -> Iterator[Stretch]:
    """The frames from one pass of the detector to the next, or to the chunk's end; a pass opens each shot."""
    for chunk, cuts in marked:
        opening = {0, *cuts}
        passes = [tick for tick in range(chunk.first, chunk.first + len(chunk.frames))
                  if tick % every == 0 or tick in opening]
        at = [tick - chunk.first for tick in passes]
        found = dict(zip(passes, estimator.detect(chunk.frames[at]), strict=True)) if at else {}
        for begin, end in pairwise(sorted({0, *at, len(chunk.frames)})):
            first = chunk.first + begin
            yield Stretch(chunk.frames[begin:end], first, chunk.scale, found.get(first), first in opening)


def _samples(tracks: list[Track], rate: float, make: Callable[[tuple[Track, ...]], PoseSequence],
             together: Worth | None) -> list[PoseSequence]:
    """A sequence a track, or of two where they belong ``together``, in order of birth."""
    single = {track: make((track,)) for track in tracks}
    if together is None:
        return list(single.values())
    worthy = [track for track, sequence in single.items() if together(sequence.meta["quality"])]
    pairs = {group: make(group) for group in groups(worthy, rate) if len(group) == 2}
    pairs = {group: pair for group, pair in pairs.items() if together(pair.meta["quality"])}
    second = {group[1] for group in pairs}
    return list({**{track: sequence for track, sequence in single.items() if track not in second},
                 **{group[0]: pair for group, pair in pairs.items()}}.values())


def _sequence(group: tuple[Track, ...], estimator: Estimator, chunk: decode.Chunk, begin: float,
              crowd: int) -> PoseSequence:
    first, last = min(track.first for track in group), max(track.last for track in group)
    keypoints = np.zeros((len(group), last - first + 1, len(estimator.layout), 2), np.float32)
    scores = np.zeros(keypoints.shape[:3], np.float32)
    for person, track in enumerate(group):
        at = np.array(track.ticks) - first
        keypoints[person, at], scores[person, at] = np.stack(track.keypoints), np.stack(track.scores)
    sequence = PoseSequence(keypoints, scores, estimator.layout, chunk.size, chunk.rate)
    numbers = quality.measure(sequence, min(float(np.mean(track.presence)) for track in group),
                              min(track.agreement for track in group), crowd)
    sequence.meta.update(start=round(begin + first / chunk.rate, 4), quality=numbers)
    return sequence

"""Windows: a person's track cut into stretches of time, and their answers merged into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from skelcore.sequence import PoseSequence

_LONG = 1.5  # windows that a track must last, to be cut
_OBSERVED = 0.25  # share of a window in which the person must be seen

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """What is said of a stretch of time from ``start`` to ``stop``, in seconds of the video.

    ``probabilities`` (W,) are those of the ``classes`` if it is any of them; a ``novelty`` above ``limit``, if there is
    one, says that it is none.
    """

    start: float
    stop: float
    probabilities: np.ndarray
    novelty: float
    classes: tuple[str, ...]
    limit: float | None = 1.0

    @property
    def name(self) -> str:
        unknown = self.limit is not None and self.novelty > self.limit
        return UNKNOWN if unknown else self.classes[int(self.probabilities.argmax())]

    @property
    def confidence(self) -> float:
        """The probability of the likeliest class, of an unknown stretch too."""
        return float(self.probabilities.max())

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """Every class with its probability, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


def cut(track: PoseSequence, window: float) -> list[tuple[int, int]]:
    """First and last-but-one frames of windows of ``window`` seconds, half of one apart, the last at the track's end.

    A track not much longer than that is one window; those in which the person is hardly seen are left out.
    """
    length = max(2, round(window * (track.fps or 1.0)))
    if track.frames <= _LONG * length:
        return [(0, track.frames)]
    starts = [*range(0, track.frames - length, max(1, length // 2)), track.frames - length]
    seen = (track.scores[0] > 0).any(1)
    found = [(start, start + length) for start in starts if seen[start:start + length].mean() >= _OBSERVED]
    return found or [(0, track.frames)]


def part(track: PoseSequence, window: tuple[int, int]) -> PoseSequence:
    """The frames of a window."""
    begin, end = window
    return replace(track, keypoints=track.keypoints[:, begin:end], scores=track.scores[:, begin:end])


def merged(answers: Sequence[Answer]) -> list[Answer]:
    """Runs of windows of the same name as one segment each; where windows overlap, the middle parts them."""
    if not answers:
        return []
    edges = [answers[0].start]
    edges += [(before.stop + after.start) / 2 if before.stop > after.start else after.start
              for before, after in pairwise(answers)]
    groups: list[list[int]] = []
    for i, answer in enumerate(answers):
        if groups and answers[i - 1].name == answer.name:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [replace(mean([answers[i] for i in group]), start=edges[group[0]],
                    stop=edges[group[-1] + 1] if group[-1] + 1 < len(edges) else answers[-1].stop) for group in groups]


def mean(answers: Sequence[Answer]) -> Answer:
    """One answer for all of the windows: the mean of their probabilities and novelties."""
    return replace(answers[0], stop=answers[-1].stop, novelty=float(np.mean([each.novelty for each in answers])),
                   probabilities=np.mean([each.probabilities for each in answers], 0))

"""The pairs of classes that are most often taken for one another, and their skeletons side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adapt.report.plots import short
from skelcore.draw import contact_sheet
from skelcore.files import atomic
from skelcore.sequence import PoseSequence

_FRAMES = 4
_DPI = 120


@dataclass(frozen=True)
class Pair:
    """Two classes, the share of ``one``'s queries taken for the ``other``, and the share the other way."""

    one: int
    other: int
    forth: float
    back: float


def hardest(counts: np.ndarray, most: int = 6) -> list[Pair]:
    """Pairs by the sum of both shares, of counts (W, W) of true class (row) against prediction; the worst first."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows, columns = np.triu_indices(len(counts), 1)
    both = share[rows, columns] + share[columns, rows]
    ranked = np.argsort(-both, kind="stable")[:most]
    found = [(int(rows[i]), int(columns[i])) for i in ranked if both[i] > 0]
    return [Pair(i, j, float(share[i, j]), float(share[j, i])) for i, j in found]


def draw(path: Path, found: Sequence[Pair], classes: Sequence[str], exemplar: Callable[[int], PoseSequence]) -> None:
    """A line for each pair: frames of a clip of the one class on the left, of the other on the right."""
    left = contact_sheet([exemplar(pair.one) for pair in found],
                         [f"{_named(classes[pair.one])}: {_taken(pair.forth, classes[pair.other])}" for pair in found],
                         _FRAMES)
    right = contact_sheet([exemplar(pair.other) for pair in found],
                          [f"{_named(classes[pair.other])}: {_taken(pair.back, classes[pair.one])}" for pair in found],
                          _FRAMES)
    sheets = [_pixels(left), _pixels(right)]
    gap = np.full((len(sheets[0]), _DPI // 4, 3), 255, np.uint8)
    png = cv2.imencode(".png", np.hstack([sheets[0], gap, sheets[1]])[..., ::-1])[1].tobytes()
    with atomic(path) as file:
        file.write(png)


def _named(name: str) -> str:
    # contact_sheet itself sees to dollar signs.
    return short(name, 34).replace(r"\$", "$")


def _taken(share: float, other: str) -> str:
    return f"{100 * share:.0f} % taken for {_named(other)}"


def _pixels(figure: Figure) -> np.ndarray:
    """The figure as an image (H, W, 3) uint8."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]

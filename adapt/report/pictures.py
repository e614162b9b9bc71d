"""What an evaluation hands over to be drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skelcore.sequence import PoseSequence


@dataclass(frozen=True)
class Pictures:
    """Of the row that ``results.shown`` names.

    ``confusion`` (W, W) counts true class (row) against prediction, None for N-way episodes; ``features`` (n, F) and
    ``labels`` (n,) are of the queries; ``exemplar(c)`` reads a labelled clip of class c, if c is often confused.
    """

    confusion: np.ndarray | None
    features: np.ndarray
    labels: np.ndarray
    exemplar: Callable[[int], PoseSequence]

"""A map of the queries' features in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from adapt.report.plots import save, short
from adapt.report.tsne import principal, tsne

_POINTS = 1000  # few enough for seconds
_COLOURED = 20  # classes that colours tell apart
_FEWEST = 5  # points of a t-SNE


def write(path: Path, features: np.ndarray, labels: np.ndarray, classes: Sequence[str],
          first: Sequence[int]) -> tuple[str, int]:
    """Draw features (n, F) with ``labels`` (n,), of many evenly chosen from every class; returns method and points.

    Of more classes than colours can tell apart, those of ``first`` are coloured, then others in their order.
    """
    ordered = np.argsort(labels, kind="stable")
    chosen = ordered[np.linspace(0, len(ordered) - 1, min(_POINTS, len(ordered))).astype(int)]
    shown = labels[chosen]
    places, method = _placed(features[chosen])
    present = [label for label in dict.fromkeys([*first, *range(len(classes))]) if (shown == label).any()]
    coloured = sorted(present[:_COLOURED])
    figure = Figure(figsize=(8.2, 5.4), layout="constrained")
    panel = figure.subplots()
    for label, colour in zip(coloured, matplotlib.colormaps["tab20"].colors, strict=False):  # type: ignore[attr-defined]
        here = places[shown == label]
        panel.scatter(here[:, 0], here[:, 1], s=14, color=colour, linewidths=0, label=short(classes[label], 28))
    rest = ~np.isin(shown, coloured)
    if rest.any():
        panel.scatter(places[rest, 0], places[rest, 1], s=6, color="0.85", lw=0, zorder=0, label="other classes")
    panel.set_aspect("equal", adjustable="datalim")
    panel.set(xticks=[], yticks=[], title=f"{method} of the features of {len(chosen)} queries")
    panel.margins(0.04)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8,
                  markerscale=1.8)
    save(path, figure)
    return method, len(chosen)


def _placed(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Places (n, 2), and by what method: t-SNE, or PCA of points that are too few, or all alike."""
    if len(features) >= _FEWEST and np.ptp(features, 0).any():
        return tsne(features), "t-SNE"
    flat = principal(features, 2)
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), "PCA"

"""Pictures of rows: accuracy against k, confusion matrix, and recall of each class."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adapt.results import CONTROLS, Row, column, order, shown
from skelcore.files import atomic

COLOURS = {"pretrained": "#0b6fb8", "fused": "#1a9850", "scratch": "#d1711c",
           "uncalibrated": "#8a5cb5", "statistics": "#c51b7d", "raw": "#6b6b6b",
           "filled": "#111111"}
_ABREAST = 4  # panels
_BARS = 40  # in a column, unless there were more columns than fit a page
_COLUMNS = 5
_NAMED = 150  # classes beyond which a confusion matrix has no room for names


def accuracy(path: Path, rows: Sequence[Row]) -> None:
    """Accuracy against k with its interval: one panel a head, one line a representation."""
    panels: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        title = f"{row.method} (transductive)" if row.transductive else row.method
        panels.setdefault(title, {}).setdefault(row.representation, []).append(row)
    curves(path, panels, COLOURS)


def curves(path: Path, panels: Mapping[str, Mapping[str, Sequence[Row]]], colours: Mapping[str, str]) -> None:
    """Panels by title, in each the lines by label; k stand evenly spaced, since a share of the labels is no number."""
    shots = sorted({row.k for lines in panels.values() for rows in lines.values() for row in rows}, key=order)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    abreast = min(_ABREAST, len(panels))
    across, down = max(3.0 * abreast + 0.8, 4.6), 3.0 * -(-len(panels) // abreast)
    beside = max(1, int(across / (0.8 + 0.085 * max(map(len, labels)))))
    figure = Figure(figsize=(across, down + 0.25 * -(-len(labels) // beside) + 0.2), layout="constrained")
    grid = figure.subplots(-(-len(panels) // abreast), abreast, sharey=True, squeeze=False)
    handles = {}
    for panel, (title, lines) in zip(grid.flat, panels.items(), strict=False):
        for label, rows in lines.items():
            # Where there is one k, points stand side by side.
            shift = 0.0 if len(shots) > 1 else labels.index(label) - (len(labels) - 1) / 2
            # Later lines are thinner, so that two that are equal are both seen.
            width = max(0.8, 2.6 - 0.3 * labels.index(label))
            handles[label] = _curve(panel, rows, shots, shift, colours[label], width)
        panel.set_title(_plain(title), fontsize=10)
        panel.set_xticks(range(len(shots)), [str(k).replace("%", " %") for k in shots], fontsize=8)
        panel.set_xlabel(_unit(shots), fontsize=8)
        panel.margins(x=0.08 if len(shots) > 1 else 0.2)
        panel.grid(alpha=0.25)
    for panel in grid.flat[len(panels):]:
        panel.set_visible(False)
    for panel in grid[:, 0]:
        panel.set_ylabel("accuracy, %")
    figure.legend([handles[label] for label in labels], list(map(_plain, labels)), loc="outside lower center",
                  ncols=min(beside, len(labels)), frameon=False, fontsize=9)
    save(path, figure)


def confusion(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Confusion matrix in percent of each true class."""
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [short(name, 32) for name in classes] if len(classes) <= _NAMED else []
    side = min(2.5 + 0.38 * len(classes) + 0.07 * max(map(len, names), default=0), 24)
    size = min(10.0, 46 * side / len(classes))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    panel = figure.subplots()
    figure.colorbar(panel.imshow(share, cmap="Blues", vmin=0, vmax=100), label="% of the true class", shrink=0.8)
    places = range(len(names))
    panel.set_xticks(places, names, rotation=90, fontsize=size)
    panel.set_yticks(places, names, fontsize=size)
    panel.set(xlabel="predicted", ylabel="true")
    # Over the whole figure, so that it is as wide as the title of a small matrix needs.
    figure.suptitle(_wrapped(title, side), fontsize=10)
    if len(classes) <= 30:
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.5:
                panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7,
                           color="white" if value > 55 else "black")
    save(path, figure)


def per_class(path: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """Recall of each class, worst first, of the row that is shown, and of the controls there are with the same head."""
    row = shown(rows)
    if row.per_class is None:
        return
    same = {each.representation: each for each in rows if (each.method, each.k) == (row.method, row.k)}
    others = [same[name] for name in CONTROLS if name in same and name != row.representation]
    recall = _percent(row)
    ranked = np.argsort(recall, kind="stable")  # classes without queries, which are NaN, come last
    columns = np.array_split(ranked, min(_COLUMNS, -(-len(ranked) // _BARS)))
    figure = Figure(figsize=(max(4.6 * len(columns), 5.0), 1.5 + 0.2 * len(columns[0])), layout="constrained")
    for panel, part in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        bars = panel.barh(range(len(part)), recall[part], color=COLOURS[row.representation], alpha=0.75, height=0.7)
        dots = [panel.plot(_percent(each)[part], range(len(part)), ".", color=COLOURS[each.representation])[0]
                for each in others]
        panel.set_yticks(range(len(part)), [short(classes[i], 32) for i in part], fontsize=8)
        panel.set(ylim=(len(columns[0]) - 0.5, -0.5), xlim=(0, 100), xlabel="recall, %")
        panel.grid(axis="x", alpha=0.25)
    figure.suptitle(f"recall by class: {row.method}, {column(row.k)}", fontsize=10)
    figure.legend([bars, *dots], [each.representation for each in (row, *others)], loc="outside lower center",
                  ncols=3, frameon=False, fontsize=8)
    save(path, figure)


def short(name: str, most: int) -> str:
    """A name that has room, and that is no formula."""
    return _plain(name if len(name) <= most else name[:most - 1] + "…")


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    with atomic(path) as file:
        file.write(buffer.getvalue())


def _curve(panel: Axes, rows: Sequence[Row], shots: Sequence[int | str], shift: float, colour: str,
           width: float) -> Any:
    """Draw a line with its band, or a point with its error bar where there is one k; returns what the legend shows."""
    # No line leads from clips a class to shares of the labels, which may be fewer.
    handle: Any = None
    for part in ([row for row in rows if isinstance(row.k, str) is share] for share in (True, False)):
        part.sort(key=lambda row: order(row.k))
        at = np.array([shots.index(row.k) for row in part]) + shift
        mean = 100 * np.array([row.mean for row in part])
        half = 100 * np.array([row.band or 0.0 for row in part])
        if len(part) > 1:
            panel.fill_between(at, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
            handle = panel.plot(at, mean, "o-", color=colour, markersize=4 + width, linewidth=width)[0]
        elif part:
            handle = panel.errorbar(at, mean, half, fmt="o", color=colour, markersize=4 + width, capsize=3)
    return handle


def _unit(shots: Sequence[int | str]) -> str:
    kinds = {"% of the labels" if isinstance(k, str) else "labelled clips a class": None for k in shots}
    return ", ".join(kinds)


def _percent(row: Row) -> np.ndarray:
    """Recalls (W,) in percent, NaN for classes without queries."""
    return 100 * np.array([np.nan if each is None else each for each in row.per_class or ()])


def _plain(name: str) -> str:
    return name.replace("$", r"\$")


def _wrapped(title: str, inches: float) -> str:
    return title.replace(": ", ":\n") if len(title) > 11 * inches else title

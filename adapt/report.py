"""The table and the pictures of an evaluation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adapt.results import Difference, Row, shown
from skelcore.files import atomic

COLOURS = {"pretrained": "#0b6fb8", "fused": "#1a9850", "scratch": "#d1711c",
           "uncalibrated": "#8a5cb5", "statistics": "#c51b7d", "raw": "#6b6b6b",
           "filled": "#111111"}


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and one line a representation and head: accuracy in percent with its 95 % interval, by k."""
    shots = sorted({row.k for row in rows})
    cells = {(row.name, row.k): f"{100 * row.mean:.1f} ± {100 * row.half_width:.1f}" for row in rows}
    return [["features/head", *(f"{k}-shot" for k in shots)],
            *([name, *(cells[name, k] for k in shots)] for name in dict.fromkeys(row.name for row in rows))]


def label_table(all_labels: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Header and one line a representation: accuracy in percent with all labels of the support split."""
    methods = list(next(iter(all_labels.values())))
    return [["all labels", *methods],
            *([name, *(f"{100 * found[method]:.1f}" for method in methods)] for name, found in all_labels.items())]


def difference_table(differences: Sequence[Difference]) -> list[list[str]]:
    """Header and one line a head and control: paired difference in points with its 95 % interval, by k."""
    shots = sorted({each.k for each in differences})
    cells = {(each.method, each.minus, each.k): f"{100 * each.mean:+.1f} ± {100 * each.half_width:.1f}"
             for each in differences}
    names = dict.fromkeys((each.method, each.minus) for each in differences)
    return [["paired difference", *(f"{k}-shot" for k in shots)],
            *([f"{method}: pretrained - {minus}", *(cells[method, minus, k] for k in shots)]
              for method, minus in names)]


def text(lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns for a console."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)
    return "\n".join(rows)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def page(rows: Sequence[Row], differences: Sequence[Difference], all_labels: Mapping[str, Mapping[str, float]],
         facts: Sequence[str], command: str) -> str:
    """``results.md``."""
    draws, inits = len(rows[0].accuracy), max(len(row.inits) for row in rows)
    notes = [f"Accuracy in percent over {draws} nested draws of the support: mean ± 95 % t-interval. The interval is "
             "over draws of one encoder; another training seed may lie outside it."]
    if inits > 1:
        notes.append(f"A value with random weights (`scratch`, `uncalibrated`) is the mean of {inits} initialisations "
                     f"for each draw; they lie up to {_spread(rows):.1f} points apart, which is the least difference "
                     "that one pretraining run can claim.")
    parts = ["# Few-shot evaluation", "\n".join(f"* {fact}" for fact in facts), " ".join(notes), markdown(table(rows))]
    if differences:
        parts += ["In points, on the same draws:", markdown(difference_table(differences))]
    if all_labels:
        parts += ["With every label of the support split, one initialisation:", markdown(label_table(all_labels))]
    row = shown(rows)
    parts += ["![accuracy against k](accuracy.png)", "![confusion matrix](confusion.png)",
              f"Confusion matrix of `{row.name}` at {row.k}-shot, a fixed choice and not the best on the queries.",
              f"Reproduce with\n\n```\n{command}\n```"]
    return "\n\n".join(parts) + "\n"


def _spread(rows: Sequence[Row]) -> float:
    """The largest difference in points between the means of a row's initialisations."""
    return 100 * max(max(row.inits) - min(row.inits) for row in rows)


def plot_accuracy(path: Path, rows: Sequence[Row]) -> None:
    """Accuracy against k with its interval: one panel a head, one line a representation."""
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(3.2 * len(methods) + 0.8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    shots = sorted({row.k for row in rows})
    for panel, method in zip(panels, methods, strict=True):
        for name in dict.fromkeys(row.representation for row in rows):
            line = sorted((row for row in rows if row.name == f"{name}/{method}"), key=lambda row: row.k)
            if not line:  # a method that this representation does not take
                continue
            mean, half = (100 * np.array([getattr(row, part) for row in line]) for part in ("mean", "half_width"))
            panel.plot(shots, mean, "o-", color=COLOURS[name], label=name, markersize=4)
            panel.fill_between(shots, mean - half, mean + half, color=COLOURS[name], alpha=0.18, linewidth=0)
        panel.set(title=method, xlabel="labelled clips a class", xscale="log")
        panel.set_xticks(shots, [str(k) for k in shots])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("accuracy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    _save(path, figure)


def plot_confusion(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Confusion matrix in percent of each true class."""
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(2.5 + 0.38 * len(classes), 30)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    panel = figure.subplots()
    figure.colorbar(panel.imshow(share, cmap="Blues", vmin=0, vmax=100), label="% of the true class", shrink=0.8)
    panel.set_xticks(range(len(classes)), classes, rotation=90)
    panel.set_yticks(range(len(classes)), classes)
    panel.set(xlabel="predicted", ylabel="true", title=title)
    if len(classes) <= 25:
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.5:
                panel.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7,
                           color="white" if value > 55 else "black")
    _save(path, figure)


def _save(path: Path, figure: Figure) -> None:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    with atomic(path) as file:
        file.write(buffer.getvalue())

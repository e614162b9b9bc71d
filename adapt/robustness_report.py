"""The tables and the picture of robustness, and the schema of ``robustness.json``.

``robustness.json`` holds, all accuracies as fractions:

* ``schema`` 1; ``command`` that reproduces the folder; ``config`` resolved; ``versions`` of Python and libraries
* ``data``: ``uri``, ``query_uri``, ``fingerprint``, ``classes``, clips for ``support`` and ``query``; ``checkpoint``:
  ``path`` and ``sha256`` of each; ``draws``: ``seeds``, and for each k the ``sha256`` of each draw's sorted ids
* ``rows``: per ``table``, ``representation``, ``method``, ``k``, ``support`` and ``condition`` the ``accuracy`` of each
  draw, their ``mean`` and ``half_width`` of its 95 % t-interval, and ``change``: mean and half width of the paired
  difference from the table's reference on the same draws

``table`` is `dropped`: ``condition`` is the probability that a frame of a query lacks a joint; with ``support`` `clean`
the labelled clips are whole, with `robust` they, and the clips that whiten learns from, lose joints alike; reference is
0. `estimators`: ``support`` names the data that the poses of the labelled clips are of, ``condition`` those of the
queries'; reference is support by the queries' estimator. `persons`: ``condition`` is how many persons of a clip are
used; reference is the first.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adapt import report, results
from adapt.episodes import Budget
from skelcore.config import Config, to_yaml
from skelcore.files import atomic, write_text

_TITLES = {"dropped": "One joint dropped from a frame of a query with probability p",
           "estimators": "Support and queries by two pose estimators",
           "persons": "Persons of a clip that are used"}
_COLUMNS = {"dropped": "p = {:g}", "estimators": "queries: {}", "persons": "persons: {}"}


@dataclass(frozen=True)
class Row:
    """One representation and head under one condition, over the draws; see the module's docstring."""

    table: str
    representation: str
    method: str
    k: Budget
    support: str
    condition: float | str
    accuracy: list[float]
    mean: float
    half_width: float
    change: tuple[float, float]

    @property
    def line(self) -> str:
        return f"{self.representation}/{self.method}, {self.k}-shot, {self.support} support"

    @property
    def column(self) -> str:
        return _COLUMNS[self.table].format(self.condition)


def write(folder: Path, config: Config, rows: Sequence[Row], facts: Sequence[str],
          about: Mapping[str, Any]) -> str:
    """Write the folder, robustness.json last, so that a folder that has it is complete; returns what to print.

    ``about`` is what the JSON says of data, checkpoint and draws.
    """
    command = f"skelshot robustness {shlex.quote(str(folder / 'config.yaml'))}"
    write_text(folder / "config.yaml", to_yaml(config))
    plotted = [row for row in rows if row.table == "dropped"]
    if plotted:
        plot(folder / "robustness.png", plotted)
    write_text(folder / "robustness.md", page(rows, facts, command, bool(plotted)))
    content = {"schema": 1, "command": command, "config": config.model_dump(mode="json"),
               "versions": results.versions(), **about, "rows": [asdict(row) for row in rows]}
    write_text(folder / "robustness.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return "\n\n".join(["\n".join(facts), *(f"{title}\n{report.text(lines)}" for title, lines in tables(rows)),
                        f"wrote {folder / 'robustness.json'}, robustness.md" + ", robustness.png" * bool(plotted)])


def page(rows: Sequence[Row], facts: Sequence[str], command: str, plotted: bool) -> str:
    """``robustness.md``."""
    parts = ["# Robustness", "\n".join(f"* {fact}" for fact in facts),
             "Mean ± 95 % t-interval over the draws, which are the same in every cell. The interval knows nothing of "
             "other training runs.",
             *(f"## {title}\n\n{report.markdown(lines)}" for title, lines in tables(rows)),
             *(["![accuracy against p](robustness.png)"] if plotted else []), f"Reproduce with\n\n```\n{command}\n```"]
    return "\n\n".join(parts) + "\n"


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and lines of each table: its accuracies, then its paired differences from the reference."""
    for table, title in _TITLES.items():
        chosen = [row for row in rows if row.table == table]
        if chosen:
            yield f"{title}: accuracy in percent", _lines(chosen, [
                f"{100 * row.mean:.1f} ± {100 * row.half_width:.1f}" for row in chosen])
            yield f"{title}: paired difference in points", _lines(chosen, [
                f"{100 * row.change[0]:+.1f} ± {100 * row.change[1]:.1f}" for row in chosen])


def _lines(rows: Sequence[Row], cells: Sequence[str]) -> list[list[str]]:
    columns = list(dict.fromkeys(row.column for row in rows))
    found = {(row.line, row.column): cell for row, cell in zip(rows, cells, strict=True)}
    return [["features/head", *columns], *([line, *(found[line, column] for column in columns)]
                                           for line in dict.fromkeys(row.line for row in rows))]


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Accuracy against the probability, with its interval: a panel for each head and k, dashed for robust support."""
    panels = list(dict.fromkeys((row.method, row.k) for row in rows))
    figure = Figure(figsize=(4.4 * len(panels) + 1.2, 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (method, k) in zip(axes, panels, strict=True):
        here = [row for row in rows if (row.method, row.k) == (method, k)]
        for kind, support in dict.fromkeys((row.representation, row.support) for row in here):
            line = [row for row in here if (row.representation, row.support) == (kind, support)]
            at, colour = [float(row.condition) for row in line], report.COLOURS[kind]
            mean, half = (100 * np.array([getattr(row, part) for row in line]) for part in ("mean", "half_width"))
            axis.plot(at, mean, "o-" if support == "clean" else "s--", color=colour, markersize=4,
                      label=f"{kind}, {support} support")
            axis.fill_between(at, mean - half, mean + half, color=colour, alpha=0.1, linewidth=0)
        axis.set(title=f"{method}, {k}-shot", xlabel="probability p that a frame of a query lacks a joint")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=130)

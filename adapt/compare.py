"""Few-shot results of several runs as one table: skelshot compare RUN RUN ... [output=FOLDER]

A RUN is the folder of `skelshot adapt`, or its results.json. The first is what the others are set against: on the same
draws their differences are paired, with 95 % t-intervals and p-values of a paired t-test, corrected for their number by
Holm's method. Runs of other data, classes or draws stand in the table, but are marked as not comparable. With output=
the table is written there as compare.md and compare.tex, with a picture, compare.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from adapt.paired import Paired, Run, differences, read
from adapt.report import plots, render, table
from adapt.results import Row
from skelcore.command import Parser
from skelcore.files import write_text

_LEARNT = ("pretrained", "fused")
_PALETTE = ("#0b6fb8", "#d1711c", "#1a9850", "#8a5cb5", "#c51b7d", "#6b6b6b", "#b8860b", "#111111")
_ABOUT = ("Accuracy in percent ± 95 % interval over each run's own draws, which are all of one data set: it tells of "
          "other draws, not of other data. The best inductive one of a k, among comparable runs, is marked.")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the runs; exit status 2 with one line for a file that is no results.json of this version."""
    parser = Parser("skelshot compare", description=(__doc__ or "").split(":")[0],
                    epilog=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder, or results.json in it")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write the table, also as output=FOLDER")
    words = sys.argv[1:] if argv is None else argv
    return parser.run([f"--{word}" if word.startswith("output=") else word for word in words], _execute)


def _execute(arguments: argparse.Namespace) -> None:
    runs = read(arguments.runs)
    found = differences(runs)
    print(page(runs, found, console=True))
    if arguments.output is not None:
        write(arguments.output, runs, found)
        print(f"\nwrote {arguments.output / 'compare.md'}, compare.tex, compare.png")


def page(runs: Sequence[Run], found: Sequence[Paired], console: bool = False) -> str:
    """The comparison for a console, or in Markdown."""
    show = render.text if console else render.markdown
    parts = [] if console else ["# Comparison of runs"]
    parts += [_ABOUT, *(f"† {run.name}: not comparable: {run.unlike}" for run in runs if run.unlike)]
    for inductive, lines in _tables(runs):
        parts += [] if inductive else ["Transductive methods, which meet all queries at once:"]
        parts.append(show(lines, 3))
    if found:
        parts += [f"Minus {runs[0].name} in points, on the same draws, with p-values after Holm:",
                  show(_paired(found), 2)]
    return "\n\n".join(parts) + ("" if console else "\n\n![accuracy against k](compare.png)\n")


def write(folder: Path, runs: Sequence[Run], found: Sequence[Paired]) -> None:
    """Write compare.md, compare.tex and compare.png."""
    plots.curves(folder / "compare.png", _panels(runs),
                 {run.shown: _PALETTE[i % len(_PALETTE)] for i, run in enumerate(runs)})
    caption = "mean ± 95 % t-interval." + (" †: not comparable." if any(run.unlike for run in runs) else "")
    tables = [render.latex(lines, 3, f"Accuracy in percent{'' if inductive else ' of transductive methods'}, {caption}",
                           "comparison" if inductive else "transductive-comparison")
              for inductive, lines in _tables(runs)]
    if found:
        tables.append(render.latex(_paired(found), 2, f"Differences from {runs[0].name} in points, on the same draws, "
                                   "with p-values after Holm.", "paired-comparison"))
    write_text(folder / "compare.tex", "\n".join(tables))
    write_text(folder / "compare.md", page(runs, found))


def _tables(runs: Sequence[Run]) -> list[tuple[bool, table.Table]]:
    """Rows of all runs, those of one method together; inductive ones, then transductive ones."""
    named = [(run, row) for run in runs for row in run.results.rows]
    best: dict[int | str, float] = {}
    for run, row in named:
        if not (row.transductive or run.unlike):
            best[row.k] = max(best.get(row.k, 0), row.mean)
    found = []
    for inductive in (True, False):
        cells = [((row.representation, row.method, run.shown), row.k,
                  _cell(row, inductive and not run.unlike and row.mean == best[row.k]))
                 for run, row in named if row.transductive is not inductive]
        names = list(dict.fromkeys(name[:2] for name, _, _ in cells))
        cells.sort(key=lambda cell: names.index(cell[0][:2]))
        if cells:
            found.append((inductive, table.grid(("features", "head", "run"), cells)))
    return found


def _cell(row: Row, best: bool) -> str:
    text = table.percent(row.mean, row.band)
    return render.Best(text) if best else text


def _paired(found: Sequence[Paired]) -> table.Table:
    return table.grid(("run", "features/head"), [
        ((each.run, each.name), each.k, f"{table.points(each.mean, each.half_width)} ({_probability(each.p)})")
        for each in found])


def _probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _panels(runs: Sequence[Run]) -> dict[str, dict[str, list[Row]]]:
    """Rows by features and head, then by run: of encoders, or of all features where no run has one."""
    learnt = any(row.representation in _LEARNT for run in runs for row in run.results.rows)
    panels: dict[str, dict[str, list[Row]]] = {}
    for run in runs:
        for row in run.results.rows:
            if row.representation in _LEARNT or not learnt:
                title = f"{row.name} (transductive)" if row.transductive else row.name
                panels.setdefault(title, {}).setdefault(run.shown, []).append(row)
    return panels


if __name__ == "__main__":
    sys.exit(main())

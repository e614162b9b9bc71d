"""What shows the numbers of an evaluation: tables, pictures, pages, and TensorBoard's table of hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from adapt.report import board, embedding, page, pairs, plots, table, web
from adapt.report.pictures import Pictures
from adapt.report.plots import COLOURS
from adapt.report.render import latex, markdown, text
from adapt.results import Results, shown
from skelcore.files import write_text

OPTIONAL = ("confusion.png", "per_class.png", "pairs.png")  # pictures that not every evaluation has

__all__ = ["COLOURS", "OPTIONAL", "Pictures", "markdown", "text", "write"]


def write(folder: Path, results: Results, facts: Sequence[str], pictures: Pictures) -> str:
    """Write all that shows the results, but not ``results.json`` itself, into the folder; returns what to print.

    ``facts`` are lines on data, rule and checkpoint, in Markdown. Files are results.md, results.tex, report.html,
    accuracy.png, embedding.png, board/ and, where there is a confusion matrix, confusion.png, per_class.png and, where
    two classes are confused, pairs.png.
    """
    plots.accuracy(folder / "accuracy.png", results.rows)
    hardest = _classes(folder, results, pictures)
    first = dict.fromkeys(label for pair in hardest for label in (pair.one, pair.other))
    method, points = embedding.write(folder / "embedding.png", pictures.features, pictures.labels, results.classes,
                                     list(first))
    items = page.items(results, facts, hardest, pictures, f"{method} of {points} of {len(pictures.labels)} queries")
    write_text(folder / "results.md", page.markdown(items))
    write_text(folder / "report.html", web.document(items, folder))
    write_text(folder / "results.tex", "\n".join(latex(*each) for each in _papers(results)))
    board.write(folder / "board", results)
    return "\n\n".join(["\n".join(facts), *(text(lines, labels) for lines, labels in _console(results))])


def _classes(folder: Path, results: Results, pictures: Pictures) -> list[pairs.Pair]:
    """Draw what is known of single classes; returns the pairs that are most often confused."""
    row = shown(results.rows)
    if pictures.confusion is None:
        return []
    title = f"{row.name}, {table.column(row.k)}: {100 * row.mean:.1f} %"
    plots.confusion(folder / "confusion.png", pictures.confusion, results.classes, title)
    plots.per_class(folder / "per_class.png", results.rows, results.classes)
    hardest = pairs.hardest(pictures.confusion)
    if hardest:
        pairs.draw(folder / "pairs.png", hardest, results.classes, pictures.exemplar)
    return hardest


def _papers(results: Results) -> Iterator[tuple[list[list[str]], int, str, str]]:
    """Lines, number of label columns, caption and label of each LaTeX table."""
    name = f"Benchmark {results.benchmark.name}"
    for block in table.blocks(results):
        kind, label = ("", "") if block.inductive else (" of transductive methods", "transductive-")
        yield block.accuracy, 2, f"{name}: accuracy{kind} in percent, {page.interval(results)}.", f"{label}accuracy"
        if block.differences:
            caption = f"{name}: paired differences{kind} in points, on the same {page.sample(results)}."
            yield block.differences, 3, caption, f"{label}differences"


def _console(results: Results) -> Iterator[tuple[list[list[str]], int]]:
    for block in table.blocks(results):
        for lines, labels in ((block.accuracy, 2), (block.differences or [], 3)):
            if lines:
                first, *header = lines[0]
                yield [[first if block.inductive else f"{first} (transductive)", *header], *lines[1:]], labels

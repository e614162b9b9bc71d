"""The page of an evaluation: what stands on it in which order, and ``results.md``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapt.report import render, table
from adapt.report.items import Code, Grid, Heading, Item, Motion, Paragraph, Picture, Points
from adapt.report.pairs import Pair
from adapt.report.pictures import Pictures
from adapt.results import Results, Row, column, shown


def items(results: Results, facts: Sequence[str], hardest: Sequence[Pair], pictures: Pictures,
          map_of: str) -> list[Item]:
    """The page's content; ``map_of`` says what the map of the embedding shows."""
    return [Heading("Few-shot evaluation", 1), Points(tuple(facts)), Paragraph(" ".join(_notes(results))),
            *_accuracy(results), *_published(results), *_classes(results, hardest, pictures),
            Picture("embedding.png", f"map of the features: {map_of}"),
            Heading("Reproduce"), Code(results.command)]


def markdown(found: Sequence[Item]) -> str:
    """The page as Markdown."""
    return "\n\n".join(part for each in found if (part := _markdown(each))) + "\n"


def interval(results: Results) -> str:
    """What ± means in the table."""
    draws, inits = max(len(row.accuracy) for row in results.rows), max(len(row.inits) for row in results.rows)
    if draws > 1:
        return "mean ± 95 % t-interval over " + (f"{draws:,} episodes" if episodic(results) else
                                                 f"{draws} nested draws of the support")
    return f"mean ± 95 % t-interval over {inits} training seeds" if inits > 1 else "on a single draw"


def sample(results: Results) -> str:
    """What an accuracy is of, in the plural."""
    return "episodes" if episodic(results) else "draws"


def episodic(results: Results) -> bool:
    """Whether rows are of N-way episodes instead of draws of one task."""
    return "novel" in results.data


def _notes(results: Results) -> Iterator[str]:
    rows = results.rows
    draws = max(len(row.accuracy) for row in rows)
    yield f"Accuracy in percent, {interval(results)}."
    if few := [row for row in rows if len(row.accuracy) < draws]:
        yield (f"{', '.join(dict.fromkeys(f'`{row.method}`' for row in few))}: on the first "
               f"{min(len(row.accuracy) for row in few)} draws.")
    trained = {len(row.inits) for row in rows if row.representation == "pretrained"}
    if draws > 1 and trained == {1}:
        yield f"The interval is over {sample(results)} of one encoder; another training seed may lie outside it."
    if most := max(trained - {1}, default=0):
        yield f"A value of `pretrained` or `fused` is the mean of {most} training runs."
    if random := [row for row in rows if len(row.inits) > 1 and row.representation in ("scratch", "uncalibrated")]:
        yield (f"A value with random weights (`scratch`, `uncalibrated`) is the mean of {len(random[0].inits)} "
               f"initialisations; they lie up to {_spread(random):.1f} points apart, which is the least difference "
               "that one pretraining run can claim.")
    yield results.selection


def _accuracy(results: Results) -> Iterator[Item]:
    for block in table.blocks(results):
        yield Heading("Accuracy") if block.inductive else Heading("Accuracy of transductive methods")
        if not block.inductive:
            yield Paragraph("They classify all queries of a draw together: a number here must not be set beside one "
                            "above.")
        yield Grid(block.accuracy, 2)
        if block.differences:
            yield Paragraph(f"Paired differences in points, on the same {sample(results)}:")
            yield Grid(block.differences, 3)
    yield Heading("Accuracy against k")
    yield Picture("accuracy.png", "accuracy against k")
    if any(row.seeds_half_width is not None for row in results.rows):
        yield Paragraph("Mean ± 95 % t-interval over training runs or random initialisations instead of draws:")
        yield Grid(table.seeds(results.rows), 2)
    if any(abs(row.mean_class - row.mean) > 5e-4 for row in results.rows):
        yield Paragraph("Mean over classes of the accuracy within each:")
        yield Grid(table.mean_class(results.rows), 2)
    if results.all_labels:
        yield Paragraph("With every label of the support split, one initialisation:")
        yield Grid(table.all_labels(results.all_labels))


def _published(results: Results) -> Iterator[Item]:
    if results.published:
        yield Heading("Published by others")
        yield Paragraph("Accuracy in percent as stated by others, with protocols, inputs and seeds of their own and "
                        "without intervals; `unverified` was not traced to its paper.")
        yield Grid(table.published(results.published), 4)


def _classes(results: Results, hardest: Sequence[Pair], pictures: Pictures) -> Iterator[Item]:
    row, names = shown(results.rows), results.classes
    yield Heading("Classes")
    yield Paragraph(f"Of `{row.name}` at {column(row.k)}, a fixed choice and not the best on the queries.")
    if pictures.confusion is not None:
        yield Picture("confusion.png", "confusion matrix")
        if row.per_class is not None:
            yield Picture("per_class.png", "recall of each class")
    if hardest:
        yield Heading("Hardest pairs", 3)
        yield Grid([["class", "other class", "taken for the other", "the other way"],
                    *([names[pair.one], names[pair.other], f"{100 * pair.forth:.0f} %", f"{100 * pair.back:.0f} %"]
                      for pair in hardest)], 2)
        yield Paragraph("A labelled clip of each:")
        yield Picture("pairs.png", "skeletons of the classes that are most often confused, side by side")
    for pair in hardest:
        both = (pair.one, pair.other)
        yield Motion(tuple(pictures.exemplar(i) for i in both), tuple(names[i] for i in both))


def _spread(rows: Sequence[Row]) -> float:
    """The largest difference in points between the means of a row's initialisations."""
    return 100 * max(max(row.inits) - min(row.inits) for row in rows)


def _markdown(item: Item) -> str:
    match item:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Points(lines):
            return "\n".join(f"* {line}" for line in lines)
        case Grid(lines, labels):
            return render.markdown(lines, labels)
        case Picture(file, what):
            return f"![{what}]({file})"
        case Code(text):
            return f"```\n{text}\n```"
        case Motion():
            return ""

"""The tables of an evaluation, laid out as in papers: methods grouped by representation, a column for each k."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapt.published import Published
from adapt.report.render import Best
from adapt.results import Difference, Results, Row, column, order

Table = list[list[str]]


@dataclass(frozen=True)
class Block:
    """Methods of one kind, inductive or not, which share no table: accuracies, and differences if there are any."""

    inductive: bool
    accuracy: Table
    differences: Table | None


def blocks(results: Results) -> Iterator[Block]:
    """The inductive methods, then the transductive ones, as far as there are any."""
    for inductive in (True, False):
        if rows := [row for row in results.rows if row.transductive is not inductive]:
            methods = {row.method for row in rows}
            paired = [each for each in results.differences if each.method in methods]
            yield Block(inductive, accuracy(rows), differences(paired) if paired else None)


def accuracy(rows: Sequence[Row]) -> Table:
    """Accuracy in percent ± half width of its 95 % interval; the best inductive one of a column in bold."""
    best: dict[int | str, float] = {}
    for row in rows:
        if not row.transductive:
            best[row.k] = max(best.get(row.k, 0), row.mean)
    return _by_representation(rows, lambda row: (Best if row.mean == best.get(row.k) else str)(
        percent(row.mean, row.band)))


def seeds(rows: Sequence[Row]) -> Table:
    """The same with intervals over training seeds or random initialisations, of rows that have several."""
    return _by_representation([row for row in rows if row.seeds_half_width is not None],
                              lambda row: percent(row.mean, row.seeds_half_width))


def mean_class(rows: Sequence[Row]) -> Table:
    """Mean over classes of the accuracy within each, in percent."""
    return _by_representation(rows, lambda row: percent(row.mean_class, None))


def differences(found: Sequence[Difference]) -> Table:
    """Paired difference in points ± half width of its 95 % interval."""
    return grid(("features", "minus", "head"), [
        ((each.representation, each.minus, each.method), each.k, points(each.mean, each.half_width))
        for each in sorted(found, key=lambda each: each.representation != "pretrained")])


def all_labels(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Accuracy in percent with all labels of the support split."""
    methods = list(next(iter(found.values())))
    return [["all labels", *methods],
            *([name, *(percent(each[method], None) for method in methods)] for name, each in found.items())]


def published(figures: Sequence[Published]) -> Table:
    """What others published."""
    return [["method", "setting", "mark", "source", "accuracy"],
            *([each.method, each.setting, each.mark, each.source, f"{each.accuracy:g}"] for each in figures)]


def grid(header: Sequence[str], cells: Sequence[tuple[tuple[str, ...], int | str, str]]) -> Table:
    """A line for each name and a column for each k, of (name, k, cell); what a name shares with that above is blank."""
    shots = sorted({k for _, k, _ in cells}, key=order)
    found = {(name, k): cell for name, k, cell in cells}
    groups = list(dict.fromkeys(name[0] for name, _, _ in cells))  # each where it first stands
    names = sorted(dict.fromkeys(name for name, _, _ in cells), key=lambda name: groups.index(name[0]))
    return [[*header, *map(column, shots)],
            *([*_unlike(name, above), *(found.get((name, k), "") for k in shots)]
              for name, above in zip(names, [None, *names], strict=False))]


def percent(mean: float, half: float | None) -> str:
    """A fraction in percent, with its half width if there is one."""
    return f"{100 * mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def points(mean: float, half: float | None) -> str:
    """A difference of fractions in points, with its half width if there is one."""
    return f"{100 * mean:+.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def _by_representation(rows: Sequence[Row], cell: Callable[[Row], str]) -> Table:
    return grid(("features", "head"), [((row.representation, row.method), row.k, cell(row)) for row in rows])


def _unlike(name: tuple[str, ...], above: tuple[str, ...] | None) -> list[str]:
    """The name, with what leads it blank as long as it is that of the line above."""
    shared = 0
    while above and shared < len(name) - 1 and name[shared] == above[shared]:
        shared += 1
    return [*[""] * shared, *name[shared:]]

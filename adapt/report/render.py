"""Lines of cells, the first of them the header, as a table for a console, in Markdown, LaTeX or HTML.

The first ``labels`` columns name a line and stand left, the others right. A line that starts with an empty cell goes on
with the group of the line above.
"""

from __future__ import annotations

import html as escapes
import re
from collections.abc import Sequence

Lines = Sequence[Sequence[str]]

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
          **{each: f"\\{each}" for each in "&%$#_{}"}}


class Best(str):
    """A cell in bold."""


def text(lines: Lines, labels: int = 1) -> str:
    """Aligned columns for a console, the best marked by a star."""
    cells = [[f"*{cell}" if isinstance(cell, Best) else cell for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ([cell.ljust(width) if i < labels else cell.rjust(width)
             for i, (cell, width) in enumerate(zip(line, widths, strict=True))] for line in cells)
    return "\n".join(map("  ".join, rows))


def markdown(lines: Lines, labels: int = 1) -> str:
    """A Markdown table."""
    rule = [*["---"] * labels, *["---:"] * (len(lines[0]) - labels)]
    cells = [[f"**{_plain(cell)}**" if isinstance(cell, Best) else _plain(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))


def latex(lines: Lines, labels: int, caption: str, label: str) -> str:
    """A LaTeX table for booktabs, with a rule above each group."""
    body = []
    for line in lines[1:]:
        body += ["\\midrule"] if line[0] else []
        body.append(_latex_line(line))
    columns = "l" * labels + "r" * (len(lines[0]) - labels)
    return "\n".join([
        "\\begin{table}[t]", "\\centering", f"\\caption{{{_latex(caption)}}}", f"\\label{{tab:{label}}}",
        f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_line(lines[0]), *body, "\\bottomrule",
        "\\end{tabular}", "\\end{table}", ""])


def html(lines: Lines, labels: int = 1) -> str:
    """An HTML table; groups are told apart by the class of their first line."""
    head = "".join(_html_cell("th", cell, i < labels) for i, cell in enumerate(lines[0]))
    body = "".join(f"<tr{' class=group' if line[0] else ''}>"
                   + "".join(_html_cell("td", cell, i < labels) for i, cell in enumerate(line)) + "</tr>"
                   for line in lines[1:])
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _plain(cell: str) -> str:
    """Without what would end a cell, or be markup: names of runs and classes are data."""
    return re.sub(r"([\\|`*_<\[])", r"\\\1", " ".join(cell.split()))


def _latex_line(line: Sequence[str]) -> str:
    cells = (f"\\textbf{{{_latex(cell)}}}" if isinstance(cell, Best) else _latex(cell) for cell in line)
    return " & ".join(cells) + " \\\\"


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(each, each) for each in cell)


def _html_cell(tag: str, cell: str, left: bool) -> str:
    inner = escapes.escape(cell)
    inner = f"<b>{inner}</b>" if isinstance(cell, Best) else inner
    return f"<{tag}{' class=left' if left else ''}>{inner}</{tag}>"

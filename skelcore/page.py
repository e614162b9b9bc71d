"""Pages that are one file: they open from disk, ask nothing of any server, and can be read by day and by night."""

from __future__ import annotations

import html
from collections.abc import Sequence

_SHORT = 24  # characters of a cell that is never broken into lines
# Colours of series a, b, c, d: told apart by colour-blind readers, on white and on black.
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #57606a; --line: #d8dee4; --paper: #fff; --box: #f3f5f7;
  --a: #1e78c8; --b: #e07b00; --c: #c2304a; --d: #8a8f98 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --faint: #9aa4b0; --line: #343b44; --paper: #12161b;
  --box: #1c222a; --a: #58a6ff; --b: #f5a742; --c: #ff7b8f; --d: #7d8590 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) } h3 { margin: 1.2rem 0 .2rem }
.note { color: var(--faint) } code { background: var(--box); padding: .1rem .3rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .6rem 0; font-size: 14px }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere } th, td.short { white-space: nowrap } .number { text-align: right }
summary { cursor: pointer; margin: 1rem 0 }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.tile { background: var(--box); border-radius: 8px; padding: .5rem 1rem } .tile b { display: block; font-size: 1.5rem }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 1rem 2rem }
figure { margin: 0 }
svg { width: 100%; max-width: 520px; height: auto; overflow: visible; font: 11px system-ui, sans-serif }
svg text { fill: var(--ink) } svg .axis { stroke: var(--line) }
.a { fill: var(--a) } .b { fill: var(--b) } .c { fill: var(--c) } .d { fill: var(--d) }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """The page of these fragments of HTML; ``title`` is text."""
    body = "\n".join(parts)
    return ('<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style>\n<body>\n{body}\n</body></html>\n")


def escape(value: object) -> str:
    """Text as HTML that can do nothing, whoever wrote it: in one line, neither markup nor turned around."""
    return html.escape(printable(str(value)))


def printable(text: str) -> str:
    """The text with a space for whatever cannot be seen: line ends, marks of direction, halves of surrogates."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with numbers on the right of their cells."""
    head = "".join(_cell("th", name, all(isinstance(row[i], int | float) for row in rows))
                   for i, name in enumerate(header))
    body = "".join(f"<tr>{''.join(_cell('td', cell, isinstance(cell, int | float)) for cell in row)}</tr>"
                   for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """Boxes with a large figure and what it counts."""
    boxes = (f'<div class="tile"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in facts)
    return f'<div class="tiles">{"".join(boxes)}</div>'


def folded(what: str, inner: str) -> str:
    """A part of the page that unfolds at a click on ``what``, which is text."""
    return f"<details><summary>{escape(what)}</summary>{inner}</details>"


def _cell(tag: str, value: object, number: bool) -> str:
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    kinds = " ".join(["number"] * number + ["short"] * (len(text) <= _SHORT))
    return f'<{tag} class="{kinds}">{escape(text)}</{tag}>'

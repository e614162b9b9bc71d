"""``report.html``: the page as one file that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from adapt.report import render
from adapt.report.items import Code, Grid, Heading, Item, Motion, Paragraph, Picture, Points
from skelcore.draw import viewer_html

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d8dee4 } img { max-width: 100% }
table { border-collapse: collapse; margin: 1rem 0 } .scroll { overflow-x: auto } li { overflow-wrap: anywhere }
th, td { padding: .25rem .8rem; text-align: right; white-space: nowrap } .left { text-align: left }
th, .group td { border-top: 1px solid #d8dee4 } table { border-bottom: 1px solid #d8dee4 }
code { background: #f3f5f7; padding: .1rem .3rem } pre { background: #f3f5f7; padding: .8rem; overflow-x: auto }
.pair { display: inline-block; width: 420px; max-width: 100%; margin: 0 1.5rem 1.5rem 0 }
"""


def document(items: Sequence[Item], folder: Path) -> str:
    """The page with the pictures of ``folder`` in it; every text is escaped, since names of classes are data."""
    body = "\n".join(_html(item, folder) for item in items)
    return ('<!doctype html>\n<html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Few-shot evaluation</title>'
            f"<style>{_STYLE}</style><body>\n{body}\n</body></html>\n")


def _html(item: Item, folder: Path) -> str:
    match item:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Points(lines):
            return f"<ul>{''.join(f'<li>{_inline(line)}</li>' for line in lines)}</ul>"
        case Grid(lines, labels):
            return render.html(lines, labels)
        case Picture(file, what):
            data = base64.b64encode((folder / file).read_bytes()).decode()
            return f'<p><img alt="{html.escape(what)}" src="data:image/png;base64,{data}"></p>'
        case Motion(clips, titles):
            return f'<div class="pair">{viewer_html(clips, titles)}</div>'
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"


def _inline(text: str) -> str:
    """Escaped text, what stands in backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))

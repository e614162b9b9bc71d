"""Charts as inline SVG for a ``page``: nothing to load, colours of the page, a title for whoever cannot see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from skelcore.page import escape

SERIES = "abcd"  # the page's colours
_LABEL, _ROOM, _ROW = 150, 240, 20  # of bars: columns for the label and the longest bar, height of a row
_LONGEST = 22  # characters of a label
_WIDE, _HIGH, _LEFT, _TOP, _FOOT = 460, 190, 42, 24, 22  # of columns


def bars(title: str, values: Mapping[str, float], series: Callable[[str], str] = lambda _: "a",
         words: Callable[[str], str] = lambda _: "") -> str:
    """A horizontal bar for each name; ``series`` gives its colour, ``words`` what the name means."""
    most = max([*values.values(), 1e-12])
    rows = []
    for number, (name, value) in enumerate(values.items()):
        y = number * _ROW
        meaning = words(name)
        shown = name if len(name) <= _LONGEST else name[:_LONGEST - 1] + "…"
        count = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
        rows.append(f"<g><title>{escape(f'{name}: {count}' + (f' ({meaning})' if meaning else ''))}</title>"
                    f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(shown)}</text>'
                    f'<rect class="{series(name)}" x="{_LABEL}" y="{y + 3}" height="{_ROW - 6}" rx="2" '
                    f'width="{max(_ROOM * value / most, 1):.1f}"/>'
                    f'<text x="{_LABEL + _ROOM * value / most + 6:.1f}" y="{y + 14}">{count}</text></g>')
    return _svg(title, _LABEL + _ROOM + 60, len(values) * _ROW, rows)


def columns(title: str, edges: np.ndarray, heights: Mapping[str, np.ndarray],
            label: Callable[[float], str] = "{:g}".format, ticks: np.ndarray | None = None) -> str:
    """Stacked columns over the bins between ``edges`` (B + 1,), for each series its ``heights`` (B,).

    ``ticks`` are the places of the axis that ``label`` names; without them, round numbers.
    """
    low, high = float(edges[0]), float(edges[-1])
    total = np.sum(list(heights.values()), 0)
    most = max(float(total.max()), 1e-12)
    room, floor = _WIDE - _LEFT - 8, _HIGH - _FOOT

    def x(value: float) -> float:
        return _LEFT + room * (value - low) / (high - low)

    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDE - 8}" y1="{floor}" y2="{floor}"/>',
             f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{_short(most)}</text>',
             f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">0</text>']
    for tick in round_numbers(low, high) if ticks is None else ticks:
        parts.append(f'<text x="{x(float(tick)):.1f}" y="{_HIGH - 6}" text-anchor="middle">'
                     f"{escape(label(tick))}</text>")
    below = np.zeros(len(edges) - 1)
    for letter, (name, values) in zip(SERIES, heights.items(), strict=False):
        tops = below + values
        for i in np.flatnonzero(values):
            left, right = x(edges[i]), x(edges[i + 1])
            width = max(right - left - 0.5, 0.5)
            upper, lower = (floor - (floor - _TOP) * level / most for level in (tops[i], below[i]))
            about = f"{label(edges[i])} to {label(edges[i + 1])}: {name} {values[i]:,.6g}"
            parts.append(f'<rect class="{letter}" x="{left:.1f}" y="{upper:.1f}" width="{width:.1f}" '
                         f'height="{lower - upper:.1f}"><title>{escape(about)}</title></rect>')
        below = tops
    return _svg(title, _WIDE, _HIGH, [*parts, *_legend(list(heights))])


def round_numbers(low: float, high: float, about: int = 5) -> np.ndarray:
    """Some ``about`` multiples of 1, 2 or 5 times a power of ten between two numbers."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    # Whole multiples, since sums of a step would drift; rounded, since 3 * 0.1 is not 0.3.
    return np.round(np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step, 12)


def _legend(names: Sequence[str]) -> list[str]:
    if len(names) < 2:
        return []
    parts, x = [], _LEFT
    for letter, name in zip(SERIES, names, strict=False):
        parts.append(f'<rect class="{letter}" x="{x}" y="4" width="10" height="10"/>'
                     f'<text x="{x + 14}" y="13">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return parts


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    return (f'<figure><h3>{escape(title)}</h3><svg role="img" aria-label="{escape(title)}" '
            f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg></figure>')


def _short(value: float) -> str:
    """A number that has room beside an axis."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"

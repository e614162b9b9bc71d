"""Pages of one file, and the charts on them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skelcore import charts, page


@given(st.text(st.characters(codec=None)))
def test_no_text_is_markup_or_breaks_the_file(text: str) -> None:
    escaped = page.escape(text)
    escaped.encode()
    assert not set(escaped) & set("<>\"'\n\r") and escaped.isprintable()


def test_numbers_stand_right() -> None:
    text = page.table(["name", "count"], [["a", 1234], ["<b>", 5]])
    assert '<th class="number short">count' in text and '<td class="number short">1,234</td>' in text
    assert '<td class="short">&lt;b&gt;</td>' in text


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_round_numbers_are_round_and_inside(low: float, span: float) -> None:
    ticks = charts.round_numbers(low, low + span)
    assert 1 <= len(ticks) <= 12
    slack = 1e-6 * span
    assert (ticks >= low - slack).all() and (ticks <= low + span + slack).all()


def test_round_numbers_by_hand() -> None:
    assert charts.round_numbers(0, 1).tolist() == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert charts.round_numbers(0.13, 0.62).tolist() == [0.2, 0.3, 0.4, 0.5, 0.6]


def test_bars_are_as_long_as_their_values() -> None:
    text = charts.bars("what", {"a": 10, "b": 5, "c<": 0}, words=lambda name: "why" if name == "a" else "")
    widths = [float(width) for width in re.findall(r'width="([0-9.]+)"', text)]
    assert widths[0] == 2 * widths[1] and widths[2] == 1
    assert "<title>a: 10 (why)</title>" in text and "<title>c&lt;: 0</title>" in text


def test_columns_stack_to_their_sum() -> None:
    heights = {"one": np.array([2, 0, 4]), "two": np.array([2, 1, 4])}
    text = charts.columns("what", np.array([0.0, 1, 2, 3]), heights)
    found = re.findall(r'<rect class="(.)" x="([0-9.]+)" y="([0-9.]+)" width="[0-9.]+" height="([0-9.]+)"><t', text)
    assert [each[0] for each in found] == ["a", "a", "b", "b", "b"]
    tall = {(series, x): float(height) for series, x, _, height in found}
    first, _, last = sorted({float(x) for _, x, _, _ in found})
    assert tall["a", f"{last:.1f}"] == pytest.approx(2 * tall["a", f"{first:.1f}"], abs=0.2)
    assert ">8</text>" in text and "0 to 1: one 2<" in text and "aria-label=\"what\"" in text

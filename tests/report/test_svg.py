from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aradals.report.svg import Drawing, Scale, legend_lines


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e3), st.integers(2, 9))
def test_ticks_are_round_evenly_spaced_and_inside(low: float, width: float, count: int) -> None:
    scale = Scale(low, low + width, 0, 100)
    ticks = scale.ticks(count)
    slack = 1e-9 * max(abs(low), width)
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)
    steps = {round((b - a) / width, 6) for a, b in pairwise(ticks)}
    assert len(steps) <= 1
    assert len(ticks) <= count + 1
    assert all(math.copysign(1, tick) == 1 for tick in ticks if tick == 0)


def test_a_scale_turns_and_keeps_values_at_its_ends() -> None:
    scale = Scale(0, 2, 100, 20)
    assert [scale(value) for value in (0, 1, 2, 3, -1)] == [100, 60, 20, 20, 100]


def test_unknown_values_are_not_drawn() -> None:
    drawing = Drawing(10)
    drawing.mark(0, math.nan, 1, "c0")
    drawing.line(0, 0, math.nan, 1, "c0")
    drawing.polyline([(0, 0), (1, math.nan)], "c0")
    assert len(ElementTree.fromstring(drawing.svg("nothing"))) == 0


def test_text_and_tips_are_escaped() -> None:
    drawing = Drawing(10)
    drawing.mark(1, 1, 1, "c0", 'a "b" <c> & d')
    drawing.text(1, 1, "<script>")
    root = ElementTree.fromstring(drawing.svg('"<&>'))
    assert root[0].attrib["data-tip"] == 'a "b" <c> & d'
    assert root[1].text == "<script>"
    assert root.attrib["aria-label"] == '"<&>'


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (4, 2), (9, 3)])
def test_legends_break_into_lines(count: int, lines: int) -> None:
    assert legend_lines([("line", "c0", "a name of 16 ch")] * count) >= lines
    assert legend_lines([("line", "c0", "x" * 200)]) == 1

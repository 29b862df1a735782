import itertools
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.svg_drawing import Axis, Drawing, number, spanning

SVG = "{http://www.w3.org/2000/svg}"
ends = st.floats(-1e4, 1e4).map(lambda x: round(x, 3))
lengths = st.floats(1e-2, 1e4).map(lambda x: round(x, 3))


@given(ends, lengths, st.floats(0, 1))
def test_an_axis_is_straight_and_keeps_to_its_ends(low, length, share):
    axis = Axis(low, low + length, 50.0, 350.0)
    assert axis.at(low + share * length) == pytest.approx(50 + 300 * share, abs=1e-6)
    assert axis.at(low - 1) == 50.0
    assert axis.at(low + length + 1) == 350.0
    rising = Axis(low, low + length, 350.0, 50.0)  # upwards on a page
    value = low + share * length
    assert rising.at(value) == pytest.approx(400 - axis.at(value))


@given(ends, lengths)
def test_ticks_are_round_evenly_spaced_and_inside(low, length):
    axis = Axis(low, low + length, 0.0, 1.0)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-6 <= tick <= low + length + 1e-6 for tick in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(step == pytest.approx(steps[0]) for step in steps)
    if steps:
        assert float(f"{steps[0]:.6e}".split("e")[0]) in (1, 2, 2.5, 5)


@given(st.lists(ends, max_size=6))
def test_a_spanning_axis_holds_every_value(values):
    axis = spanning(values, start=0.0, end=1.0, least=0.0)
    assert axis.low <= min([0.0, *values])
    assert axis.high >= max([0.0, *values])


def test_an_axis_without_length_is_refused():
    with pytest.raises(ValueError, match="low < high"):
        Axis(1.0, 1.0, 0.0, 1.0)


def test_numbers_have_a_true_minus_and_no_negative_zero():
    assert [number(x) for x in (-0.04, -1.26, 0.0, 12.0)] == ["0.0", "−1.3", "0.0", "12.0"]


def test_a_drawing_is_well_formed_and_says_what_it_was_told():
    drawing = Drawing("one", 200, 100)
    drawing.text(10, 20, 'a <b> & "c"', bold=True)
    drawing.box(1, 2, 30, 40, fill="#ffffff")
    for shape in ("circle", "square", "diamond"):
        drawing.mark(shape, 5, 6, colour="#000000")
    drawing.line((0, 0), (1.23456, -0.0001), dashed=True)
    drawing.path([(0, 0), (1, 1)], colour="#000000")
    root = ElementTree.fromstring(drawing.svg('it shows "a" & b'))  # noqa: S314 - our own
    assert root.get("aria-label") == 'it shows "a" & b'
    assert root.get("viewBox") == "0 0 200 100"
    assert root.find(f"{SVG}text").text == 'a <b> & "c"'
    assert root.find(f"{SVG}line").get("y2") == "0"
    kinds = [child.tag.removeprefix(SVG) for child in root]
    assert kinds == ["text", "rect", "circle", "rect", "polygon", "line", "polyline"]


def test_hatching_brings_its_own_pattern_under_the_drawings_name():
    plain, hatched = Drawing("one", 9, 9), Drawing("two", 9, 9)
    plain.box(0, 0, 1, 1)
    hatched.box(0, 0, 1, 1, hatched=True)
    assert "pattern" not in plain.svg("x")
    root = ElementTree.fromstring(hatched.svg("x"))  # noqa: S314 - our own
    assert root.find(f".//{SVG}pattern").get("id") == "two-hatch"
    assert root.find(f"{SVG}rect").get("fill") == "url(#two-hatch)"

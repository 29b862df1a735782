"""The chart as a picture: marks, places and words."""

import base64
import doctest
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical_ui import control_chart_picture
from clinical_ui.control_chart_picture import (
    HEIGHT,
    MARKS,
    WIDTH,
    Point,
    as_image,
    draw,
    linear_ticks,
    logarithmic_ticks,
    mark_of,
)
from evaluation.control_chart import ControlChart

SVG = "{http://www.w3.org/2000/svg}"
CHART = ControlChart(10.0, 5.0, 20.0, baseline=9)
NOBODY_JUDGES = ControlChart(10.0, 5.0, 20.0, baseline=3)


def marks(svg: str) -> list[tuple[str, float]]:
    """Return colour and height of every mark, in order."""
    found = []
    for element in ElementTree.fromstring(svg):  # noqa: S314 - our own picture
        if element.tag == f"{SVG}circle":
            found.append((element.get("fill"), float(element.get("cy"))))
        elif element.tag == f"{SVG}path":
            found.append(
                (element.get("stroke"), float(re.findall(r"[-\d.]+", element.get("d"))[1]))
            )
    return found


def test_examples_hold():
    result = doctest.testmod(control_chart_picture)
    assert result.attempted >= 3
    assert not result.failed


def test_marks_tell_groups_and_places_apart_by_shape_and_colour():
    values = (10.0, 12.0, 25.0, 2.0, math.nan)
    points = [Point(v, baseline=v == 10.0) for v in values]
    svg = draw(CHART, points, unit="u")
    places = ("baseline", "inside", "above", "below", "undefined")
    assert [colour for colour, _ in marks(svg)] == [MARKS[place][1] for place in places]
    assert len({MARKS[place][0] for place in places}) == 5
    assert [mark_of(p, CHART.place(p.value)) for p in points] == list(places)


def test_where_nobody_judges_no_limit_is_drawn_and_none_is_passed():
    svg = draw(NOBODY_JUDGES, [Point(25.0, baseline=True), Point(99.0, baseline=False)], unit="u")
    assert "limit" not in svg
    assert [colour for colour, _ in marks(svg)] == [MARKS["baseline"][1], MARKS["inside"][1]]
    assert "upper limit 20" in draw(CHART, [Point(25.0, baseline=True)], unit="u")


VALUES = st.lists(st.floats(0.0, 1e4) | st.just(math.nan), max_size=60)


@given(VALUES, st.booleans())
def test_everything_is_inside_the_picture_and_larger_is_higher(values, logarithmic):
    svg = draw(
        CHART, [Point(v, baseline=True) for v in values], unit="<u>", logarithmic=logarithmic
    )
    numbers = [float(n) for n in re.findall(r'c?[xy][12]?="([-\d.]+)"', svg)]
    assert all(-1 <= n <= max(WIDTH, HEIGHT) for n in numbers)
    assert len(marks(svg)) == len(values)
    circles = [
        (float(e.get("cx")), float(e.get("cy")))
        for e in ElementTree.fromstring(svg)  # noqa: S314
        if e.tag == f"{SVG}circle"
    ]
    inside = [v for v in values if 5.0 <= v <= 20.0]
    assert len(circles) == len(inside)
    for (_, y), value in zip(circles, inside, strict=True):
        for (_, other_y), other in zip(circles, inside, strict=True):
            assert (value <= other) or (y <= other_y)


@given(st.floats(1e-3, 1e6))
def test_a_linear_axis_has_a_few_round_ticks_from_nothing(high):
    ticks = linear_ticks(high)
    assert ticks[0] == 0.0
    assert 2 <= len(ticks) <= 11
    assert ticks[-1] <= high * (1 + 1e-9)


@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e9))
def test_a_logarithmic_axis_has_a_few_ticks_within(low, ratio):
    ticks = logarithmic_ticks(low, low * ratio)
    assert len(ticks) <= 8
    assert all(low <= tick <= low * ratio for tick in ticks)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_an_empty_chart_is_a_picture(logarithmic):
    chart = ControlChart(math.nan, math.nan, math.nan, 0)
    assert marks(draw(chart, [], unit="u", logarithmic=logarithmic)) == []
    zero = draw(chart, [Point(0.0, baseline=True)], unit="u", logarithmic=logarithmic)
    assert len(marks(zero)) == 1


def test_the_image_says_in_words_what_it_shows_and_loads_nothing():
    element = as_image("<svg/>", 'three "points" <beyond>')
    assert 'alt="three &quot;points&quot; &lt;beyond&gt;"' in element
    source = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', element)
    assert base64.b64decode(source.group(1)) == b"<svg/>"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", draw(CHART, [], unit="u"))

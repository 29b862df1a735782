import doctest
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evaluation import control_chart
from evaluation.control_chart import FEWEST, ControlChart, individuals_chart, robust_chart

DEGREES = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=40)
DISTANCES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40)


def test_examples_hold() -> None:
    result = doctest.testmod(control_chart)
    assert result.attempted == 3
    assert not result.failed


# -- individuals chart --------------------------------------------------------------------------


def test_the_limits_of_a_textbook_example() -> None:
    """Montgomery, Introduction to statistical quality control, 7th edition, table 6.6 (viscosity
    of aircraft primer paint): mean 33.52, mean moving range 0.48, limits 32.24 and 34.80."""
    viscosity = [
        33.75, 33.05, 34.00, 33.81, 33.46, 34.02, 33.68, 33.27,
        33.49, 33.20, 33.62, 33.00, 33.54, 33.12, 33.84,
    ]  # fmt: skip
    chart = individuals_chart(viscosity)
    assert chart.centre == pytest.approx(33.52, abs=0.005)
    assert chart.lower == pytest.approx(32.24, abs=0.02)
    assert chart.upper == pytest.approx(34.80, abs=0.02)
    assert {chart.place(value) for value in viscosity} == {"inside"}


@given(DEGREES)
def test_a_shift_moves_the_limits_and_nothing_else(values) -> None:
    chart = individuals_chart(values)
    shifted = individuals_chart([value + 500.0 for value in values])
    assert shifted.centre == pytest.approx(chart.centre + 500.0)
    assert shifted.upper == pytest.approx(chart.upper + 500.0)
    # Far from 0 nothing is cut off: the limits are as far from the centre on either side.
    assert shifted.centre - shifted.lower == pytest.approx(shifted.upper - shifted.centre, abs=1e-6)
    assert chart.lower == pytest.approx(max(0.0, shifted.lower - 500.0), abs=1e-6)


@given(DEGREES, DEGREES)
def test_later_values_move_no_limit(values, later) -> None:
    first = (values * 20)[:20]
    assert individuals_chart(first + later) == individuals_chart(first)


def test_2_66_is_three_sigma_of_normal_numbers() -> None:
    values = 50.0 + np.random.default_rng(0).normal(0, 2.0, 20_000)
    chart = individuals_chart(list(values), baseline=20_000)
    assert (chart.upper - chart.centre) / 3 == pytest.approx(2.0, rel=0.02)


def test_values_that_cannot_be_are_refused() -> None:
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="not negative"):
            individuals_chart([1.0, wrong])
    with pytest.raises(ValueError, match="not negative"):
        robust_chart([1.0, -1.0])


# -- robust chart -------------------------------------------------------------------------------


def test_the_limits_in_closed_form() -> None:
    """Logarithms 0, 1, 2, 3, 4: median 2, deviations 2, 1, 0, 1, 2, their median 1; b_5 = 1.206."""
    chart = robust_chart([math.exp(n) for n in (3, 0, 4, 1, 2)])
    assert chart.centre == pytest.approx(math.exp(2))
    assert math.log(chart.upper) == pytest.approx(2 + 3 * 1.206 * 1.4826, abs=1e-4)
    assert math.log(chart.lower) == pytest.approx(2 - 3 * 1.206 * 1.4826, abs=1e-4)


@given(DISTANCES, st.floats(0.01, 100.0))
def test_another_unit_changes_no_verdict(values, factor) -> None:
    chart, scaled = robust_chart(values), robust_chart([factor * v for v in values])
    assert scaled.upper == pytest.approx(factor * chart.upper)
    assert scaled.lower == pytest.approx(factor * chart.lower)


@given(DISTANCES, st.randoms())
def test_the_order_and_undefined_ones_do_not_matter(values, random) -> None:
    mixed = [*values, math.nan]
    random.shuffle(mixed)
    assert robust_chart(mixed) == robust_chart(values)


def test_odd_ones_in_the_baseline_hide_no_odd_ones() -> None:
    usual = list(np.random.default_rng(1).lognormal(0.0, 0.3, 30))
    clean, soiled = robust_chart(usual), robust_chart([*usual, 1e6, 1e6, 1e6])
    assert soiled.upper < 2 * clean.upper
    assert soiled.place(1e6) == "above"


def test_three_sigma_of_log_normal_distances() -> None:
    chart = robust_chart(list(np.random.default_rng(0).lognormal(1.0, 0.5, 20_000)))
    assert math.log(chart.upper / chart.centre) / 3 == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(("size", "share"), [(8, 0.050), (20, 0.019), (50, 0.0075)])
def test_as_many_usual_ones_lie_beyond_as_is_said(size, share) -> None:
    rng = np.random.default_rng(7)
    beyond = 0
    for _ in range(600):
        chart = robust_chart(list(np.exp(rng.normal(size=size))))
        beyond += sum(chart.place(value) != "inside" for value in np.exp(rng.normal(size=20)))
    assert beyond / (600 * 20) == pytest.approx(share, rel=0.25)


def test_a_distance_of_nothing_is_a_distance() -> None:
    assert robust_chart([0.0, 1.0, 1.0, 1.0]).centre == 1.0
    assert robust_chart([0.0]).upper == 0.0


# -- judging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [individuals_chart, robust_chart])
def test_nobody_judges_by_a_few(make) -> None:
    few = make([1.0] * (FEWEST - 1))
    assert not few.judges
    assert few.place(99.0) == "unknown"
    enough = make([1.0] * FEWEST)
    assert enough.judges
    assert enough.place(99.0) == "above"
    none = make([])
    assert none.baseline == 0
    assert none.place(1.0) == "unknown"


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 20))
def test_a_point_has_one_place(lower, width, value) -> None:
    chart = ControlChart(lower + width / 2, lower, lower + width, baseline=FEWEST)
    place = chart.place(value)
    assert (place == "inside") == (chart.lower <= value <= chart.upper)
    assume(place != "inside")
    assert (place == "above") == (value > chart.centre)


def test_what_is_undefined_is_never_inside() -> None:
    assert individuals_chart([1.0] * 9).place(math.nan) == "undefined"

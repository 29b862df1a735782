import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.revision import (
    REVISION_BIN_LABELS,
    revision_bin,
    revision_bin_counts,
    revision_degree_percent,
    summarise_active_time,
)


def test_an_untouched_contour_has_degree_0_and_a_replaced_one_100():
    contour = np.zeros((4, 4), dtype=bool)
    contour[:2] = True
    assert revision_degree_percent(contour, contour.copy()) == 0.0
    assert revision_degree_percent(contour, ~contour) == 100.0
    empty = np.zeros_like(contour)
    assert revision_degree_percent(empty, empty) == 0.0  # nothing was drawn, nothing changed
    assert revision_degree_percent(empty, contour) == 100.0


def test_removing_half_of_a_contour_is_a_third():
    contour = np.ones((2, 8), dtype=bool)
    half = contour.copy()
    half[0] = False
    assert revision_degree_percent(contour, half) == pytest.approx(100 / 3)


def test_each_edge_belongs_to_the_bin_below():
    edges = [0.0, 5.0, 5.0001, 10.0, 10.0001, 15.0, 15.0001, 100.0]
    assert [revision_bin(degree) for degree in edges] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(REVISION_BIN_LABELS) == 4


@given(st.lists(st.floats(0, 100)))
def test_every_contour_is_counted_once(degrees):
    assert sum(revision_bin_counts(degrees)) == len(degrees)


@pytest.mark.parametrize("degree", [-0.1, 100.1, math.nan])
def test_a_degree_outside_0_to_100_is_refused(degree):
    with pytest.raises(ValueError, match="0 to 100"):
        revision_bin(degree)


def test_active_time_is_median_and_quartiles():
    summary = summarise_active_time([74.5, 108.5, 131.5, 60.0, 200.0])
    assert (summary.patients, summary.median_s, summary.q1_s, summary.q3_s) == (
        5,
        108.5,
        74.5,
        131.5,
    )
    assert str(summary) == "108.5 s (74.5-131.5)"
    assert math.isnan(summarise_active_time([]).median_s)

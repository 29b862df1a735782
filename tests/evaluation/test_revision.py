import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.revision import (
    REVISION_BIN_LABELS,
    revise_patient,
    revision_bin,
    revision_bin_counts,
    revision_degree_percent,
    revision_degrees_of_slices,
    summarise_active_time,
    summarise_revisions,
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


def bars(*lengths, width=40):
    """One slice per length: a bar of that many pixels."""
    mask = np.zeros((len(lengths), 1, width), dtype=bool)
    for row, length in zip(mask, lengths, strict=True):
        row[0, :length] = True
    return mask


def test_each_slice_has_its_own_degree_and_an_empty_one_has_none():
    model, revised = bars(10, 0, 8, 0, 6), bars(10, 0, 4, 5, 0)
    found = revision_degrees_of_slices(model, revised)
    # Dice of bars of lengths a and b is 2 min(a, b) / (a + b).
    np.testing.assert_allclose(found, [0, np.nan, 100 * (1 - 8 / 12), 100, 100])
    with pytest.raises(ValueError, match="volume"):
        revision_degrees_of_slices(model[0], revised[0])
    with pytest.raises(ValueError, match="differ"):
        revision_degrees_of_slices(model, revised[:2])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6))
def test_the_whole_contour_lies_between_its_least_and_most_revised_slice(lengths):
    model, revised = (bars(*column) for column in zip(*lengths, strict=True))
    patient = revise_patient(model, revised, active_s=3.0, wall_s=4.0)
    slices = patient.slice_degrees_percent
    assert slices.min() - 1e-9 <= patient.degree_percent <= slices.max() + 1e-9
    assert patient.degree_percent == revision_degree_percent(model, revised)


def test_the_overview_counts_patients_and_slices_apart():
    reviews = [
        revise_patient(bars(10, 10, 0), bars(10, 10, 0), active_s=60.0, wall_s=90.0),
        revise_patient(bars(10, 9, 0), bars(10, 11, 0), active_s=100.0, wall_s=400.0),
        revise_patient(bars(10, 2), bars(10, 38)),
    ]
    found = summarise_revisions(reviews)
    degrees = [0.0, 5.0, 100 * (1 - 24 / 60)]
    assert found.patients == 3
    assert found.mean_percent == pytest.approx(np.mean(degrees))
    assert found.sd_percent == pytest.approx(np.std(degrees, ddof=1))
    assert found.bins == (2, 0, 0, 1)
    assert found.slices == 6
    assert found.slice_bins == (4, 1, 0, 1)
    assert (found.active.patients, found.active.median_s, found.wall.median_s) == (2, 80.0, 245.0)
    none = summarise_revisions([])
    assert (none.patients, none.bins, none.slices) == (0, (0, 0, 0, 0), 0)
    assert math.isnan(none.mean_percent)
    assert math.isnan(summarise_revisions(reviews[:1]).sd_percent)


@pytest.mark.parametrize(("active", "wall"), [(-1.0, 5.0), (6.0, 5.0), (1.0, -1.0)])
def test_times_that_cannot_be_are_refused(active, wall):
    with pytest.raises(ValueError, match="check the clock"):
        revise_patient(bars(1), bars(1), active_s=active, wall_s=wall)


@pytest.mark.parametrize(("lengths", "edge"), [((19, 21), 0), ((9, 11), 1), ((17, 23), 2)])
def test_a_contour_revised_by_just_5_10_or_15_percent_is_in_the_bin_below(lengths, edge):
    model, revised = (bars(length) for length in lengths)
    assert revision_bin(revision_degree_percent(model, revised)) == edge

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.contracts.subgroups import t_stage_group
from evaluation.cohort_statistics import (
    bootstrap_interval,
    compare_paired,
    compare_subgroups,
    equivalence,
    halves,
    holm,
    median_iqr,
)

# Student 1908: hours of sleep gained with either of two drugs, ten patients.
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
figures = st.lists(st.floats(-100, 100), min_size=3, max_size=20)


# -- medians and intervals ----------------------------------------------------------------------


def test_quartiles_leave_undefined_figures_out_and_count_them():
    found = median_iqr([4.0, math.nan, 1.0, 3.0, 2.0, math.nan])
    assert (found.count, found.undefined) == (4, 2)
    assert (found.q1, found.median, found.q3) == (1.75, 2.5, 3.25)
    nothing = median_iqr([math.nan])
    assert (nothing.count, nothing.undefined) == (0, 1)
    assert math.isnan(nothing.median)


@settings(max_examples=30, deadline=None)
@given(figures, st.integers(0, 99), st.floats(0.1, 10), st.floats(-50, 50))
def test_an_interval_moves_and_stretches_with_the_figures(values, seed, scale, shift):
    found = bootstrap_interval(values, seed=seed, resamples=200)
    assert found.low - 1e-9 <= np.mean(values) <= found.high + 1e-9 or len(set(values)) > 1
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    moved = bootstrap_interval(scale * np.array(values) + shift, seed=seed, resamples=200)
    for name in ("value", "low", "high"):
        expected = scale * getattr(found, name) + shift
        assert getattr(moved, name) == pytest.approx(expected, abs=1e-6)


def test_an_interval_is_as_wide_as_theory_says_and_repeats_with_its_seed():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap_interval(values, seed=3)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.04)
    assert bootstrap_interval(values, seed=3) == found
    assert bootstrap_interval(values, seed=4) != found
    narrower = bootstrap_interval(values, seed=3, confidence=0.5)
    assert found.low < narrower.low < narrower.high < found.high
    # The median of a normal sample is sqrt(pi / 2) times as uncertain as its mean.
    middle = bootstrap_interval(values, seed=3, statistic="median")
    assert middle.value == np.median(values)
    assert middle.high - middle.low == pytest.approx(
        math.sqrt(math.pi / 2) * (found.high - found.low), rel=0.25
    )


def test_few_or_no_figures_have_a_trivial_interval_or_none():
    assert vars(bootstrap_interval([2.0, math.nan], seed=0)) == {"value": 2, "low": 2, "high": 2}
    assert all(math.isnan(v) for v in vars(bootstrap_interval([], seed=0)).values())
    with pytest.raises(ValueError, match="mean or median"):
        bootstrap_interval([1.0], seed=0, statistic="mode")
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1.0], seed=0, confidence=95)


# -- two ways on the same patients --------------------------------------------------------------


def test_students_sleep():
    found = compare_paired(*SLEEP, seed=0)
    assert (found.pairs, found.left_out) == (10, 0)
    assert found.difference.value == pytest.approx(1.58)
    assert found.t_p == pytest.approx(0.002833, abs=1e-6)  # R: t.test(paired = TRUE)
    # All nine differences that are not 0 have one sign: 2 of the 2^9 ways to give them signs.
    assert found.wilcoxon_p == pytest.approx(2 / 2**9)
    assert 0.7 < found.difference.low < 1.58 < found.difference.high < 2.5


def test_a_patient_that_failed_in_one_way_is_left_out_and_counted():
    first, second = [*SLEEP[0], math.nan, 5.0], [*SLEEP[1], 1.0, math.nan]
    found = compare_paired(first, second, seed=0)
    assert (found.pairs, found.left_out) == (10, 2)
    assert found.t_p == compare_paired(*SLEEP, seed=0).t_p


@settings(max_examples=20, deadline=None)
@given(figures)
def test_swapping_the_ways_turns_the_difference_and_keeps_the_tests(values):
    other = list(reversed(values))
    there, back = compare_paired(values, other, seed=1), compare_paired(other, values, seed=1)
    assert there.difference.value == pytest.approx(-back.difference.value, abs=1e-9)
    assert there.t_p == pytest.approx(back.t_p, nan_ok=True)
    assert there.wilcoxon_p == pytest.approx(back.wilcoxon_p, nan_ok=True)


def test_equal_ways_have_no_p_value_and_other_patients_are_refused():
    same = compare_paired([1.0, 2.0], [1.0, 2.0], seed=0)
    assert math.isnan(same.t_p)
    assert math.isnan(same.wilcoxon_p)
    assert same.difference.value == 0
    none = compare_paired([math.nan], [1.0], seed=0)
    assert (none.pairs, none.left_out) == (0, 1)
    with pytest.raises(ValueError, match="same ones"):
        compare_paired([1.0], [1.0, 2.0], seed=0)


# -- many tests ---------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """Marcus, Peritz and Gabriel 1976: the worst of all sets of hypotheses that one is in."""
    indices = range(len(p))
    sets = [s for size in indices for s in combinations(indices, size + 1)]
    bonferroni = {s: min(1.0, len(s) * min(p[i] for i in s)) for s in sets}
    worst = [max(value for s, value in bonferroni.items() if i in s) for i in indices]
    assert holm(p) == pytest.approx(worst)


def test_holm_by_hand():
    # 0.01 * 3; then 0.02 * 2; then the largest once, but never below the one before.
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([math.nan, 0.5, 0.9])[1:] == [1.0, 1.0]
    assert math.isnan(holm([math.nan, 0.5])[0])
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


# -- non-inferiority ----------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(-0.5, 0.5), st.floats(0.05, 1.0))
def test_equivalence_is_that_of_statsmodels(seed, shift, margin):
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    rng = np.random.default_rng(seed)
    first = rng.normal(size=12)
    second = first + rng.normal(shift, 0.3, 12)
    p, (_, lower, _), (_, upper, _) = weightstats.ttost_paired(second, first, -margin, margin)
    found = equivalence(second - first, margin=margin)
    assert (found.p_not_worse, found.p_not_better) == pytest.approx((lower, upper))
    assert found.equivalent == (p < 0.05)
    # The tests say what the interval says.
    assert found.non_inferior == (found.difference.low > -margin)
    assert found.equivalent == (found.non_inferior and found.difference.high < margin)
    # Of a distance, less is better.
    distance = equivalence(first - second, margin=margin, higher_is_better=False)
    assert distance.p_not_worse == pytest.approx(found.p_not_worse)


def test_two_ways_without_spread_and_margins_that_cannot_be():
    assert equivalence([0.0, 0.0], margin=0.1).equivalent
    assert not equivalence([-0.2, -0.2], margin=0.1).non_inferior
    better = equivalence([0.2, 0.2], margin=0.1)
    assert (better.non_inferior, better.equivalent) == (True, False)
    alone = equivalence([0.0, math.nan], margin=0.1)
    assert (alone.pairs, alone.non_inferior) == (1, False)
    for margin in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="margin"):
            equivalence([0.0, 1.0], margin=margin)
    with pytest.raises(ValueError, match="alpha"):
        equivalence([0.0, 1.0], margin=1.0, alpha=0.5)


# -- subgroups ----------------------------------------------------------------------------------


def test_subgroups_are_told_apart_and_adjusted_together():
    rng = np.random.default_rng(2)
    stage = ["T1+2"] * 20 + ["T3+4"] * 20
    scanner = [*("abc" * 13), ""]
    values = rng.normal(0.8, 0.05, 40) - 0.2 * np.array([s == "T3+4" for s in stage])
    values[0] = math.nan
    by_stage, by_scanner = compare_subgroups(values, {"T stage": stage, "scanner": scanner})
    assert (by_stage.test, by_scanner.test) == ("Mann-Whitney", "Kruskal-Wallis")
    assert by_stage.groups["T1+2"].undefined == 1
    assert by_stage.groups["T3+4"].median == pytest.approx(np.median(values[20:]))
    assert by_stage.p < 1e-6 < 0.05 < by_scanner.p
    assert by_stage.p_holm == pytest.approx(2 * by_stage.p)
    assert by_scanner.p_holm == pytest.approx(by_scanner.p)
    assert sum(g.count for g in by_scanner.groups.values()) == 38  # one NaN, one unknown scanner


def test_the_exact_rank_test_in_closed_form():
    """Three against three, none mixed: 2 of the 20 ways to deal the ranks are as far apart."""
    (found,) = compare_subgroups([1, 2, 3, 7, 8, 9], {"a": list("xxxyyy")})
    assert found.p == pytest.approx(2 / 20)


def test_one_group_says_nothing():
    (found,) = compare_subgroups([1.0, 2.0], {"a": ["x", "x"]})
    assert (found.test, math.isnan(found.p), math.isnan(found.p_holm)) == ("", True, True)
    (found,) = compare_subgroups([1.0, math.nan], {"a": ["x", "y"]})
    assert found.test == ""
    (found,) = compare_subgroups([2.0, 2.0], {"a": ["x", "y"]})
    assert found.test == ""
    with pytest.raises(ValueError, match="1 groups for 2 patients"):
        compare_subgroups([1.0, 2.0], {"a": ["x"]})


def test_groups_of_stage_and_volume():
    assert [t_stage_group(s) for s in ("T1", " t3b", "4", "Tis", "T0")] == [
        "T1+2",
        "T3+4",
        "T3+4",
        "",
        "",
    ]
    assert halves([10.0, 20.0, 30.0], "ml") == ["<= 20 ml", "<= 20 ml", "> 20 ml"]
    assert halves([math.nan], "ml") == [""]

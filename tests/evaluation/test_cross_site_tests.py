"""Tests from summaries against scipy's on the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from algorithms.contracts.scale import FRACTION, FRACTION_DIFFERENCE
from evaluation.cross_site_tests import (
    difference_within_sites,
    mann_whitney_test,
    paired_t_test,
    pairs_test,
    pooled_moments,
    random_effects,
    sign_test,
    trend_test,
    wilcoxon_test,
)
from evaluation.disclosure_control import sketch
from evaluation.pooled_sketch import Spread, between, merge, spread


def exactly(values):
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    return Spread(ascending, ascending, ascending)


def moments(values):
    return len(values), float(np.mean(values)), float(np.std(values, ddof=1))


distinct = st.lists(st.integers(1, 10**6), min_size=3, max_size=40, unique=True).flatmap(
    lambda ranks: st.tuples(
        st.just(ranks), st.lists(st.booleans(), min_size=len(ranks), max_size=len(ranks))
    )
)


@given(distinct)
def test_rank_and_sign_tests_equal_scipys_on_known_values(drawn):
    values = np.array([r if up else -r for r, up in zip(*drawn, strict=True)]) / 10**6
    made = wilcoxon_test(exactly(values))
    expected = stats.wilcoxon(values, correction=False, method="asymptotic")
    assert made.p_low == made.p_high == pytest.approx(expected.pvalue, abs=1e-9)
    gained = int((values > 0).sum())
    signs = sign_test(exactly(values))
    assert signs.p_high == pytest.approx(stats.binomtest(gained, len(values)).pvalue, abs=1e-9)
    assert signs.p_low == signs.p_high


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=25))
def test_the_signed_rank_sum_is_pratts_also_with_ties_and_zeros(values):
    found = np.array(values, dtype=float)
    ranks = stats.rankdata(np.abs(found))
    made = wilcoxon_test(exactly(found))
    assert (
        made.statistic_low == made.statistic_high == pytest.approx((np.sign(found) * ranks).sum())
    )


def test_ties_only_make_the_rank_test_milder():
    values = np.array([0.1] * 9 + [-0.1] * 2 + [0.0] * 3)
    tied = stats.wilcoxon(values, zero_method="pratt", correction=False, method="asymptotic")
    assert wilcoxon_test(exactly(values)).p_high >= tied.pvalue


@given(st.lists(st.integers(0, 10**6), min_size=4, max_size=40, unique=True), st.data())
def test_mann_whitney_equals_scipys(values, data):
    cut = data.draw(st.integers(1, len(values) - 1))
    first, second = values[:cut], values[cut:]
    made = mann_whitney_test(exactly(first), exactly(second))
    expected = stats.mannwhitneyu(first, second, use_continuity=False, method="asymptotic")
    assert made.p_high == made.p_low == pytest.approx(expected.pvalue, abs=1e-9)


@given(st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=20), min_size=1, max_size=5))
def test_the_paired_t_test_is_that_of_all_patients_together(per_site):
    everyone = np.concatenate(per_site)
    n, mean, sd = pooled_moments([moments(values) for values in per_site])
    assert (n, mean) == (len(everyone), pytest.approx(everyone.mean(), abs=1e-12))
    assert sd == pytest.approx(everyone.std(ddof=1), abs=1e-9)
    if everyone.std() < 1e-3:
        return
    made = paired_t_test([moments(values) for values in per_site])
    expected = stats.ttest_1samp(everyone, 0.0)
    interval = expected.confidence_interval()
    assert made.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (made.low, made.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_random_effects_in_closed_form():
    """Two hospitals of equal weight: tau^2 is half the square of their distance less s^2 / n."""
    made = random_effects([(25, 0.0, 1.0), (25, 1.0, 1.0)])
    variance, tau2 = 1 / 25, 1 / 2 - 1 / 25
    assert made.mean == pytest.approx(0.5)
    error = ((variance + tau2) / 2) ** 0.5
    assert made.high - made.mean == pytest.approx(stats.t.ppf(0.975, 1) * error)
    assert made.p == pytest.approx(2 * stats.t.sf(0.5 / error, 1))
    assert made.heterogeneity == pytest.approx((12.5 - 1) / 12.5)
    same = random_effects([(25, 0.3, 1.0), (100, 0.3, 1.0)])
    assert (same.mean, same.heterogeneity) == (pytest.approx(0.3), 0.0)


@given(
    st.lists(
        st.tuples(st.integers(5, 60), st.floats(-0.3, 0.3), st.floats(0.02, 0.3)),
        min_size=2,
        max_size=7,
    )
)
def test_random_effects_are_those_of_statsmodels(sites):
    """DerSimonian-Laird; the interval is the wider of it and Hartung-Knapp, both with t."""
    sizes, means, spreads = (np.array(part) for part in zip(*sites, strict=True))
    made = random_effects(sites)
    with np.errstate(all="ignore"):  # statsmodels lets tau^2 be negative
        theirs = combine_effects(means, spreads**2 / sizes, method_re="dl")
    if theirs.tau2 <= 0:
        return  # statsmodels goes below 0 there; the closed form above covers it
    error = max(theirs.sd_eff_w_re, theirs.sd_eff_w_re_hksj)
    assert made.mean == pytest.approx(theirs.mean_effect_re, abs=1e-9)
    assert made.high - made.mean == pytest.approx(
        stats.t.ppf(0.975, len(sites) - 1) * error, rel=1e-9
    )


def test_without_enough_to_test_there_is_no_test():
    nobody = between(0.0, 0.0, 0)
    assert sign_test(nobody) is wilcoxon_test(nobody) is None
    assert mann_whitney_test(nobody, exactly([1.0])) is None
    assert paired_t_test([]) is paired_t_test([(1, 0.2, 0.0)]) is None
    assert paired_t_test([(5, 0.2, 0.0)]) is None  # all the same: no spread to test by
    assert random_effects([(25, 0.3, 1.0)]) is None
    with pytest.raises(ValueError, match="two patients"):
        pooled_moments([(1, 0.2, 0.0)])


def test_a_few_who_lost_are_hidden_and_the_sign_test_says_how_little_that_matters():
    differences = [-0.03, -0.01, *np.linspace(0.005, 0.3, 18)]
    made = sketch(np.round(differences, 4), FRACTION_DIFFERENCE, minimum_group_size=5)
    assert min(made.counts) >= 5
    test = sign_test(merge([spread(made, FRACTION_DIFFERENCE)]))
    true = stats.binomtest(18, 20).pvalue
    assert test.p_low <= true <= test.p_high < 0.05


grouped = st.lists(st.integers(1, 10**6), min_size=4, max_size=40, unique=True).flatmap(
    lambda values: st.tuples(
        st.just(values),
        st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)),
    )
)


def in_groups(values, places):
    return [
        [value for value, place in zip(values, places, strict=True) if place == group]
        for group in range(4)
    ]


@given(grouped)
def test_a_trend_over_groups_is_kendalls_s_of_group_and_value(drawn):
    """Kendall's S with ties in one variable is Jonckheere's statistic, with its variance."""
    values, places = drawn
    made = trend_test([exactly(group) for group in in_groups(values, places)])
    if len(set(places)) < 2:
        assert made is None
        return
    n = len(values)
    s = sum(
        np.sign(places[j] - places[i]) * np.sign(values[j] - values[i])
        for i in range(n)
        for j in range(i + 1, n)
    )
    assert made.n == n
    assert made.statistic_low == made.statistic_high == s
    expected = stats.kendalltau(places, values, method="asymptotic").pvalue
    assert made.p_low == made.p_high == pytest.approx(expected, abs=1e-9)


@given(grouped)
def test_groups_without_an_order_are_compared_two_by_two_with_bonferroni(drawn):
    groups = [group for group in in_groups(*drawn) if group]
    made = pairs_test([exactly(group) for group in groups])
    p = [
        stats.mannwhitneyu(one, other, use_continuity=False, method="asymptotic").pvalue
        for i, one in enumerate(groups)
        for other in groups[:i]
    ]
    if not p:
        assert made is None
        return
    assert made.p_high == made.p_low == pytest.approx(min(1.0, len(p) * min(p)), abs=1e-9)
    assert made.n == len(drawn[0])


@given(grouped, st.integers(1, 5))
def test_a_trend_over_counted_patients_holds_the_one_over_the_values(drawn, minimum):
    values, places = drawn
    groups = [[v / 10**6 for v in group] for group in in_groups(values, places)]
    groups = [group for group in groups if len(group) >= minimum]
    exact = trend_test([exactly(group) for group in groups])
    counted = trend_test(
        [spread(sketch(g, FRACTION, minimum_group_size=minimum), FRACTION) for g in groups]
    )
    if exact is None:
        assert counted is None
        return
    assert counted.statistic_low <= exact.statistic_low <= counted.statistic_high
    assert counted.p_low - 1e-12 <= exact.p_low <= counted.p_high + 1e-12


groups_of_two = st.tuples(
    *[st.lists(st.floats(0, 1), min_size=3, max_size=12).filter(lambda v: np.ptp(v) > 0.01)] * 2
)


@given(groups_of_two)
def test_the_difference_inside_one_hospital_is_welchs(pair):
    first, second = pair
    made = difference_within_sites([(moments(first), moments(second))])
    welch = stats.ttest_ind(second, first, equal_var=False)
    assert made.mean == pytest.approx(np.mean(second) - np.mean(first), abs=1e-12)
    assert made.p == pytest.approx(welch.pvalue, abs=1e-9)
    interval = welch.confidence_interval()
    assert (made.low, made.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert made.sites == 1


@given(groups_of_two, st.floats(-5, 5), st.integers(2, 4))
def test_what_differs_between_hospitals_is_not_in_the_difference_inside(pair, shift, hospitals):
    first, second = (np.asarray(values) for values in pair)
    sites = [(moments(first + i * shift), moments(second + i * shift)) for i in range(hospitals)]
    made = difference_within_sites(sites)
    alone = difference_within_sites(sites[:1])
    assert made.mean == pytest.approx(alone.mean, abs=1e-9)
    error = np.sqrt(sum(np.var(values, ddof=1) / len(values) for values in pair) / hospitals)
    reach = stats.t.ppf(0.975, hospitals - 1) * error
    assert made.high - made.low == pytest.approx(2 * reach, rel=1e-6)


def test_groups_of_one_patient_have_no_difference():
    assert difference_within_sites([]) is None
    assert difference_within_sites([((1, 0.5, 0.0), (9, 0.6, 0.1))]) is None
    assert difference_within_sites([((9, 0.5, 0.0), (9, 0.6, 0.0))]) is None

import functools
import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.contracts.scale import MILLIMETRE, width_at
from evaluation import disclosure_control
from evaluation.disclosure_control import suppressed_bins

distribution = functools.partial(disclosure_control.distribution, scale=MILLIMETRE)

values = st.lists(st.one_of(st.floats(0, 100), st.just(math.nan)), max_size=25)


@given(values, st.integers(1, 8))
def test_a_group_that_is_too_small_gives_counts_and_nothing_else(values, group):
    figure = distribution(values, minimum_group_size=group, decimals=2)
    defined = [v for v in values if not math.isnan(v)]
    assert (figure.n, figure.undefined) == (len(defined), len(values) - len(defined))
    given_figures = [figure.mean, figure.sd, figure.median, figure.q1, figure.q3]
    if len(defined) < group:
        assert given_figures == [None] * 5
    if len(defined) < 2 * group:
        assert figure.q1 is None
        assert figure.q3 is None


@given(st.lists(st.floats(0, 100), min_size=4, max_size=25))
def test_figures_equal_the_standard_librarys(values):
    figure = distribution(values, minimum_group_size=2, decimals=3)
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    expected = [statistics.fmean(values), statistics.stdev(values)]
    assert [figure.mean, figure.sd] == pytest.approx(expected, abs=0.0006)
    for said, true in ((figure.median, median), (figure.q1, q1), (figure.q3, q3)):
        assert said == pytest.approx(true, abs=width_at(MILLIMETRE, true) / 2 + 1e-9)


@given(values.flatmap(lambda v: st.tuples(st.just(v), st.permutations(v))))
def test_the_order_of_the_patients_leaves_no_trace(pair):
    first, second = (distribution(v, minimum_group_size=1, decimals=6) for v in pair)
    assert first == second


def test_five_patients_cannot_be_recovered_from_their_figures():
    """With quartiles, five figures over five patients would give every value back."""
    figure = distribution([0.1, 0.5, 0.6, 0.7, 0.9], minimum_group_size=5, decimals=4)
    assert figure.mean is not None
    assert figure.median is not None
    assert (figure.q1, figure.q3) == (None, None)


def test_figures_are_rounded_and_one_patient_has_no_sd():
    figure = distribution([1 / 3], minimum_group_size=1, decimals=2)
    assert (figure.mean, figure.sd) == (0.33, None)


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_an_infinite_value_is_refused(bad):
    with pytest.raises(ValueError, match="infinite"):
        distribution([1.0, bad], minimum_group_size=1, decimals=2)


def test_a_group_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        distribution([1.0], minimum_group_size=0, decimals=2)
    with pytest.raises(ValueError, match="at least one"):
        suppressed_bins((1,), minimum_group_size=0)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("bins", "most"), [(2, 16), (3, 14), (4, 12)])
def test_what_is_hidden_may_be_nobody_or_a_group_for_all_that_the_rule_tells(bins, most, group):
    """Tried with every small table, by somebody who knows the total and this rule."""
    same_release = {}
    for counts in itertools.product(range(most + 1), repeat=bins):
        if sum(counts) <= most:
            kept = suppressed_bins(counts, minimum_group_size=group)
            same_release.setdefault((sum(counts), kept), []).append(counts)
    assert len({kept for _, kept in same_release}) > 1
    for (total, kept), possible in same_release.items():
        for i, shown in enumerate(kept):
            values = {counts[i] for counts in possible}
            if shown is None:
                assert any(value == 0 or value >= group for value in values), (total, kept)
                assert len(values) > 1
            else:
                assert values == {shown}
                assert shown == 0 or shown >= group


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 8))
def test_no_hidden_count_can_be_worked_out_from_the_total(counts, group):
    kept = suppressed_bins(counts, minimum_group_size=group)
    hidden = [count for count, shown in zip(counts, kept, strict=True) if shown is None]
    assert all(shown in (None, count) for count, shown in zip(counts, kept, strict=True))
    assert not any(shown is not None and 0 < shown < group for shown in kept)
    if hidden:
        everything_hidden = len(hidden) == len(counts)
        assert everything_hidden or (len(hidden) >= 2 and sum(hidden) >= group)
    else:
        assert all(count == 0 or count >= group for count in counts)

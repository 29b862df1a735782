"""Attacks on what hospitals release: nothing about one patient can be solved for."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.contracts.scale import FRACTION, PERCENT, width_at
from evaluation.differencing import differencing_rule
from evaluation.disclosure_control import distribution
from evaluation.site_summary import PatientRow, RevisionRow, summarise_site
from tests.evaluation.attacks import (
    patients_who_would_say_the_same,
    ranges_by_linear_programming,
    sums_that_follow,
)
from tests.evaluation.report_builders import annotation, metrics, report, subject

GROUP = 5
release = functools.partial(distribution, scale=FRACTION, minimum_group_size=GROUP, decimals=4)


def dice(generator, patients, spread):
    return np.clip(generator.normal(0.8, spread, patients), 0.01, 0.99)


@pytest.mark.parametrize("spread", [0.02, 0.1])
@pytest.mark.parametrize("patients", [5, 6, 7, 10, 13])
def test_every_patient_could_be_far_from_where_they_are(patients, spread):
    """Others with the very same release exist in which this patient is an SD away."""
    generator = np.random.default_rng(patients)
    values = dice(generator, patients, spread)
    for patient in range(patients):
        low, high = patients_who_would_say_the_same(
            values, release, patient, generator=generator, enough=values.std()
        )
        assert high - low >= values.std()


def test_the_attack_finds_what_an_unguarded_release_gives_away():
    """Moments to eight digits with every quartile of five patients leave nothing open."""
    generator = np.random.default_rng(0)
    values = dice(generator, 5, 0.1)

    def unguarded(v):
        quartiles = np.percentile(v, (25, 50, 75))
        return [*np.round(quartiles, 8), round(v.mean(), 8), round(v.std(), 8)]

    for patient in range(5):
        low, high = patients_who_would_say_the_same(
            values, unguarded, patient, generator=generator, enough=0.01
        )
        assert high - low < 1e-6


def test_the_lowest_the_median_and_the_highest_patient_stay_a_step_wide():
    """Even who is sought by rank, as "the median patient", is known to a step and no better."""
    generator = np.random.default_rng(7)
    for _ in range(20):
        values = dice(generator, int(generator.integers(5, 26)), generator.choice([0.02, 0.1]))
        said = release(values)
        ranges = ranges_by_linear_programming(said, FRACTION, decimals=4, group=GROUP)
        for value, (low, high) in zip(np.sort(values), ranges, strict=True):
            assert low - 1e-9 <= value <= high + 1e-9  # the programme is right about everyone
            assert high - low >= width_at(FRACTION, value) - 1e-9


@pytest.mark.parametrize("patients", [5, 6, 8, 12])
def test_whoever_did_not_fail_is_not_given_away_by_those_who_did(patients):
    """A mean over five of whom four failed is the Dice of the fifth: a unique subgroup."""
    for failures in range(patients + 1):
        others = patients - failures
        arm = report(adapted=[0.0] * failures + [0.7] * others, minimum_group_size=GROUP).arms[0]
        assert arm.failures == failures  # whoever failed is always told
        told = arm.dsc.mean is not None
        assert told == (others == 0 or others >= GROUP)
        assert (arm.nsd_at_1mm.mean is not None) == told
        if arm.dsc.sketch is not None:
            assert arm.dsc.sketch.patients == others >= GROUP


def test_a_contour_drawn_anew_is_like_a_failure():
    def summary(degrees):
        return report(adapted=[0.8] * 20, degrees=degrees, minimum_group_size=GROUP).revision

    assert summary([100.0] * 4 + [7.3]).degree_percent.mean is None
    told = summary([100.0] * 4 + [7.3] * 6)
    assert told.degree_percent.mean is not None
    assert told.degree_percent.sketch.patients == 6


@given(st.lists(st.floats(0, 100), min_size=5, max_size=60))
@settings(max_examples=200, deadline=None)
def test_bins_and_sketch_cut_the_patients_at_the_same_places(degrees):
    """Two divisions that cut each other would give away the few between two cuts."""
    revision = report(adapted=[0.8] * 20, degrees=degrees, minimum_group_size=GROUP).revision
    sketch = revision.degree_percent.sketch
    if revision.bins is None or sketch is None:
        return
    upper = [PERCENT.upper[last] for last in sketch.last_steps]
    assert {5.0, 10.0, 15.0, 100.0} <= set(upper)
    cumulated = dict(zip(upper, np.cumsum(sketch.counts).tolist(), strict=True))
    anew = len(degrees) - sketch.patients
    assert [cumulated[edge] for edge in (5.0, 10.0, 15.0)] == np.cumsum(revision.bins)[:3].tolist()
    assert cumulated[100.0] + anew == sum(revision.bins)


def test_pairs_over_other_patients_than_the_arms_are_not_told():
    """Adapted minus difference is direct; over nine it would give the tenth away."""

    def made(direct):
        rows = [PatientRow("direct", metrics(0.7), patient=str(i)) for i in range(direct)]
        rows += [PatientRow("adapted", metrics(0.8), patient=str(i)) for i in range(10)]
        return summarise_site(
            rows, subject=subject(), annotation=annotation(), minimum_group_size=GROUP
        ).paired

    assert made(9) == ()
    assert [pair.difference.n for pair in made(10)] == [10]


def told(*groups):
    return [{"adapted": dict.fromkeys(group, "")} for group in groups]


def test_n_against_n_less_one_does_not_leave():
    whole, rest = frozenset("abcdefghij"), frozenset("abcdefghi")
    assert {"j": 1} in sums_that_follow([whole, rest])  # what the rule is there for
    for first, second in ((whole, rest), (rest, whole)):
        assert differencing_rule(*told(second), told(first), minimum_group_size=GROUP)


BLOCKS = ("abc", "def", "ghi", "jklm", "no", "p")  # those who come and go together


@given(st.lists(st.sets(st.sampled_from(BLOCKS), min_size=1), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_combination_of_repeated_rounds_tells_of_fewer_than_a_group(asked):
    """A site answers round after round; whatever left is added to and taken from one another."""
    kept = []
    for blocks in asked:
        group = frozenset("".join(blocks))
        if len(group) >= 3 and not differencing_rule(
            *told(group), told(*kept), minimum_group_size=3
        ):
            kept.append(group)
    for following in sums_that_follow(kept[:4]):
        assert not 0 < len(following) < 3


def test_a_tracker_that_compares_no_two_releases_is_refused():
    """Any two of these groups differ by three or more, yet the four give one patient away."""
    a, b, c = "abc", "def", "ghi"
    groups = [frozenset(group) for group in (a + b, b + c, a + c + "z", a)]
    assert all(len(one - other) not in (1, 2) for one in groups for other in groups)
    assert {"z": 1} in sums_that_follow(groups)
    kept = []
    for group in groups:
        if not differencing_rule(*told(group), told(*kept), minimum_group_size=3):
            kept.append(group)
    assert kept == [groups[0], groups[1], groups[3]]


def test_a_corrected_contour_of_one_patient_does_not_show():
    before = {"adapted": {str(i): "seen" for i in range(20)}}
    one = {"adapted": before["adapted"] | {"3": "corrected"}}
    many = {"adapted": before["adapted"] | {str(i): "corrected" for i in range(5)}}
    rule = functools.partial(differencing_rule, earlier=[before], minimum_group_size=GROUP)
    assert rule(one) == "few_figures_changed"
    assert rule(many) is None
    assert rule(before) is None


def test_reviews_of_few_and_of_many_in_one_report():
    """Six reviewed of ten tested: each figure is about its own group, and none about the four."""
    made = summarise_site(
        [PatientRow("adapted", metrics(0.8), patient=str(i)) for i in range(10)],
        subject=subject(),
        annotation=annotation(),
        revisions=[RevisionRow(d, 60.0, False) for d in (1.0, 2.0, 3.0, 4.0)],
        minimum_group_size=GROUP,
    )
    assert made.revision.degree_percent.mean is None
    assert made.revision.degree_percent.sketch is None


def test_four_releases_that_differ_by_a_group_each_do_not_tell_one_change():
    """Any two differ by five changed contours or more; 2nd + 3rd - 1st - 4th is twice one's."""

    def said(*changed):
        return {"adapted": {str(i): "new" if i in changed else "old" for i in range(20)}}

    releases = [said(), said(1, 2, 3, 4, 5), said(5, 6, 7, 8, 9), said(1, 2, 3, 4, 6, 7, 8, 9)]
    pairs = itertools.combinations(releases, 2)
    assert all(differencing_rule(b, [a], minimum_group_size=GROUP) is None for a, b in pairs)
    asked, *earlier = reversed(releases)
    assert differencing_rule(asked, earlier, minimum_group_size=GROUP) == "few_figures_differ"


def test_a_larger_minimum_later_does_not_forget_what_was_told_under_a_smaller_one():
    seven, eleven = ({"adapted": dict.fromkeys(map(str, range(n)), "")} for n in (7, 11))
    rule = functools.partial(differencing_rule, eleven, [seven], minimum_group_size=10)
    assert rule(least_told=1) == "few_patients_differ"
    assert rule() is None  # told under ten, seven said nothing


def test_how_many_of_few_reviews_took_no_time_is_not_told():
    made = summarise_site(
        [PatientRow("adapted", metrics(0.8), patient=str(i)) for i in range(10)],
        subject=subject(),
        annotation=annotation(),
        revisions=[RevisionRow(3.0, t, False) for t in (60.0, float("nan"), 50.0)],
        minimum_group_size=GROUP,
    ).revision
    assert made.patients == made.active_s.n == 3
    assert made.active_s.undefined == 0

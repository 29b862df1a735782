import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.contracts.errors import ProtocolError
from evaluation.aggregate_report import GapReason, StudyReport, aggregate
from evaluation.report_csv import table_rows
from tests.evaluation.report_builders import report

dscs = st.lists(st.floats(0.001, 1), min_size=2, max_size=9)  # beside failures: see attack tests


def site_gap(made):
    return made.packages[0].sites[0].gap_closed


def three_arms(site, direct, adapted, target_trained, **changes):
    return report(site, direct=direct, adapted=adapted, target_trained=target_trained, **changes)


@settings(max_examples=40, deadline=None)
@given(st.lists(dscs, min_size=1, max_size=4))
def test_pooled_mean_and_sd_equal_those_of_all_patients_together(per_site):
    reports = [report(f"site-{i}", adapted=values) for i, values in enumerate(per_site)]
    (pooled,) = aggregate(reports).packages[0].pooled
    everyone = np.concatenate(per_site)
    assert pooled.patients == pooled.dsc.n == len(everyone)
    assert pooled.dsc.mean == pytest.approx(everyone.mean(), abs=2e-4)
    assert pooled.dsc.sd == pytest.approx(everyone.std(ddof=1), abs=3e-4)


def test_gap_closed_in_closed_form():
    made = aggregate([three_arms("north", [0.5, 0.7], [0.7, 0.8], [0.8, 0.8])])
    assert site_gap(made).fraction == pytest.approx(0.75)
    assert site_gap(made).reason is None
    assert made.packages[0].gap_closed.fraction == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        ({"direct": [0.5, 0.6], "adapted": [0.7, 0.8]}, GapReason.ARM_ABSENT),
        (
            {"direct": [0.6], "adapted": [0.7], "target_trained": [0.8]},
            GapReason.SUPPRESSED,
        ),
        (
            {"direct": [0.6, 0.6], "adapted": [0.7, 0.7, 0.7], "target_trained": [0.8, 0.8]},
            GapReason.DIFFERENT_PATIENTS,
        ),
        (
            {"direct": [0.6, 0.6], "adapted": [0.7, 0.7], "target_trained": [0.605, 0.605]},
            GapReason.NO_GAP,
        ),
        (
            {"direct": [0.8, 0.8], "adapted": [0.7, 0.7], "target_trained": [0.6, 0.6]},
            GapReason.NO_GAP,
        ),
    ],
)
def test_a_gap_that_means_nothing_is_not_given_and_says_why(arms, reason):
    gap = site_gap(aggregate([report(**arms)]))
    assert gap.fraction is None
    assert gap.reason is reason
    assert reason.explanation


def test_a_suppressed_site_stays_out_of_the_pool_but_its_patients_are_counted():
    large = report("large", adapted=[0.8, 0.9])
    small = report("small", adapted=[0.0], minimum_group_size=2)  # says nothing of failures
    (pooled,) = aggregate([large, small]).packages[0].pooled
    assert (pooled.sites, pooled.patients, pooled.failures) == (2, 3, 0)
    assert (pooled.dsc.sites, pooled.dsc.n, pooled.dsc.mean) == (1, 2, 0.85)


def test_any_order_and_any_repetition_give_the_same_report():
    reports = [report(name, adapted=[0.7, 0.8], degrees=[3, 4]) for name in ("a", "b", "c")]
    expected = aggregate(reports)
    for order in itertools.permutations(reports):
        assert aggregate([*order, order[0]]) == expected
    assert [site.report.site for site in expected.packages[0].sites] == ["a", "b", "c"]


def test_packages_are_never_pooled_together():
    first = report("north", adapted=[0.5, 0.6])
    second = report("north", adapted=[0.8, 0.9], package_id="cd" * 32, model_version="v2")
    made = aggregate([second, first])
    assert [package.model_version for package in made.packages] == ["v1", "v2"]
    assert [package.pooled[0].patients for package in made.packages] == [2, 2]


def test_broken_agreements_are_refused():
    one = report("north", adapted=[0.5, 0.6])
    with pytest.raises(ProtocolError, match="'north' sent two different reports"):
        aggregate([one, report("north", adapted=[0.5, 0.7])])
    with pytest.raises(ProtocolError, match="different studies"):
        aggregate([one, report("south", adapted=[0.5, 0.7], study="other")])
    with pytest.raises(ProtocolError, match="model versions v1 and v2"):
        aggregate([one, report("south", adapted=[0.5, 0.7], model_version="v2")])
    with pytest.raises(ProtocolError, match="no site report"):
        aggregate([])
    with pytest.raises(ProtocolError, match="an arm twice"):
        aggregate([one.model_copy(update={"arms": one.arms * 2})])
    renamed = one.arms[0].model_copy(update={"arm": "tuned"})
    with pytest.raises(ProtocolError, match="unknown arm 'tuned'"):
        aggregate([one.model_copy(update={"arms": (renamed,)})])


def test_the_table_has_one_row_per_site_and_one_for_all():
    made = aggregate(
        [
            three_arms(
                "north", [0.5, 0.6, 0.7], [0.7, 0.75, 0.8], [0.8] * 3, degrees=[4.0, 5.0, 6.0]
            ),
            report("south", adapted=[0.9, 0.8]),
        ]
    )
    north, south, everyone = table_rows(made)
    assert list(north) == list(south) == list(everyone)
    assert (north["site"], everyone["site"]) == ("north", "all sites")
    assert north["direct_dsc_mean"] == 0.6
    assert north["gap_closed"] == 0.75
    assert north["revision_degree_percent_mean"] == 5.0
    assert (north["selected_slices"], north["training_slices"]) == (80, 400)
    assert (north["patients_against_reference"], north["patients_against_reviewed"]) == (3, 0)
    assert south["direct_dsc_mean"] is south["gap_closed"] is None
    assert south["gap_closed_reason"] == "arm_absent"
    assert everyone["adapted_dsc_mean"] == pytest.approx(0.79)
    # One bin over all of the scale stands behind five patients: its middle is no median.
    assert everyone["adapted_dsc_median"] is None
    assert everyone["selected_slices"] == 160


def test_a_study_report_survives_json():
    made = aggregate([three_arms("north", [0.5, 0.7], [0.7, 0.8], [0.8, 0.8], degrees=[1, 2])])
    assert StudyReport.model_validate_json(made.model_dump_json()) == made

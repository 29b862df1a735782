"""A study of five hospitals, 1,057 simulated patients and four raters, on the road of real ones."""

import numpy as np
import pytest
from markupsafe import escape

from algorithms.contracts.messages import SiteReportMessage
from evaluation.aggregate_report import StudyReport, aggregate
from evaluation.benchmarks.simulated_reports import SITES, STUDY, simulate_study
from evaluation.plain_notes import plain_notes
from evaluation.report_csv import render_csv
from evaluation.report_rendering import render_html, render_json
from site_agent import egress
from site_agent.database import open_database
from tests.evaluation.report_builders import report
from tests.simulated_site import AT, approve_plan_for, make_site, store_round

MOST_BYTES = 200_000


@pytest.fixture(scope="module")
def hospitals():
    return simulate_study(np.random.default_rng(6))


@pytest.fixture(scope="module")
def received(hospitals, tmp_path_factory):
    """Return what leaves every hospital's own door, as its bytes."""
    bodies = {}
    for hospital in hospitals:
        home = make_site(tmp_path_factory.mktemp("sites") / hospital.name, hospital.name)
        engine = open_database(home.database_url)
        message = SiteReportMessage(report=hospital.report())
        approve_plan_for(home, engine, message.report.package_id)
        store_round(engine, hospital.report(), hospital.rows)
        bodies[hospital.name] = egress.release(home, engine, message, now=AT)
        engine.dispose()
    return bodies


@pytest.fixture(scope="module")
def study(received):
    """Aggregate all reports but one: that of the hospital "east" never arrived."""
    arrived = [
        SiteReportMessage.model_validate_json(body).report
        for name, body in received.items()
        if name != "east"
    ]
    return aggregate(arrived, expected_sites=SITES)


def test_it_is_the_size_of_the_thesiss_cohort(hospitals, received):
    assert sum(SITES.values()) == 1057
    assert len(received) == 5
    assert all(len(body) < MOST_BYTES for body in received.values())
    assert b"north-17" not in received["north"]  # what pairs the arms stays


def test_what_went_wrong_is_said_plainly(study):
    (package,) = study.packages
    assert package.missing_sites == ("east",)
    assert plain_notes(package) == (
        "east: no report on this package has arrived; its patients are in no figure.",
        "island: 3 patients tested, fewer than its minimum group of 5: they are counted, no figure "
        "about them is given, and the pooled figures are without them.",
        "north: 1 of 420 patients failed with the adapted model (tumour missed, Dice 0): counted "
        "as 0 in the mean Dice; 1 patient without a distance.",
    )


def test_the_pool_is_that_of_the_patients_of_the_hospitals_that_say(study, hospitals):
    (package,) = study.packages
    told = [hospital for hospital in hospitals if hospital.name not in ("east", "island")]
    for arm in package.pooled:
        dice = [row.metrics.dsc for hospital in told for row in hospital.rows if row.arm == arm.arm]
        assert (arm.patients, arm.dsc.n) == (853, 850)
        assert arm.dsc.mean == pytest.approx(np.mean(dice), abs=1e-4)
        for quantile, true in zip(
            arm.dsc.quantiles, np.percentile(dice, (25, 50, 75)), strict=True
        ):
            assert quantile.low <= true <= quantile.high
            assert quantile.high - quantile.low < 0.03
    assert package.pooled[1].failures == 1
    times = [review.active_s for hospital in told for review in hospital.revisions]
    _, median, _ = package.revision_active_s.quantiles
    assert median.low <= np.median(times) <= median.high <= median.low + 10


def test_adaptation_is_seen_to_help_and_four_raters_to_agree(study):
    (package,) = study.packages
    gain, comparator = package.paired
    assert (gain.first, gain.second) == ("direct", "adapted")
    assert gain.difference.mean == pytest.approx(0.13, abs=0.02)
    assert max(gain.all_patients.p, gain.sign.p_high, gain.wilcoxon.p_high) < 1e-9
    assert comparator.second == "target_trained"
    pairs = [(one.first, one.second) for one in package.agreement]
    assert len(pairs) == 7  # six pairs, and one person twice
    assert pairs[0] == ("a", "a")
    assert all(one.dsc.n == 60 for one in package.agreement)  # three hospitals, twenty each


def test_subgroups_of_the_hospitals_are_those_of_their_patients(study, hospitals):
    """Federated equals pooled: sizes and failures exactly, means to their rounding."""
    (package,) = study.packages
    told = [hospital for hospital in hospitals if hospital.name not in ("east", "island")]
    by = {one.attribute: one for one in package.subgroups}
    for attribute, sizes in (("t_stage", 2), ("volume", 3), ("scanner", 2)):
        assert len(by[attribute].groups) == sizes
        for group in by[attribute].groups:
            assert group.sites
            for arm in group.arms:
                rows = [
                    row.metrics
                    for hospital in told
                    for row in hospital.rows
                    if hospital.name in group.sites
                    and row.arm == arm.arm
                    and row.subgroups[attribute] == group.group
                ]
                assert arm.patients == len(rows)
                assert arm.failures == sum(row.is_failure for row in rows)
                dice = [row.dsc for row in rows]
                assert arm.dsc.mean == pytest.approx(np.mean(dice), abs=1e-4)
                assert arm.dsc.sd == pytest.approx(np.std(dice, ddof=1), abs=2e-4)
                for quantile, true in zip(
                    arm.dsc.quantiles, np.percentile(dice, (25, 50, 75)), strict=True
                ):
                    assert quantile.low <= true <= quantile.high
    assert [(left.site, left.patients) for left in by["volume"].untold] == [("island", 3)]
    assert {left.site for left in by["t_stage"].untold} == {"island", "north", "south", "west"}


def test_it_is_rendered_and_read_again(study):
    assert StudyReport.model_validate_json(render_json(study)) == study
    assert STUDY in render_csv(study)
    page = render_html(study, title="Simulated", generated_at="2031-05-06T07:08:09Z")
    assert all(str(escape(note)) in page for note in plain_notes(study.packages[0]))


def test_a_hospital_where_nobody_else_is_left_says_that_it_cannot_say():
    (package,) = aggregate(
        [report("north", adapted=[0.0, 0.0, 0.8], degrees=[1.0] * 2, minimum_group_size=3)]
    ).packages
    assert plain_notes(package) == (
        "north: 2 of 3 patients failed with the adapted model (tumour missed, Dice 0); the others "
        "are fewer than its minimum group of 3, so no mean Dice is given.",
        "north: 2 patients reviewed, fewer than its minimum group of 3: no figure about the review "
        "is given.",
    )
    assert plain_notes(aggregate([report("north", adapted=[0.8] * 3)]).packages[0]) == ()
    untested = report("north", degrees=[1.0] * 3)
    assert plain_notes(aggregate([untested]).packages[0]) == ("north: no patient was tested.",)

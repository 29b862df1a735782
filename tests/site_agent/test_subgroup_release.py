"""Subgroups over the rounds of a real site database, through its door out."""

from dataclasses import replace
from itertools import pairwise

import pytest
from sqlalchemy.orm import Session

from algorithms.contracts.messages import SiteReportMessage
from evaluation.site_summary import PatientRow, RaterRow, RevisionRow, summarise_site
from site_agent import egress
from site_agent.database import (
    CaseRow,
    MeasurementRow,
    ReviewRow,
    RoundRow,
    open_database,
    transaction,
)
from site_agent.egress import ReleaseRefused
from site_agent.release_memory import agreement_of, beside_earlier, memory_key, told_by
from tests.evaluation.report_builders import annotation, metrics, subject
from tests.simulated_site import AT, STUDY, approve_plan_for, make_site, store_round

FIRST, SECOND, THIRD = ("1" * 64, "2" * 64, "3" * 64)


@pytest.fixture
def site(tmp_path):
    home = make_site(tmp_path / "site", "north")
    engine = open_database(home.database_url)
    for package_id in (FIRST, SECOND, THIRD):
        approve_plan_for(home, engine, package_id)
    yield home, engine
    engine.dispose()


def rows(*early):
    """Make twenty patients, ten of them large; `early` are those of stage T1 or T2."""
    return [
        PatientRow(
            "adapted",
            metrics(0.7 + 0.01 * i),
            patient=f"p{i}",
            subgroups={
                "t_stage": "T1+2" if i in early else "T3+4",
                "volume": "above 30 ml" if i >= 10 else "below 10 ml",
                "scanner": "ge",
            },
        )
        for i in range(20)
    ]


def summarised(package_id, patients, raters=()):
    return summarise_site(
        patients,
        raters=raters,
        subject=subject("north", study=STUDY, package_id=package_id),
        annotation=annotation(),
        minimum_group_size=5,
    )


def attributes(report):
    return sorted({one.attribute for one in report.subgroups})


def released(site, report):
    home, engine = site
    return egress.release(home, engine, SiteReportMessage(report=report), now=AT)


def allowed(home, session, round_id, report):
    earlier = egress.told_earlier(home, session)
    return beside_earlier(session, round_id, report, earlier, memory_key(home))


def made(site, package_id, patients):
    """Do what measuring does: store, then leave out what earlier reports do not allow."""
    home, engine = site
    round_id = store_round(engine, summarised(package_id, patients), patients)
    with transaction(engine) as session:
        row = session.get_one(RoundRow, round_id)
        report = allowed(home, session, round_id, summarised(package_id, patients))
        row.report = report.model_dump(mode="json")
    return report


def test_the_memory_holds_who_is_in_which_subgroup_as_digests(site):
    _, engine = site
    report = made(site, FIRST, rows(*range(10)))
    with Session(engine) as session:
        told = told_by(session, report)
    assert {group: len(members) for group, members in told.items()} == {
        "adapted": 20,
        "adapted|t_stage|T1+2": 10,
        "adapted|t_stage|T3+4": 10,
        "adapted|volume|below 10 ml": 10,
        "adapted|volume|above 30 ml": 10,
        "adapted|scanner|ge": 20,
    }
    assert told["adapted|t_stage|T1+2"].items() <= told["adapted"].items()
    assert "p0" not in told["adapted"]


def test_a_corrected_stage_leaves_with_the_next_report_but_not_in_its_subgroups(site):
    patients = rows(*range(10))
    first = made(site, FIRST, patients)
    assert attributes(first) == ["scanner", "t_stage", "volume"]
    released(site, first)
    second = made(site, SECOND, rows(*range(9)))  # one patient was not T2 but T3
    assert attributes(second) == ["scanner"]  # nor volumes, which differ from stages by the one
    assert second.arms == summarised(SECOND, patients).arms
    released(site, second)
    again = made(site, THIRD, patients)
    assert attributes(again) == ["scanner", "t_stage", "volume"]
    released(site, again)


def test_the_door_refuses_what_was_not_left_out(site):
    _, engine = site
    released(site, made(site, FIRST, rows(*range(10))))
    careless = summarised(SECOND, [replace(one) for one in rows(*range(2, 11))])
    assert attributes(careless) == ["scanner", "t_stage"]  # volumes would tell of few beside it
    store_round(engine, careless, rows(*range(2, 11)))
    with pytest.raises(ReleaseRefused) as refused:
        released(site, careless)
    assert refused.value.rule == "few_patients_differ"


def test_of_a_report_that_no_round_made_only_numbers_are_known(site):
    """Its stages and volumes could cut each other anywhere."""
    _, engine = site
    report = summarised(FIRST, rows(*range(5, 15)))
    assert attributes(report) == ["scanner", "t_stage", "volume"]
    with Session(engine) as session:
        told = told_by(session, report)
    early, late = told["adapted|t_stage|T1+2"], told["adapted|t_stage|T3+4"]
    assert not early.keys() & late.keys()
    assert early.keys() | late.keys() == told["adapted"].keys()


def test_a_plan_that_does_not_name_subgroups_keeps_them_in(site):
    home, engine = site
    report = made(site, FIRST, rows(*range(10)))
    plan = approve_plan_for(home, engine, FIRST)
    fields = [f for f in plan.permitted_outputs.site_report_fields if f != "subgroups"]
    approve_plan_for(
        home,
        engine,
        FIRST,
        permitted_outputs={"messages": ("site_report",), "site_report_fields": fields},
    )
    with pytest.raises(ReleaseRefused) as refused:
        released(site, report)
    assert refused.value.rule == "field_not_in_plan"


def rated(site, package_id, patients):
    """Two raters drew so many patients by the time of this report."""
    home, engine = site
    raters = [RaterRow("a", "b", 0.8, 3.0 + i) for i in range(patients)]
    everybody = rows(*range(10))
    report = summarised(package_id, everybody, raters)
    round_id = store_round(engine, report, everybody)
    with transaction(engine) as session:
        session.add_all(
            MeasurementRow(
                round_id=round_id,
                case_id=f"case-p{i}",
                arm=agreement_of("a", "b"),
                metrics={"hd95_mm": 3.0 + i},
            )
            for i in range(patients)
        )
        session.flush()
        report = allowed(home, session, round_id, report)
        session.get_one(RoundRow, round_id).report = report.model_dump(mode="json")
    return report


def test_one_more_rated_patient_does_not_show_between_two_reports(site):
    first = rated(site, FIRST, 10)
    assert [pair.patients for pair in first.agreement] == [10]
    released(site, first)
    second = rated(site, SECOND, 11)
    assert second.agreement == ()
    assert second.subgroups == first.subgroups
    released(site, second)
    third = rated(site, THIRD, 15)
    assert [pair.patients for pair in third.agreement] == [15]
    released(site, third)


def test_the_door_refuses_one_more_rated_patient(site):
    released(site, rated(site, FIRST, 10))
    careless = summarised(SECOND, rows(*range(10)), [RaterRow("a", "b", 0.8, 3.0)] * 9)
    store_round(site[1], careless, rows(*range(10)))
    with pytest.raises(ReleaseRefused) as refused:
        released(site, careless)
    assert refused.value.rule == "few_patients_differ"


def measured(site, package_id, dice):
    """Make the report of a round, and leave in the database what measuring leaves."""
    patients = [
        PatientRow("direct", metrics(dsc, 3.0 + i / 7), patient=f"p{i}")
        for i, dsc in enumerate(dice)
    ]
    return made(site, package_id, patients)


def test_five_patients_more_of_whom_four_were_missed_do_not_tell_the_fifths_dice(site):
    """25 times the mean less 20 times the earlier one is the sum of five, of whom four are 0."""
    dice = [0.6 + 0.01 * i for i in range(20)]
    first = measured(site, FIRST, dice)
    released(site, first)
    second = measured(site, SECOND, [*dice, 0.0, 0.0, 0.0, 0.0, 0.7311])
    told = [one.arms[0].dsc.n * one.arms[0].dsc.mean for one in (first, second)]
    assert told[1] - told[0] == pytest.approx(0.7311, abs=0.003)  # what the rule is there for
    with pytest.raises(ReleaseRefused) as refused:
        released(site, second)
    assert refused.value.rule == "few_figures_differ"
    released(site, measured(site, THIRD, [*dice, 0.5, 0.6, 0.7, 0.8, 0.9]))


def test_other_failures_of_another_model_stand_in_no_reports_way(site):
    dice = [0.6 + 0.01 * i for i in range(20)]
    released(site, measured(site, FIRST, [0.0, *dice[1:]]))
    released(site, measured(site, SECOND, [value + 0.01 for value in dice]))


def left(first, second):
    """Take the counts of one sketch from those of a later one, in the bins that they share."""

    def up_to(sketch, step):
        pairs = zip(sketch.last_steps, sketch.counts, strict=True)
        return sum(count for last, count in pairs if last <= step)

    ends = sorted(set(first.last_steps) & set(second.last_steps))
    more = [up_to(second, step) - up_to(first, step) for step in ends]
    return [later - earlier for earlier, later in pairwise([0, *more])]


def rated_rows(patients):
    """Make contours of two raters, which are the same in every round."""
    return [RaterRow("a", "b", 0.6 + 0.07 * (i % 5), 3.0 + i / 7) for i in range(patients)]


def test_sixty_and_sixty_five_rated_patients_do_not_show_where_the_five_lie(site):
    home, engine = site
    stored = {}
    for package_id, patients in ((FIRST, 60), (SECOND, 65)):
        report = summarised(package_id, rows(*range(10)), rated_rows(patients))
        stored[package_id] = (report, store_round(engine, report, rows(*range(10))))
        with transaction(engine) as session:
            for i in range(20, patients):
                name = f"q{i}"
                if session.get(CaseRow, f"case-{name}") is None:
                    like = session.get_one(CaseRow, "case-p0")
                    copied = {c.key: getattr(like, c.key) for c in CaseRow.__table__.columns}
                    session.add(CaseRow(**copied | {"case_id": f"case-{name}", "patient_id": name}))
            session.flush()
            for i, row in enumerate(rated_rows(patients)):
                session.add(
                    MeasurementRow(
                        round_id=stored[package_id][1],
                        case_id=f"case-p{i}" if i < 20 else f"case-q{i}",
                        arm=agreement_of("a", "b"),
                        metrics={"dsc": row.dsc, "hd95_mm": row.hd95_mm},
                    )
                )
    first, careless = (stored[one][0] for one in (FIRST, SECOND))
    released(site, first)
    of_few = left(first.agreement[0].dsc.sketch, careless.agreement[0].dsc.sketch)
    assert sum(of_few) == 5
    assert any(0 < count < 5 for count in of_few)  # what the rule is there for
    with pytest.raises(ReleaseRefused, match="would tell of fewer than 5 patients") as refused:
        released(site, careless)
    assert refused.value.rule == "few_in_bins_differ"
    assert "\n" not in str(refused.value)
    with transaction(engine) as session:
        report = allowed(home, session, stored[SECOND][1], careless)
        session.get_one(RoundRow, stored[SECOND][1]).report = report.model_dump(mode="json")
    (pair,) = report.agreement
    whole = careless.agreement[0]
    for said, before in ((pair.dsc, whole.dsc), (pair.hd95_mm, whole.hd95_mm)):
        assert (said.n, said.mean, said.sd) == (before.n, before.mean, before.sd)
        assert (said.sketch, said.median, said.q1, said.q3) == (None,) * 4
    assert report.arms == careless.arms  # the same patients with the same figures
    released(site, report)
    released(site, report)


def test_five_patients_more_are_in_the_means_of_an_arm_but_not_in_its_sketches(site):
    dice = [0.6 + 0.01 * i for i in range(20)]
    released(site, measured(site, FIRST, dice))
    more = measured(site, SECOND, [*dice, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert more.arms[0].patients == 25
    for figure in ("dsc", "hd95_mm", "assd_mm", "asd_predicted_to_reference_mm", "nsd_at_1mm"):
        said = getattr(more.arms[0], figure)
        assert said.mean is not None and said.sketch is None and said.median is None
    released(site, more)


def test_sketches_of_another_model_stay(site):
    dice = [0.6 + 0.01 * i for i in range(20)]
    released(site, measured(site, FIRST, dice))
    better = measured(site, SECOND, [one + 0.01 for one in [*dice, 0.5, 0.6, 0.7, 0.8, 0.9]])
    assert better.arms[0].dsc.sketch is not None
    released(site, better)


def both_arms(site, package_id, direct, adapted):
    patients = [
        PatientRow(arm, metrics(dsc, 3.0 + i / 7), patient=f"p{i}")
        for arm, dice in (("direct", direct), ("adapted", adapted))
        for i, dsc in enumerate(dice)
    ]
    return patients, made(site, package_id, patients)


def test_gains_are_counted_in_bins_too(site):
    direct = [0.5 + 0.01 * i for i in range(20)]
    adapted = [0.7 + 0.02 * (i % 7) for i in range(20)]
    _, first = both_arms(site, FIRST, direct, adapted)
    assert first.paired[0].difference.sketch is not None
    released(site, first)
    more = ([*direct, *direct[:5]], [*adapted, *adapted[5:10]])
    patients, second = both_arms(site, SECOND, *more)
    said = second.paired[0].difference
    assert (said.n, said.sketch, said.median) == (25, None, None)
    assert said.mean is not None
    whole = summarised(SECOND, patients)
    careless = second.model_copy(update={"paired": whole.paired})
    with transaction(site[1]) as session:
        session.get_one(RoundRow, SECOND[:16]).report = careless.model_dump(mode="json")
    with pytest.raises(ReleaseRefused) as refused:
        released(site, careless)
    assert refused.value.rule == "few_in_bins_differ"
    with transaction(site[1]) as session:
        session.get_one(RoundRow, SECOND[:16]).report = second.model_dump(mode="json")
    released(site, second)


def test_subgroups_whose_members_changed_are_told_without_their_bins(site):
    """Five patients' stages were corrected: a group, but not in every bin."""
    first = made(site, FIRST, rows(*range(10)))
    released(site, first)
    second = made(site, SECOND, rows(*range(5)))
    assert second.arms == first.arms
    staged = [one for one in second.subgroups if one.attribute == "t_stage"]
    assert [one.arms[0].patients for one in staged] == [5, 15]
    for one in staged:
        assert one.arms[0].dsc.mean is not None
        assert one.arms[0].dsc.sketch is None
    (scanner,) = (one for one in second.subgroups if one.attribute == "scanner")
    assert scanner.arms[0].dsc.sketch is None  # its bins were made beside other stages
    released(site, second)


def reviewed(site, package_id, degrees):
    """Make the report of a round whose contours were revised so far."""
    home, engine = site
    patients = rows(*range(10))
    revisions = [RevisionRow(degree, 60.0 + degree, simulated=False) for degree in degrees]
    report = summarise_site(
        patients,
        revisions=revisions,
        subject=subject("north", study=STUDY, package_id=package_id),
        annotation=annotation(),
        minimum_group_size=5,
    )
    round_id = store_round(engine, report, patients)
    with transaction(engine) as session:
        session.add_all(
            ReviewRow(
                round_id=round_id,
                case_id=f"case-p{i}",
                verdict="revised",
                revision_degree_percent=row.degree_percent,
                active_s=row.active_s,
                author="dr",
                simulated=False,
                reviewed_at=AT,
            )
            for i, row in enumerate(revisions)
        )
        session.flush()
        said = allowed(home, session, round_id, report)
        session.get_one(RoundRow, round_id).report = said.model_dump(mode="json")
    return said


def test_the_bins_of_revisions_go_with_their_sketch(site):
    """Also where some contours were drawn anew, which the sketch leaves out."""
    degrees = [*(2.0 + i / 9 for i in range(8)), *(100.0,) * 7]
    first = reviewed(site, FIRST, degrees)
    assert first.revision.bins == (8, 0, 0, 7)
    released(site, first)
    second = reviewed(site, SECOND, [*degrees, 1.0, 3.0, 7.0, 12.0, 40.0])
    assert second.revision.degree_percent.sketch is None
    assert second.revision.bins is None
    assert second.revision.degree_percent.mean is not None
    released(site, second)

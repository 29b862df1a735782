"""Items are answered only by what a report really holds."""

import re

import numpy as np
import pytest

from evaluation.aggregate_report import aggregate
from evaluation.benchmarks.simulated_reports import simulate_study
from evaluation.report_rendering import render_html
from evaluation.reporting_checklists import (
    CHECKLISTS,
    CLAIM,
    DECIDE_AI,
    EVIDENCE,
    METRICS_RELOADED,
    TRIPOD_AI,
    ItemState,
    answer,
)
from evaluation.study_record import ModelLineage, StudyRecord
from tests.evaluation.report_builders import report
from tests.simulated_site import tiny_package

EMPTY = aggregate([report("only")])


def states(checklist, study):
    return {one.item.number: one.state for one in answer(checklist, study)}


def lineage(package_id, **changes):
    manifest, _ = tiny_package()
    return ModelLineage(package_id=package_id, manifest=manifest, **changes)


def full_study(**changes):
    hospitals = simulate_study(np.random.default_rng(2), sites={"north": 40, "south": 30})
    reports = [hospital.report() for hospital in hospitals]
    record = StudyRecord(lineage=(lineage(reports[0].package_id, from_site="home", **changes),))
    return aggregate(reports, record=record)


def test_the_lists_are_complete_and_number_their_items_once():
    assert [item.number for item in CLAIM.items] == [str(i) for i in range(1, 45)]
    assert {re.sub("[a-z]", "", item.number) for item in TRIPOD_AI.items} == {
        str(i) for i in range(1, 28)
    }
    assert len(TRIPOD_AI.items) == 52
    bare = [re.sub("[a-z]", "", item.number) for item in DECIDE_AI.items]
    assert {n for n in bare if n.isdigit()} == {str(i) for i in range(1, 18)}
    assert len([n for n in bare if not n.isdigit()]) == 10
    for checklist in CHECKLISTS:
        numbers = [item.number for item in checklist.items]
        assert len(numbers) == len(set(numbers))
        assert all(item.evidence in EVIDENCE for item in checklist.items if item.evidence)
        assert all(item.evidence for item in checklist.items if item.remains)


def test_every_rule_is_used():
    used = {item.evidence for checklist in CHECKLISTS for item in checklist.items}
    assert used - {""} == set(EVIDENCE)


def test_a_report_without_patients_answers_next_to_nothing():
    answered = states(CLAIM, EMPTY)
    for number in ("13", "14", "18", "25", "29", "30", "32", "33", "35", "37", "38", "39"):
        assert answered[number] is ItemState.OPEN
    assert answered["28"] is ItemState.ANSWERED  # definitions are on every page


@pytest.mark.parametrize(
    ("checklist", "number", "evidence"),
    [
        (CLAIM, "18", "raters"),
        (CLAIM, "29", "tests"),
        (CLAIM, "33", "lineage"),
        (TRIPOD_AI, "12d", "tests"),
        (TRIPOD_AI, "21", "performance"),
        (METRICS_RELOADED, "i", "failed"),
    ],
)
def test_a_full_study_answers_them_with_a_place(checklist, number, evidence):
    found = next(a for a in answer(checklist, full_study()) if a.item.number == number)
    assert found.state is ItemState.ANSWERED
    assert found.evidence.anchor.endswith(evidence)


def test_each_answer_falls_with_its_evidence():
    whole = full_study()
    without_raters = aggregate(
        [s.report.model_copy(update={"agreement": ()}) for s in whole.packages[0].sites]
    )
    assert states(CLAIM, without_raters)["18"] is ItemState.OPEN
    one_person_never_twice = aggregate(
        [
            s.report.model_copy(
                update={"agreement": tuple(a for a in s.report.agreement if a.first != a.second)}
            )
            for s in whole.packages[0].sites
        ]
    )
    assert states(CLAIM, one_person_never_twice)["18"] is ItemState.OPEN
    assert states(METRICS_RELOADED, one_person_never_twice)["g"] is ItemState.IN_PART
    alone = aggregate([whole.packages[0].sites[0].report])
    assert states(TRIPOD_AI, alone)["12d"] is ItemState.OPEN
    unpaired = aggregate(
        [s.report.model_copy(update={"paired": ()}) for s in whole.packages[0].sites]
    )
    assert states(CLAIM, unpaired)["29"] is ItemState.OPEN
    old = aggregate(
        [s.report.model_copy(update={"yardstick": None}) for s in whole.packages[0].sites]
    )
    assert states(CLAIM, old)["14"] is ItemState.OPEN
    assert states(CLAIM, whole)["14"] is ItemState.IN_PART


def test_a_model_is_tested_elsewhere_only_if_its_home_is_known_and_another():
    assert states(CLAIM, full_study())["33"] is ItemState.ANSWERED
    site = full_study().packages[0].sites[0].report
    for origin in (None, site.site):
        record = StudyRecord(lineage=(lineage(site.package_id, from_site=origin),))
        assert states(CLAIM, aggregate([site], record=record))["33"] is ItemState.OPEN
    other = StudyRecord(lineage=(lineage("00" * 32, from_site="home"),))
    assert states(CLAIM, aggregate([site], record=other))["25"] is ItemState.OPEN


def test_what_simulated_reviewers_did_answers_nothing_about_users():
    values = {"adapted": [0.8, 0.9, 0.7], "degrees": [3.0, 4.0, 6.0]}
    simulated, real = (aggregate([report("n", simulated=s, **values)]) for s in (True, False))
    assert states(DECIDE_AI, simulated)["12"] is ItemState.OPEN
    assert states(DECIDE_AI, real)["12"] is ItemState.IN_PART


@pytest.mark.parametrize("study", [EMPTY, full_study()], ids=["empty", "full"])
def test_every_link_leads_to_a_place_of_the_page(study):
    page = render_html(study, title="t", generated_at="now")
    ids = set(re.findall(r'id="([^"]+)"', page))
    for checklist in CHECKLISTS:
        for one in answer(checklist, study):
            assert one.evidence is None or one.evidence.anchor in ids
            assert one.item.words in page.replace("&#39;", "'")

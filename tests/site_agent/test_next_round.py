"""Corrected contours of patients who came later are what the next round learns from."""

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.case import Split
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from algorithms.contracts.site_report import SiteReport
from algorithms.contracts.volume import Mask
from algorithms.sample_selection import REPRESENTATIVE
from site_agent import audit_log
from site_agent.adaptation_round import annotated_slices, known_labels, open_round, prepared
from site_agent.case_store import CaseStore
from site_agent.client_app import site_status
from site_agent.database import AuditRow, transaction
from site_agent.next_round import Joined, begin_next_round
from site_agent.review import put_review, record_review
from site_agent.simulated_annotator import annotate_open_tasks, review_cases
from site_agent.study_round import reported_round
from site_agent.worker import work
from tests.phantoms import tiny_case, tiny_plan
from tests.site_agent.tiny_road import make_package, make_target


def finish(home, store: CaseStore) -> None:
    """Take a round from its selection to its report."""
    assert work(home, store) is RoundState.AWAITING_ANNOTATION
    annotate_open_tasks(store)
    assert work(home, store) is RoundState.AWAITING_REVIEW
    review_cases(store)
    assert work(home, store) is RoundState.REPORTED


def review_new_patient(store: CaseStore, case_id: str) -> np.ndarray:
    """Draw the model's contour one pixel further down, and let it stand."""
    latest = store.latest_round()
    assert latest is not None
    model = store.contour(case_id, purpose="adapted", round_id=latest.round_id)
    assert model is not None
    corrected = np.roll(model.mask.voxels, 1, axis=1)
    mask = Mask(corrected, model.mask.geometry)
    record_review(store, latest.round_id, case_id, mask, author="dr", simulated=False)
    return corrected


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory):
    """A finished round, two patients who came later, one of them corrected, and a second round."""
    package = make_package(tmp_path_factory.mktemp("package"), tiny_plan())
    home, store = make_target(tmp_path_factory.mktemp("target") / "home", package)
    finish(home, store)
    first = store.latest_round()
    with pytest.raises(DataError, match="0 patients came after"):
        begin_next_round(store, actor="test")
    store.add_cases([tiny_case(300, contrast=30.0), tiny_case(301, contrast=30.0)], actor="test")
    work(home, store)
    with pytest.raises(DataError, match="2 patients came after the study's, and none has been"):
        begin_next_round(store, actor="test")
    corrected, other = store.cases(Split.UNASSIGNED)
    drawn = review_new_patient(store, corrected.case_id)
    review_new_patient(store, other.case_id)
    with transaction(store.engine) as session:  # on second thoughts
        put_review(session, store, first.round_id, other.case_id, None, author="dr", reason="other")
    tested = {case.case_id for case in store.cases(Split.TEST)}
    joined = begin_next_round(store, actor="test")
    finish(home, store)
    return store, first, corrected.case_id, drawn, tested, joined


def test_only_reviewed_patients_join_and_nobody_leaves_the_test(two_rounds) -> None:
    store, _, case_id, drawn, tested, joined = two_rounds
    assert joined == Joined(patients=1, slices=len(drawn), waiting=1)
    assert store.case(case_id).split is Split.TRAINING
    assert {case.case_id for case in store.cases(Split.TEST)} == tested
    assert len(store.cases(Split.UNASSIGNED)) == 1


def test_the_next_round_knows_what_was_corrected_and_what_was_answered_before(two_rounds) -> None:
    store, first, case_id, drawn, _, _ = two_rounds
    latest = store.latest_round()
    current = open_round(store, latest)
    labels = known_labels(current)
    for z, said in enumerate(drawn):
        assert (labels[case_id, z].label == said).all()
        assert (labels[case_id, z].role, labels[case_id, z].simulated) == (REPRESENTATIVE, False)
    before = {(t.case_id, t.slice_z) for t in store.tasks(first.round_id)}
    now = {(t.case_id, t.slice_z) for t in store.tasks(latest.round_id)}
    assert set(labels) == before | now | {(case_id, z) for z in range(len(drawn))}
    annotated, others = annotated_slices(current, labels, prepared(current, Split.TRAINING))
    training = store.cases(Split.TRAINING)
    assert len(annotated) + len(others) == sum(case.shape_zyx[0] for case in training)
    validation = {case.case_id for case in store.cases(Split.VALIDATION)}
    assert len(annotated) == sum(place[0] not in validation for place in labels)


def test_what_is_known_is_not_asked_about_again(two_rounds) -> None:
    store, first, case_id, _, _, _ = two_rounds
    before = {(t.case_id, t.slice_z) for t in store.tasks(first.round_id)}
    now = {(t.case_id, t.slice_z) for t in store.tasks(store.latest_round().round_id)}
    assert now
    assert not now & before
    assert not any(case == case_id for case, _ in now)


def test_the_next_round_ends_in_another_model_and_says_what_it_learnt_from(two_rounds) -> None:
    store, first, _, drawn, _, _ = two_rounds
    latest = store.latest_round()
    assert latest.round_id != first.round_id
    assert latest.package_id == first.package_id
    reports = [SiteReport.model_validate(store.round(r.round_id).report) for r in (first, latest)]
    was, now = (report.annotation for report in reports)
    assert (was.earlier_slices, now.earlier_slices) == (0, was.selected_slices + len(drawn))
    assert now.training_patients == was.training_patients + 1
    assert reports[0].adapted_model_sha256 != reports[1].adapted_model_sha256


def test_a_first_round_that_is_taken_up_again_learns_from_what_it_began_with(two_rounds) -> None:
    """Its labels are those of before the second round: it would end in the same weights."""
    store, first, case_id, _, _, _ = two_rounds
    labels = known_labels(open_round(store, store.round(first.round_id)))
    assert set(labels) == {(t.case_id, t.slice_z) for t in store.tasks(first.round_id)}
    assert not any(case == case_id for case, _ in labels)


def test_the_study_hears_of_the_first_round(two_rounds) -> None:
    store, first, _, _, _, _ = two_rounds
    reported = reported_round(store.engine, first.package_id)
    assert reported is not None
    assert reported.round_id == first.round_id
    assert site_status(store.home, store.engine).report_ready


def test_everybody_joins_once_and_the_audit_log_says_who(two_rounds) -> None:
    """The simulated reviewer of the second round has seen the other patient too."""
    store, _, case_id, _, _, _ = two_rounds
    (other,) = store.cases(Split.UNASSIGNED)
    assert begin_next_round(store, actor="test").patients == 1
    with pytest.raises(DataError, match="0 patients came after"):
        begin_next_round(store, actor="test")
    joined = select(AuditRow.subject).where(AuditRow.event == "case_joined_training")
    with Session(store.engine) as session:
        assert list(session.scalars(joined)) == [case_id, other.case_id]
        audit_log.verify(session)


def test_a_round_under_way_is_finished_first(tmp_path) -> None:
    package = make_package(tmp_path / "package", tiny_plan())
    home, store = make_target(tmp_path / "home", package)
    with pytest.raises(DataError, match="not reported yet"):
        begin_next_round(store, actor="test")
    work(home, store)
    with pytest.raises(DataError, match="not reported yet"):
        begin_next_round(store, actor="test")

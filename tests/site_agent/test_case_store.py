from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from algorithms.contracts.case import Split
from algorithms.contracts.contour import NOT_ANNOTATED, Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from algorithms.contracts.volume import Geometry, Mask, Volume
from site_agent import audit_log
from site_agent.case_store import REFERENCE, REVIEWED, CaseStore, Intake, SliceChoice
from site_agent.case_workflow import RoundEvent
from site_agent.database import (
    AuditRow,
    CaseRow,
    ContourRow,
    PackageRow,
    ReviewRow,
    transaction,
    utc_now,
)
from tests.phantoms import make_home, tiny_case, turned_axes

PACKAGE_ID = "ab" * 32
pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
def store(tmp_path) -> CaseStore:
    return CaseStore(make_home(tmp_path / "home"))


@pytest.fixture
def round_id(store) -> str:
    """Start a round over three cases."""
    store.add_cases([tiny_case(i) for i in range(3)], actor="test")
    store.assign_splits({case.patient_id: Split.TRAINING for case in store.cases()})
    add_package(store, PACKAGE_ID)
    return store.start_round(PACKAGE_ID, seed=0).round_id


def add_package(store: CaseStore, package_id: str) -> None:
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id=package_id,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=utc_now(),
            )
        )


def count(store: CaseStore, table) -> int:
    with Session(store.engine) as session:
        return session.scalar(select(func.count()).select_from(table))


def events(store: CaseStore) -> list[tuple[str, str]]:
    """List (event, subject) of the audit log, whose chain must hold."""
    with Session(store.engine) as session:
        audit_log.verify(session)
        return [
            (row.event, row.subject)
            for row in session.scalars(select(AuditRow).order_by(AuditRow.sequence))
        ]


# -- cases ------------------------------------------------------------------------------------


def test_a_case_comes_back_as_it_went_in(store) -> None:
    case = tiny_case(1)
    geometry = Geometry(
        case.volume.image.shape, (3.3, 0.7, 1.1), (1 / 3, -2.0, 7.5), turned_axes((0.1, 0.2, 0.3))
    )
    volume = replace(
        case.volume,
        geometry=geometry,
        frame_of_reference_uid="1.2.3",
        sop_instance_uids=("1.1", "1.2"),
        series_instance_uid="1.4",
        study_instance_uid="1.5",
    )
    contour = Contour("GTVp", Mask(case.contours[0].mask.voxels, geometry), Provenance.REFERENCE)
    case = replace(case, volume=volume, contours=(contour,), identity_sealed=b"sealed")
    assert store.add_cases([case], actor="test") == Intake([case.case_id], [], [])
    found = store.volume(case.case_id)
    np.testing.assert_array_equal(found.image, volume.image)
    assert found.image.dtype == np.float32
    assert found.geometry == store.geometry(case.case_id) == geometry
    for name in ("modality", "frame_of_reference_uid", "sop_instance_uids", "scanner"):
        assert getattr(found, name) == getattr(volume, name)
    assert (found.series_instance_uid, found.study_instance_uid) == ("1.4", "1.5")
    assert store.identity_sealed(case.case_id) == b"sealed"
    kept = store.case(case.case_id)
    assert (kept.manufacturer, kept.scanner_model, kept.split) == (
        "PHANTOM",
        "P1",
        Split.UNASSIGNED,
    )
    assert kept.has_reference


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=8),
)
def test_grey_values_are_kept_exactly(store, values) -> None:
    image = np.array(values, np.float32).reshape(2, 2, 2)
    case = replace(
        tiny_case(0, has_reference=False),
        case_id=f"case-{count(store, CaseRow):012x}",
        volume=Volume(image, Geometry((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))),
    )
    store.add_cases([case], actor="test")
    np.testing.assert_array_equal(store.volume(case.case_id).image, image)
    assert store.add_cases([case], actor="test").unchanged == [case.case_id]


def test_a_case_given_twice_is_kept_as_it_is(store) -> None:
    first = tiny_case(1)
    store.add_cases([first], actor="test")
    store.assign_splits({first.patient_id: Split.TEST})
    intake = store.add_cases([first, tiny_case(3)], actor="test")
    assert intake == Intake([tiny_case(3).case_id], [], [first.case_id])
    np.testing.assert_array_equal(store.volume(first.case_id).image, first.volume.image)
    assert store.case(first.case_id).split is Split.TEST
    assert count(store, ContourRow) == 2
    assert [event for event, _ in events(store)] == ["case_ingested"] * 2


def test_a_contour_that_comes_later_is_added_once(store) -> None:
    without, whole = tiny_case(1, has_reference=False), tiny_case(1)
    store.add_cases([without], actor="test")
    assert store.add_cases([whole], actor="test") == Intake([], [whole.case_id], [])
    assert store.case(whole.case_id).has_reference
    found = store.contour(whole.case_id, purpose=REFERENCE)
    assert found is not None
    np.testing.assert_array_equal(found.mask.voxels, whole.contours[0].mask.voxels)
    for again in (whole, without):
        assert store.add_cases([again], actor="test") == Intake([], [], [whole.case_id])
    assert count(store, ContourRow) == 1
    assert [event for event, _ in events(store)] == ["case_ingested", "reference_added"]


@pytest.mark.parametrize("what", ["image", "geometry"])
def test_another_image_under_a_held_name_is_refused_and_nothing_is_stored(store, what) -> None:
    first = tiny_case(1, has_reference=False)
    store.add_cases([first], actor="test")
    volume = replace(first.volume, **{what: getattr(tiny_case(2).volume, what)})
    other = replace(first, volume=volume, source="folder/P1.nii.gz")
    with pytest.raises(DataError, match=r"folder/P1\.nii\.gz: another image.*rename"):
        store.add_cases([tiny_case(3), other], actor="test")
    assert [case.case_id for case in store.cases()] == [first.case_id]
    np.testing.assert_array_equal(store.volume(first.case_id).image, first.volume.image)


@pytest.mark.filterwarnings("ignore:New instance")
def test_nothing_is_stored_when_a_later_case_is_bad(store) -> None:
    good, bad = tiny_case(1), replace(tiny_case(2), case_id=tiny_case(1).case_id)
    with pytest.raises(IntegrityError):
        store.add_cases([good, bad], actor="test")
    assert store.cases() == []
    assert count(store, CaseRow) == count(store, ContourRow) == count(store, AuditRow) == 0


def test_cases_are_listed_by_patient_and_by_split(store) -> None:
    store.add_cases([tiny_case(i) for i in (3, 1, 2)], actor="test")
    assert [c.case_id for c in store.cases()] == [tiny_case(i).case_id for i in (1, 2, 3)]
    store.assign_splits({tiny_case(2).patient_id: Split.TEST})
    assert [c.case_id for c in store.cases(Split.TEST)] == [tiny_case(2).case_id]
    assert store.counts() == {"test": 1, "unassigned": 2}


def test_a_split_is_decided_once(store) -> None:
    store.add_cases([tiny_case(1)], actor="test")
    for split in (Split.TEST, Split.TRAINING):
        store.assign_splits({tiny_case(1).patient_id: split})
    assert store.cases()[0].split is Split.TEST


def test_an_unknown_case_is_named(store) -> None:
    for read in (store.case, store.volume, store.geometry, store.identity_sealed):
        with pytest.raises(DataError, match=r"case-0+ is unknown: see 'fedgtv-site"):
            read("case-000000000000")


# -- contours ---------------------------------------------------------------------------------


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_a_contour_comes_back_as_it_was_drawn(store, seed, share) -> None:
    store.add_cases([tiny_case(1)], actor="test")
    case_id = tiny_case(1).case_id
    geometry = store.geometry(case_id)
    voxels = np.random.default_rng(seed).random(geometry.shape_zyx) < share
    contour = Contour("GTVn", Mask(voxels, geometry), Provenance.MANUAL)
    store.save_contour(case_id, contour, purpose="adapted", round_id="r", author="dr")
    found = store.contour(case_id, purpose="adapted", round_id="r")
    assert found is not None
    np.testing.assert_array_equal(found.mask.voxels, voxels)
    assert (found.roi_name, found.provenance) == ("GTVn", Provenance.MANUAL)
    assert found.mask.geometry == geometry


def test_the_newest_contour_counts_and_earlier_ones_stay(store) -> None:
    case = tiny_case(1)
    store.add_cases([case], actor="test")
    for value in (True, False):
        mask = Mask(np.full(case.volume.image.shape, value), case.volume.geometry)
        contour = Contour("GTVp", mask, Provenance.MANUAL)
        store.save_contour(case.case_id, contour, purpose=REVIEWED, author="dr")
    newest = store.contour(case.case_id, purpose=REVIEWED)
    assert newest is not None
    assert not newest.mask.voxels.any()
    assert count(store, ContourRow) == 3  # with the reference
    assert store.contour(case.case_id, purpose=REVIEWED, round_id="another") is None
    assert store.contour(case.case_id, purpose="adapted") is None


# -- rounds -----------------------------------------------------------------------------------


def test_a_round_is_named_by_package_case_set_and_seed(store, round_id) -> None:
    assert store.start_round(PACKAGE_ID, seed=0).round_id == round_id
    add_package(store, "cd" * 32)
    others = [store.start_round("cd" * 32, seed=0), store.start_round(PACKAGE_ID, seed=1)]
    store.add_cases([tiny_case(9)], actor="test")
    assert store.start_round(PACKAGE_ID, seed=0).round_id == round_id  # unassigned: not in the set
    store.assign_splits({tiny_case(9).patient_id: Split.TEST})
    others.append(store.start_round(PACKAGE_ID, seed=0))
    assert len({round_id, *(row.round_id for row in others)}) == 4
    latest = store.latest_round()
    assert latest is not None
    assert latest.round_id == others[-1].round_id


def test_starting_again_leaves_the_state_alone(store, round_id) -> None:
    store.open_tasks(round_id, [], actor="test")
    again = store.start_round(PACKAGE_ID, seed=0)
    assert again.state == RoundState.AWAITING_ANNOTATION.value


def test_state_effects_and_audit_entry_are_one_transaction(store, round_id) -> None:
    def add_then_fail(session: Session, row) -> None:
        row.report = {"half": "done"}
        session.add(review(round_id))
        session.flush()
        raise OSError("the disk is full")

    before = events(store)
    with pytest.raises(OSError, match="full"):
        store.advance(round_id, RoundEvent.SLICES_SELECTED, actor="test", also=add_then_fail)
    row = store.round(round_id)
    assert (row.state, row.report) == (RoundState.RECEIVED.value, None)
    assert count(store, ReviewRow) == 0
    assert events(store) == before

    assert store.advance(round_id, RoundEvent.SLICES_SELECTED, actor="test") is (
        RoundState.AWAITING_ANNOTATION
    )
    assert events(store)[len(before) :] == [("slices_selected", f"round-{round_id}")]


def test_an_event_out_of_turn_changes_nothing(store, round_id) -> None:
    before = events(store)
    with pytest.raises(ValueError, match="review_complete cannot happen"):
        store.advance(round_id, RoundEvent.REVIEW_COMPLETE, actor="test")
    assert store.round(round_id).state == RoundState.RECEIVED.value
    assert events(store) == before


def test_an_unknown_round_is_named(store) -> None:
    with pytest.raises(DataError, match=r"round 0123 is unknown"):
        store.round("0123")
    assert store.latest_round() is None


# -- annotation and review --------------------------------------------------------------------


def scribble_task(store: CaseStore, round_id: str, kind: str = "scribble"):
    choice = SliceChoice(tiny_case(1).case_id, 5, "chosen", 0.0)
    store.open_tasks(round_id, [choice], actor="worker", kind=kind)
    (task,) = store.tasks(round_id, state="open")
    return task


ANSWER = {"author": "dr", "provenance": Provenance.MANUAL, "active_s": 4.0}


def test_a_scribble_is_stored_as_it_was_drawn(store, round_id) -> None:
    task = scribble_task(store, round_id)
    mask = tiny_case(1).contours[0].mask.voxels[5]
    scribble = np.full(mask.shape, NOT_ANNOTATED, dtype=np.uint8)
    scribble[3, 2:9], scribble[8, 5:7] = 0, 1
    store.complete_task_by_scribble(task.id, scribble, **ANSWER)
    (done,) = store.tasks(round_id, state="done")
    np.testing.assert_array_equal(store.task_label(done), scribble)
    np.testing.assert_array_equal(store.task_mask(done), scribble == 1)
    assert (done.author, done.provenance, done.active_s) == ("dr", "manual", 4.0)
    assert events(store)[-1] == ("slice_annotated", tiny_case(1).case_id)


def test_a_contour_is_as_good_where_a_scribble_was_asked_for(store, round_id) -> None:
    task = scribble_task(store, round_id)
    mask = tiny_case(1).contours[0].mask.voxels[5]
    store.complete_task(task.id, mask, **ANSWER)
    (done,) = store.tasks(round_id, state="done")
    np.testing.assert_array_equal(store.task_label(done), mask.astype(np.uint8))


def test_a_scribble_is_refused_where_a_contour_was_asked_for(store, round_id) -> None:
    task = scribble_task(store, round_id, kind="contour")
    scribble = np.zeros(tiny_case(1).volume.image.shape[1:], dtype=np.uint8)
    with pytest.raises(DataError, match="asks for contours"):
        store.complete_task_by_scribble(task.id, scribble, **ANSWER)
    assert store.tasks(round_id, state="done") == []


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [(NOT_ANNOTATED, None, "nothing is drawn"), (2, None, "holds 0, 1"), (1, (3, 3), "slice of")],
)
def test_a_scribble_that_says_nothing_or_too_much_is_refused(
    store, round_id, value, shape, message
) -> None:
    task = scribble_task(store, round_id)
    scribble = np.full(shape or tiny_case(1).volume.image.shape[1:], value, dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        store.complete_task_by_scribble(task.id, scribble, **ANSWER)
    assert store.tasks(round_id, state="done") == []


def test_tasks_are_opened_in_rank_order_and_answered_one_by_one(store, round_id) -> None:
    choices = [
        SliceChoice(tiny_case(1).case_id, 5, "domain_invariant", 0.5),
        SliceChoice(tiny_case(0).case_id, 2, "domain_specific", 9.0),
    ]
    store.open_tasks(round_id, choices, actor="worker")
    assert store.round(round_id).state == RoundState.AWAITING_ANNOTATION.value
    first, second = store.tasks(round_id, state="open")
    assert (first.slice_z, first.role, second.slice_z, second.score) == (
        5,
        "domain_invariant",
        2,
        9.0,
    )
    with pytest.raises(ValueError, match="open"):
        store.task_mask(first)
    mask = tiny_case(1).contours[0].mask.voxels[5]
    answer = {"author": "dr", "provenance": Provenance.MANUAL, "active_s": 12.5}
    with pytest.raises(ValueError, match="slice of"):
        store.complete_task(first.id, mask[:4], **answer)
    store.complete_task(first.id, mask, **answer)
    (done,) = store.tasks(round_id, state="done")
    np.testing.assert_array_equal(store.task_mask(done), mask)
    assert (done.author, done.provenance, done.active_s) == ("dr", "manual", 12.5)
    assert [task.id for task in store.tasks(round_id, state="open")] == [second.id]
    assert events(store)[-1] == ("slice_annotated", tiny_case(1).case_id)


def test_a_slice_is_asked_for_once_per_round(store, round_id) -> None:
    choice = SliceChoice(tiny_case(1).case_id, 5, "chosen", 0.0)
    with pytest.raises(IntegrityError):
        store.open_tasks(round_id, [choice, choice], actor="worker")
    assert store.round(round_id).state == RoundState.RECEIVED.value


def review(round_id: str, verdict: str = "revised") -> ReviewRow:
    return ReviewRow(
        round_id=round_id,
        case_id=tiny_case(1).case_id,
        verdict=verdict,
        revision_degree_percent=4.0,
        active_s=None,
        wall_s=None,
        author="dr",
        simulated=False,
        reviewed_at=utc_now(),
    )


def test_a_second_review_replaces_the_first_with_its_contour(store, round_id) -> None:
    shape, geometry = tiny_case(1).volume.image.shape, tiny_case(1).volume.geometry
    for verdict, filled in (("revised", True), ("accepted", False)):
        contour = Contour("GTVp", Mask(np.full(shape, filled), geometry), Provenance.MANUAL)
        store.add_review(review(round_id, verdict), contour)
    assert [row.verdict for row in store.reviews(round_id)] == ["accepted"]
    kept = store.contour(tiny_case(1).case_id, purpose=REVIEWED, round_id=round_id)
    assert kept is not None
    assert not kept.mask.voxels.any()
    reference = store.contour(tiny_case(1).case_id, purpose=REFERENCE)
    assert reference is not None
    assert reference.mask.voxels.any()

"""Clicks with the networks that come with the package, on the real store."""

import hashlib
from dataclasses import asdict, replace
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from algorithms.click_simulation import interior_margin_points
from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Geometry, Mask, MaskArray
from algorithms.interactive_network import default_network
from algorithms.interactive_segmentation import Fusion, InteractiveSegmenter
from evaluation.overlap import dice
from site_agent import audit_log, click_store, segmentation
from site_agent.case_store import CaseStore, SliceChoice
from site_agent.database import (
    AuditRow,
    ClickSessionRow,
    ClickStepRow,
    ContourRow,
    PackageRow,
    transaction,
    utc_now,
)
from site_agent.segmentation import CORRECTED, ClickSession, open_case, open_task
from tests.phantoms import SHAPE_ZYX, make_home, tiny_case

PACKAGE_ID = "ab" * 32
pytestmark = pytest.mark.usefixtures("each_database")
CASE = tiny_case(1)
CASE_ID = CASE.case_id
REFERENCE = CASE.contours[0].mask.voxels
SLICE_Z = 4
CORNER = (2, 2)  # (y, x): noise, far from the ball


@pytest.fixture
def store(tmp_path) -> CaseStore:
    """Open a store with one case and two tasks on it: slice 4, and slice 0 without target."""
    store = CaseStore(make_home(tmp_path / "home"))
    store.add_cases([CASE], actor="test")
    store.assign_splits({CASE.patient_id: Split.TRAINING})
    with transaction(store.engine) as session:
        session.add(
            PackageRow(
                package_id=PACKAGE_ID,
                model_version="1.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=utc_now(),
            )
        )
    choices = [SliceChoice(CASE_ID, z, "chosen", 1.0) for z in (SLICE_Z, 0)]
    store.open_tasks(round_of(store), choices, actor="worker")
    return store


def round_of(store: CaseStore) -> str:
    return store.start_round(PACKAGE_ID, seed=0).round_id


def task_id(store: CaseStore, rank: int = 0) -> int:
    return store.tasks(round_of(store))[rank].id


def reopened(store: CaseStore, author: str = "dr a") -> ClickSession:
    """Open the first task as another process does, after the first one was killed."""
    return open_task(CaseStore(store.home), task_id(store), author=author)


def margin_points(mask: MaskArray) -> np.ndarray:
    return interior_margin_points(mask, rng=np.random.default_rng(0))


def model_contour(mask: MaskArray | None = None) -> Contour:
    """Make what a model might: the ball, and a cube in a corner that is none."""
    if mask is None:
        mask = REFERENCE.copy()
        mask[2:5, 1:6, 1:6] = True
    return Contour("GTVn", Mask(mask, CASE.volume.geometry), Provenance.AUTOMATIC)


def recorded(store: CaseStore) -> list[tuple[str, int, int]]:
    """List (kind, foreground clicks, background clicks) of all steps, in order."""
    with Session(store.engine) as session:
        rows = session.scalars(select(ClickStepRow).order_by(ClickStepRow.at)).all()
    return [(row.kind, len(row.foreground), len(row.background)) for row in rows]


def sessions(store: CaseStore) -> list[ClickSessionRow]:
    with Session(store.engine) as session:
        return list(session.scalars(select(ClickSessionRow).order_by(ClickSessionRow.opened_at)))


def audit(store: CaseStore) -> list[AuditRow]:
    """Return the audit log, whose chain must hold."""
    with Session(store.engine) as session:
        audit_log.verify(session)
        return list(session.scalars(select(AuditRow).order_by(AuditRow.sequence)))


# -- from clicks to a stored contour ----------------------------------------------------------


def test_a_slice_is_annotated_by_clicks(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    assert clicks.mask.shape == SHAPE_ZYX[1:]
    assert not clicks.mask.any()
    points = margin_points(REFERENCE[SLICE_Z])
    mask = clicks.segment(points)
    assert dice(REFERENCE[SLICE_Z], mask) > 0.9
    mask = clicks.refine(background=[CORNER])
    np.testing.assert_array_equal(clicks.mask, mask)
    clicks.accept(active_s=12.5)

    (task,) = store.tasks(round_of(store), state="done")
    np.testing.assert_array_equal(store.task_mask(task), mask)
    assert (task.author, task.provenance, task.active_s) == ("dr a", "semiautomatic", 12.5)
    first, second = click_store.steps(store, clicks.session_id)
    assert (first.sequence, first.kind, first.background) == (0, "segment", [])
    assert first.foreground == points.tolist()
    assert (second.kind, second.foreground, second.background) == ("refine", [], [[2, 2]])
    assert second.mask_sha256 == click_store.mask_sha256(mask)
    assert first.at <= second.at
    assert all(step.author == "dr a" and step.seconds > 0 for step in (first, second))


def test_the_session_and_the_audit_log_sum_up_what_was_accepted(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    clicks.segment(margin_points(REFERENCE[SLICE_Z])[:2])
    clicks.refine(background=[CORNER])
    clicks.undo()
    clicks.accept(active_s=3.0)
    (row,) = sessions(store)
    steps = click_store.steps(store, row.session_id)
    assert (row.state, row.clicks, row.active_s) == ("finished", 3, 3.0)
    assert row.compute_s == pytest.approx(sum(step.seconds for step in steps), abs=1e-5)
    assert row.finished_at >= row.opened_at
    accepted, annotated = audit(store)[-2:]
    assert (accepted.event, annotated.event) == ("clicks_accepted", "slice_annotated")
    assert (accepted.actor, accepted.subject) == ("dr a", CASE_ID)
    assert accepted.detail == {
        "session": row.session_id,
        "task": row.task_id,
        "clicks": 3,
        "steps": 3,
        "compute_s": row.compute_s,
        "active_s": 3.0,
        "mask_sha256": steps[-1].mask_sha256,
    }


def test_a_slice_without_target_is_accepted_empty(store) -> None:
    open_task(store, task_id(store, 1), author="dr a").accept()
    (task,) = store.tasks(round_of(store), state="done")
    assert (task.slice_z, task.active_s) == (0, None)
    assert not store.task_mask(task).any()
    assert sessions(store)[0].clicks == 0


def test_a_stored_contour_of_a_case_is_corrected(store) -> None:
    round_id = round_of(store)
    store.save_contour(
        CASE_ID, model_contour(), purpose="adapted", round_id=round_id, author="model"
    )
    start = store.contour(CASE_ID, purpose="adapted", round_id=round_id)
    clicks = open_case(store, CASE_ID, author="dr a", start=start, round_id=round_id)
    np.testing.assert_array_equal(clicks.mask, start.mask.voxels)
    mask = clicks.refine(background=[(3, 3, 3)])
    assert not mask[3, 3, 3]
    assert dice(REFERENCE, mask) > dice(REFERENCE, start.mask.voxels)
    assert (mask & REFERENCE).sum() == REFERENCE.sum()  # the ball was not clicked at
    clicks.accept(active_s=1.0)

    kept = store.contour(CASE_ID, purpose=CORRECTED, round_id=round_id)
    np.testing.assert_array_equal(kept.mask.voxels, mask)
    assert (kept.roi_name, kept.provenance) == ("GTVn", Provenance.SEMIAUTOMATIC)
    model = store.contour(CASE_ID, purpose="adapted", round_id=round_id)
    np.testing.assert_array_equal(model.mask.voxels, start.mask.voxels)
    assert audit(store)[-1].event == "clicks_accepted"


def test_a_case_is_segmented_from_nothing(store) -> None:
    clicks = open_case(store, CASE_ID, author="dr a")
    with pytest.raises(DataError, match=rf"{CASE_ID}: nothing is marked yet: click"):
        clicks.accept()
    mask = clicks.segment(margin_points(REFERENCE))
    assert dice(REFERENCE, mask) > 0.9
    clicks.accept()
    kept = store.contour(CASE_ID, purpose=CORRECTED)
    assert (kept.roi_name, kept.provenance) == ("GTVp", Provenance.SEMIAUTOMATIC)


def test_a_slice_of_a_models_contour_is_corrected(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a", start=model_contour())
    np.testing.assert_array_equal(clicks.mask, model_contour().mask.voxels[SLICE_Z])
    mask = clicks.refine(background=[(3, 3)])
    assert not mask[3, 3]
    clicks.accept()
    (task,) = store.tasks(round_of(store), state="done")
    np.testing.assert_array_equal(store.task_mask(task), mask)
    assert task.provenance == "semiautomatic"


def test_what_nobody_changed_keeps_the_provenance_of_the_model(store) -> None:
    clicks = open_case(store, CASE_ID, author="dr a", start=model_contour())
    clicks.refine(background=[(3, 3, 3)])
    clicks.undo()
    clicks.accept()
    kept = store.contour(CASE_ID, purpose=CORRECTED)
    assert kept.provenance is Provenance.AUTOMATIC
    np.testing.assert_array_equal(kept.mask.voxels, model_contour().mask.voxels)


@pytest.mark.parametrize("start", [None, "contour"])
def test_a_case_of_one_slice_works(store, start) -> None:
    image = CASE.volume.image[SLICE_Z : SLICE_Z + 1]
    geometry = Geometry(image.shape, (3.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    mask = REFERENCE[SLICE_Z : SLICE_Z + 1]
    volume = replace(CASE.volume, image=image, geometry=geometry)
    thin = replace(tiny_case(9, has_reference=False), volume=volume)
    store.add_cases([thin], actor="test")
    given_contour = start and Contour("GTVp", Mask(mask, geometry), Provenance.AUTOMATIC)
    clicks = open_case(store, thin.case_id, author="dr a", start=given_contour)
    if start is None:
        assert dice(mask, clicks.segment(margin_points(mask))) > 0.8
    clicks.refine(foreground=[(0, *CORNER)])
    assert clicks.mask[0, 2, 2]
    clicks.accept()
    kept = store.contour(thin.case_id, purpose=CORRECTED)
    np.testing.assert_array_equal(kept.mask.voxels, clicks.mask)


# -- killed and opened again ------------------------------------------------------------------


PAINTED = [np.zeros(SHAPE_ZYX[1:], bool), *(REFERENCE[z] for z in (3, SLICE_Z, 6))]
POINTS = st.lists(st.tuples(st.integers(0, 31), st.integers(0, 31)), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("segment"), POINTS),
        st.tuples(st.just("refine"), POINTS, POINTS),
        st.tuples(st.just("undo")),
        st.tuples(st.just("take"), st.integers(0, 3).map(lambda n: PAINTED[n])),
    ),
    max_size=6,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_what_is_opened_again_is_what_it_was(store, steps) -> None:
    with transaction(store.engine) as session:
        for table in (ClickStepRow, ClickSessionRow):
            session.execute(delete(table))
    clicks = open_task(store, task_id(store), author="dr a")
    masks = [clicks.mask]
    for kind, *points in steps:
        try:
            getattr(clicks, kind)(*points)
        except DataError:
            continue  # no click, or one that contradicts another
        masks.append(clicks.mask)
    again = reopened(store)
    assert again.session_id == clicks.session_id
    np.testing.assert_array_equal(again.mask, clicks.mask)
    for one, other in zip(again.clicks, clicks.clicks, strict=True):
        np.testing.assert_array_equal(one, other)
    # And it goes on in the same way, also backwards.
    for _ in steps:
        again.undo()
        assert any((again.mask == mask).all() for mask in masks)
    assert not again.mask.any()


def test_a_corrected_case_goes_on_from_the_contour_it_started_with(store) -> None:
    clicks = open_case(store, CASE_ID, author="dr a", start=model_contour())
    clicks.refine(background=[(3, 3, 3)])
    clicks.refine(foreground=[(6, 28, 28)])
    again = open_case(CaseStore(store.home), CASE_ID, author="dr a", start=model_contour())
    assert again.session_id == clicks.session_id
    np.testing.assert_array_equal(again.mask, clicks.mask)
    other = open_case(store, CASE_ID, author="dr a", start=model_contour(REFERENCE))
    assert other.session_id != clicks.session_id
    np.testing.assert_array_equal(other.mask, REFERENCE)
    assert len(sessions(store)) == 2


def test_undo_is_recorded_and_removes_nothing(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    masks = [clicks.mask, clicks.segment(margin_points(REFERENCE[SLICE_Z]))]
    masks.append(clicks.refine(foreground=[CORNER]))
    assert all((one != other).any() for one, other in pairwise(masks))
    for expected in (masks[1], masks[0], masks[0]):
        np.testing.assert_array_equal(clicks.undo(), expected)
    assert [kind for kind, *_ in recorded(store)] == ["segment", "refine", "undo", "undo"]
    hashes = [step.mask_sha256 for step in click_store.steps(store, clicks.session_id)]
    assert hashes == [click_store.mask_sha256(masks[i]) for i in (1, 2, 1, 0)]
    clicks.refine(foreground=[CORNER])  # the clicked voxel is free again
    assert recorded(store)[-1] == ("refine", 1, 0)


def test_clicks_that_stand_can_be_drawn(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    assert [points.shape for points in clicks.clicks] == [(0, 2), (0, 2)]
    points = margin_points(REFERENCE[SLICE_Z])
    clicks.segment(points)
    clicks.refine(background=[CORNER])
    clicks.refine(foreground=[(20, 2)])
    clicks.undo()
    for session in (clicks, reopened(store)):
        foreground, background = session.clicks
        np.testing.assert_array_equal(foreground, points)
        np.testing.assert_array_equal(background, [CORNER])


def test_the_stored_parameters_are_the_ones_that_count(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    points = margin_points(REFERENCE[SLICE_Z])
    clicks.segment(points)
    (row,) = sessions(store)
    assert row.settings["fusion"] == asdict(Fusion())
    assert row.settings["network"] == "interactive-2d"
    file = resources.files("algorithms") / "weights" / "interactive-2d.safetensors"
    assert row.settings["network_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert row.settings["network_spec"]["dimensions"] == 2

    older = Fusion(local=False, pairwise_weight=0.5)
    with transaction(store.engine) as session:
        session.execute(
            update(ClickSessionRow).values(settings={**row.settings, "fusion": asdict(older)})
        )
    expected = InteractiveSegmenter(default_network(2), older)
    expected.set_image(CASE.volume.image[SLICE_Z], (1.0, 1.0))
    expected.segment(points)
    np.testing.assert_array_equal(
        reopened(store).refine(foreground=[CORNER]), expected.refine(np.array([CORNER]))
    )


def test_other_weights_open_another_session(store, monkeypatch) -> None:
    first = reopened(store)
    other = {**sessions(store)[0].settings, "network_sha256": "cd" * 32}
    monkeypatch.setattr(segmentation, "_settings", lambda *_: other)
    assert reopened(store).session_id != first.session_id


def test_a_replay_with_another_result_is_recorded(store) -> None:
    clicks = reopened(store)
    mask = clicks.segment(margin_points(REFERENCE[SLICE_Z]))
    with transaction(store.engine) as session:
        session.execute(update(ClickStepRow).values(mask_sha256="another processor"))
    again = reopened(store)
    assert [kind for kind, *_ in recorded(store)] == ["segment", "replayed"]
    last = click_store.steps(store, clicks.session_id)[-1]
    assert last.mask_sha256 == click_store.mask_sha256(mask)
    reopened(store)  # which is no news any more
    assert len(recorded(store)) == 2
    assert not again.undo().any()


# -- what a hand drew in between ------------------------------------------------------------------


def by_hand(mask: MaskArray) -> MaskArray:
    """Draw on a contour, far from the ball and from the corner."""
    drawn = mask.copy()
    drawn[..., 26:31, 1:6] = True
    return drawn


IN_DRAWN = (28, 3)


def test_a_contour_drawn_by_hand_is_a_step_that_the_network_goes_on_from(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    answer = clicks.segment(margin_points(REFERENCE[SLICE_Z]))
    np.testing.assert_array_equal(clicks.take(answer), answer)  # nothing new
    drawn = by_hand(answer)
    np.testing.assert_array_equal(clicks.take(drawn), drawn)
    mask = clicks.refine(background=[IN_DRAWN])
    assert not mask[IN_DRAWN]
    assert (mask & answer).sum() == answer.sum()  # the rest of what was drawn stays
    assert [kind for kind, *_ in recorded(store)] == ["segment", "painted", "refine"]
    step = click_store.steps(store, clicks.session_id)[1]
    assert step.mask_sha256 == click_store.mask_sha256(drawn)
    np.testing.assert_array_equal(store.read_mask(step.file, drawn.shape), drawn)

    alone = InteractiveSegmenter(default_network(2), Fusion())
    alone.set_image(CASE.volume.image[SLICE_Z], (1.0, 1.0))
    alone.set_contour(drawn)
    np.testing.assert_array_equal(mask, alone.refine(background=np.array([IN_DRAWN])))


def test_undo_across_a_drawn_contour_is_as_if_it_had_never_been(store) -> None:
    """For what comes after it, too: the network still knows the clicks from before."""
    clicks = open_task(store, task_id(store), author="dr a")
    points = margin_points(REFERENCE[SLICE_Z])
    masks = [clicks.mask, clicks.segment(points), clicks.refine(foreground=[CORNER])]
    masks.append(clicks.take(by_hand(masks[-1])))
    masks.append(clicks.refine(foreground=[(20, 28)]))
    masks.append(clicks.take(by_hand(REFERENCE[SLICE_Z])))
    for expected in masks[4:1:-1]:
        np.testing.assert_array_equal(clicks.undo(), expected)
        np.testing.assert_array_equal(reopened(store).mask, expected)
    alone = open_task(store, task_id(store), author="dr b")
    alone.segment(points)
    alone.refine(foreground=[CORNER])
    for one, other in zip(clicks.clicks, alone.clicks, strict=True):
        np.testing.assert_array_equal(one, other)
    inside = tuple(np.argwhere(masks[2])[len(np.argwhere(masks[2])) // 2])
    expected = alone.refine(background=[inside], foreground=[(28, 28)])
    again = reopened(store)
    np.testing.assert_array_equal(
        clicks.refine(background=[inside], foreground=[(28, 28)]), expected
    )
    np.testing.assert_array_equal(reopened(store).mask, expected)
    for left in masks[2::-1]:
        np.testing.assert_array_equal(clicks.undo(), left)
    with pytest.raises(DataError, match="another window"):
        again.undo()


def test_a_contour_that_was_there_before_takes_steps_back(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    first = clicks.segment(margin_points(REFERENCE[SLICE_Z]))
    clicks.take(by_hand(first))
    clicks.refine(foreground=[CORNER])
    np.testing.assert_array_equal(clicks.take(first), first)
    kinds = [kind for kind, *_ in recorded(store)]
    assert kinds == ["segment", "painted", "refine", "undo", "undo"]
    np.testing.assert_array_equal(clicks.undo(), np.zeros_like(first))
    np.testing.assert_array_equal(reopened(store).mask, clicks.mask)


@pytest.mark.parametrize("start", [None, model_contour()], ids=["nothing", "contour"])
def test_a_case_is_drawn_on_by_hand_between_clicks(store, start) -> None:
    clicks = open_case(store, CASE_ID, author="dr a", start=start)
    first = clicks.mask
    drawn = clicks.take(by_hand(first))
    clicks.refine(background=[(6, *CORNER)])
    again = open_case(CaseStore(store.home), CASE_ID, author="dr a", start=start)
    np.testing.assert_array_equal(again.mask, clicks.mask)
    np.testing.assert_array_equal(again.undo(), drawn)
    np.testing.assert_array_equal(again.undo(), first)
    assert again.undo() is not None
    np.testing.assert_array_equal(again.mask, first)


@pytest.mark.parametrize(
    ("start", "clicked", "expected"),
    [
        (None, False, "manual"),
        (None, True, "semiautomatic"),
        (model_contour(), False, "semiautomatic"),
    ],
)
def test_what_only_hands_drew_is_manual(store, start, clicked, expected) -> None:
    clicks = open_task(store, task_id(store), author="dr a", start=start)
    if clicked:
        clicks.segment(margin_points(REFERENCE[SLICE_Z]))
    clicks.take(by_hand(clicks.mask))
    clicks.accept()
    (task,) = store.tasks(round_of(store), state="done")
    assert task.provenance == expected


def test_what_comes_with_accepting_may_refuse_it(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    clicks.take(REFERENCE[SLICE_Z])

    def refuse(session: Session) -> None:
        assert session.scalar(select(func.count()).select_from(AuditRow))
        raise DataError("not yours")

    with pytest.raises(DataError, match="not yours"):
        clicks.accept(also=refuse)
    assert store.tasks(round_of(store), state="done") == []
    assert [row.state for row in sessions(store)] == ["open"]
    clicks.accept()


def test_a_drawn_contour_of_another_shape_is_a_mistake_of_the_caller(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    for mask in (REFERENCE, REFERENCE[SLICE_Z].astype(np.uint8)):
        with pytest.raises(ValueError, match="in place of"):
            clicks.take(mask)
    assert recorded(store) == []


def test_a_drawn_contour_that_went_missing_is_told(store) -> None:
    clicks = open_task(store, task_id(store), author="dr a")
    clicks.take(by_hand(REFERENCE[SLICE_Z]))
    (step,) = click_store.steps(store, clicks.session_id)
    (store.home.folder / step.file).unlink()
    with pytest.raises(DataError, match=f"{CASE_ID}: a contour drawn by hand is missing: restore"):
        reopened(store)


# -- several at once --------------------------------------------------------------------------


def test_every_author_has_a_session(store) -> None:
    first, second = reopened(store, "dr a"), reopened(store, "dr b")
    first.segment(margin_points(REFERENCE[SLICE_Z]))
    assert not second.mask.any()
    mask = second.refine(foreground=[CORNER])
    assert not reopened(store, "dr c").mask.any()
    second.accept()
    with pytest.raises(DataError, match="is done already: take the next one"):
        first.accept()
    (task,) = store.tasks(round_of(store), state="done")
    np.testing.assert_array_equal(store.task_mask(task), mask)
    assert task.author == "dr b"
    assert {row.author: row.state for row in sessions(store)} == {
        "dr a": "open",
        "dr b": "finished",
        "dr c": "open",
    }


@pytest.mark.parametrize("act", ["segment", "undo", "accept"])
def test_of_two_windows_the_one_that_fell_behind_is_refused(store, act) -> None:
    here, there = reopened(store), reopened(store)
    assert here.session_id == there.session_id
    there.refine(foreground=[CORNER])
    if act == "undo":
        here = reopened(store)
        there.undo()
    before, mask = recorded(store), here.mask
    arguments = {"segment": (margin_points(REFERENCE[SLICE_Z]),)}.get(act, ())
    with pytest.raises(DataError, match="another window: open it again"):
        getattr(here, act)(*arguments)
    np.testing.assert_array_equal(here.mask, mask)
    assert recorded(store) == before
    assert store.tasks(round_of(store), state="done") == []


@pytest.mark.parametrize("start", [None, model_contour()], ids=["nothing", "contour"])
def test_two_processes_that_begin_at_once_find_one_session(store, monkeypatch, start) -> None:
    add, faster = click_store._add, []

    def overtaken(*arguments) -> ClickSessionRow:
        monkeypatch.setattr(click_store, "_add", add)
        faster.append(open_case(store, CASE_ID, author="dr a", start=start))
        return add(*arguments)

    monkeypatch.setattr(click_store, "_add", overtaken)
    slower = open_case(store, CASE_ID, author="dr a", start=start)
    assert slower.session_id == faster[0].session_id
    assert len(sessions(store)) == 1


# -- accepted once, and as one ----------------------------------------------------------------


@pytest.mark.parametrize("act", ["accept", "undo", "segment", "refine"])
def test_after_accepting_nothing_more_happens(store, act) -> None:
    clicks = open_case(store, CASE_ID, author="dr a", start=model_contour())
    clicks.refine(background=[(3, 3, 3)])
    clicks.accept()
    before, mask = (recorded(store), len(audit(store))), clicks.mask
    arguments = [(4, 20, 20)] if act in ("segment", "refine") else None
    with pytest.raises(DataError, match="accepted already: open it again"):
        getattr(clicks, act)(*([] if arguments is None else [arguments]))
    assert (recorded(store), len(audit(store))) == before
    np.testing.assert_array_equal(clicks.mask, mask)


def test_an_accepted_case_is_opened_afresh_and_the_newest_counts(store) -> None:
    first = open_case(store, CASE_ID, author="dr a", start=model_contour())
    first.refine(background=[(3, 3, 3)])
    first.accept()
    second = open_case(store, CASE_ID, author="dr a", start=model_contour())
    assert second.session_id != first.session_id
    np.testing.assert_array_equal(second.mask, model_contour().mask.voxels)
    mask = second.refine(foreground=[(6, 28, 28)])
    second.accept()
    kept = store.contour(CASE_ID, purpose=CORRECTED)
    np.testing.assert_array_equal(kept.mask.voxels, mask)


@pytest.mark.parametrize("whole_case", [False, True])
def test_a_failure_while_accepting_leaves_all_as_it_was(store, monkeypatch, whole_case) -> None:
    def opened() -> ClickSession:
        return (
            open_case(CaseStore(store.home), CASE_ID, author="dr a")
            if whole_case
            else reopened(store)
        )

    clicks = opened()
    mask = clicks.segment(margin_points(REFERENCE if whole_case else REFERENCE[SLICE_Z]))
    events = len(audit(store))

    def full(*_args) -> str:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(CaseStore, "write_mask", full)
        with pytest.raises(OSError, match="full"):
            clicks.accept()
    assert [row.state for row in sessions(store)] == ["open"]
    assert len(audit(store)) == events
    assert store.tasks(round_of(store), state="done") == []
    again = opened()
    np.testing.assert_array_equal(again.mask, mask)
    again.accept()
    assert [row.state for row in sessions(store)] == ["finished"]


def test_a_step_that_cannot_be_written_did_not_happen(store, monkeypatch) -> None:
    clicks = reopened(store)
    mask = clicks.segment(margin_points(REFERENCE[SLICE_Z]))

    def locked(*_args) -> None:
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    with monkeypatch.context() as patched:
        patched.setattr(click_store, "add_step", locked)
        for act in (clicks.undo, lambda: clicks.refine(foreground=[CORNER])):
            with pytest.raises(OperationalError):
                act()
            np.testing.assert_array_equal(clicks.mask, mask)
    clicks.refine(foreground=[CORNER])
    np.testing.assert_array_equal(reopened(store).mask, clicks.mask)


# -- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "points", "message"),
    [
        ("segment", [[]], "at least one point"),
        ("segment", [[(40, 2)]], "lies outside the image"),
        ("segment", [[CORNER]], "clicked the other way round"),
        ("refine", [], "click on what is missing"),
        ("refine", [[(-1, 2)]], "lies outside the image"),
        ("refine", [[CORNER]], "clicked the other way round"),
        ("refine", [[(9, 9)], [(9, 9)]], "as target and as background"),
    ],
)
def test_bad_clicks_store_nothing_and_change_nothing(store, act, points, message) -> None:
    clicks = reopened(store)
    clicks.segment(margin_points(REFERENCE[SLICE_Z]))
    mask = clicks.refine(background=[CORNER])
    before = recorded(store)
    with pytest.raises(DataError, match=message):
        getattr(clicks, act)(*points)
    assert recorded(store) == before
    np.testing.assert_array_equal(clicks.mask, mask)
    clicks.undo()
    np.testing.assert_array_equal(reopened(store).mask, clicks.mask)


def test_clicks_with_other_axes_are_a_mistake_of_the_caller(store) -> None:
    clicks = reopened(store)
    for points in ([(1, 2, 3)], [(1.5, 2.0)]):
        with pytest.raises(ValueError, match="whole voxel indices"):
            clicks.segment(points)
    assert recorded(store) == []


def test_unknown_and_done_are_refused_with_advice(store) -> None:
    with pytest.raises(DataError, match=r"annotation task 999 is unknown: take one"):
        open_task(store, 999, author="dr a")
    with pytest.raises(DataError, match=r"case-0+ is unknown: see"):
        open_case(store, "case-000000000000", author="dr a")
    reopened(store).accept()
    with pytest.raises(DataError, match=rf"slice 4 of {CASE_ID}\) is done already: take the next"):
        reopened(store)
    assert len(sessions(store)) == 1


@pytest.mark.parametrize("change", ["shape", "place"])
def test_a_contour_on_another_grid_is_refused(store, change) -> None:
    geometry = {
        "shape": Geometry((8, 32, 30), (3.0, 1.0, 1.0), CASE.volume.geometry.origin_xyz_mm),
        "place": replace(CASE.volume.geometry, origin_xyz_mm=(0.0, 0.0, 0.0)),
    }[change]
    mask = Mask(np.ones(geometry.shape_zyx, bool), geometry)
    start = Contour("GTVp", mask, Provenance.AUTOMATIC)
    for opened in (
        lambda: open_case(store, CASE_ID, author="dr a", start=start),
        lambda: open_task(store, task_id(store), author="dr a", start=start),
    ):
        with pytest.raises(DataError, match=rf"{CASE_ID}: .* another grid .*: segment this case"):
            opened()
    with Session(store.engine) as session:
        assert session.scalar(select(func.count()).select_from(ContourRow)) == 1
    assert sessions(store) == []

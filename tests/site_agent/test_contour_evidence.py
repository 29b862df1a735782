"""Saving: mask, task or review, evidence, claim and draft as one, measured on what is stored."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import NOT_ANNOTATED, Provenance
from algorithms.contracts.errors import DataError
from site_agent import claims, contour_evidence, drafts
from site_agent.case_store import REVIEWED as REVIEWED_PURPOSE
from site_agent.case_store import CaseStore
from site_agent.click_store import mask_sha256
from site_agent.contour_evidence import save_annotation, save_review
from site_agent.database import ClickSessionRow, ContourSaveRow, utc_now
from site_agent.review import REJECTION_REASONS, record_review
from tests.phantoms import SHAPE_ZYX, SPACING_ZYX_MM
from tests.site_agent.doctors_site import (
    ANNOTATED,
    ASKED,
    DR_A,
    DR_B,
    MODEL,
    REVIEWED,
    REVISED,
    TUMOUR,
    after,
    annotation,
    audit,
    claimed,
    make_site,
    masks,
    review,
    slice_only,
)
from tests.site_agent.stored_site import killed_at
from tests.site_agent.viewer_window import Window


@pytest.fixture
def store(tmp_path) -> CaseStore:
    return make_site(tmp_path)


def begun(store: CaseStore, key, start=None, sitting="a") -> Window:
    draft = drafts.begin(store, claimed(store, key), author=DR_A, start=start, now=after(0))
    return Window(draft, SHAPE_ZYX, sitting)


def save_slices(store: CaseStore, key, window: Window, *slices: int, seconds=60, **changes):
    return save_annotation(
        store,
        key,
        author=DR_A,
        message=window.save(*slices),
        slices=slices,
        now=after(seconds),
        **changes,
    )


def save(store: CaseStore, key, message, verdict="revised", seconds=60, **changes):
    return save_review(
        store, key, author=DR_A, message=message, verdict=verdict, now=after(seconds), **changes
    )


def drawn(*slices: int) -> np.ndarray:
    return sum((slice_only(z, TUMOUR[z]) for z in slices), np.zeros(SHAPE_ZYX, bool))


def only_review(store: CaseStore):
    (row,) = store.reviews(review(store).round_id)
    return row


# -- annotation ------------------------------------------------------------------------------------


def test_slices_are_annotated_by_hand(store, each_database) -> None:
    key = annotation(store)
    window = begun(store, key).work(5000, 2).idle(2000).work(1000).work(9000, 4).work(2000, 5)
    window.target = drawn(2, 4)
    saves = save_slices(store, key, window, 2, 4, 5)
    tasks = {task.slice_z: task for task in store.tasks(key.round_id, state="done")}
    assert tasks.keys() == set(ASKED)
    for one, z, active_s in zip(saves, (2, 4, 5), (5.333, 9.333, 2.333), strict=True):
        np.testing.assert_array_equal(store.task_mask(tasks[z]), drawn(2, 4)[z])
        assert tasks[z].active_s == one.active_s == pytest.approx(active_s, abs=0.001)
        assert (tasks[z].author, tasks[z].provenance) == (DR_A, "manual")
        assert (one.task_id, one.file, one.wall_s) == (tasks[z].id, tasks[z].file, 60.0)
        assert one.mask_sha256 == mask_sha256(drawn(2, 4)[z])
        assert (one.revision_degree_percent, one.start_file) == (None, None)
    assert drafts.restore(store, key, author=DR_A) is None
    assert claims.holders(store, key.round_id) == {}
    entry = next(row for row in audit(store) if row.event == "contour_saved")
    assert entry.detail["screen_sha256"] == mask_sha256(window.target)


def test_what_is_not_done_stays_drawn_and_its_time_is_counted_once(store) -> None:
    key = annotation(store)
    window = begun(store, key).work(5000, 2).work(3000, 4).work(1000)
    window.target = drawn(2, 4)
    old = window.epoch
    (first,) = save_slices(store, key, window, 2, seconds=30)
    draft = drafts.begin(store, key, author=DR_A, now=after(31))
    assert draft.epoch != old
    np.testing.assert_array_equal(draft.target, drawn(2, 4))
    assert claims.holders(store, key.round_id)[ANNOTATED, "annotation"].author == DR_A
    assert drafts.editable_slices(store, key) == (4, 5)
    window.epoch, window.revision = draft.epoch, draft.revision
    window.work(2000, 4).work(500)
    second, third = save_slices(store, key, window, 4, 5, seconds=60)
    assert (first.active_s, second.active_s, third.active_s) == (6.0, 5.25, 0.25)
    assert sum(one.active_s for one in (first, second, third)) == 11.5
    assert not store.task_mask(next(t for t in store.tasks(key.round_id) if t.slice_z == 5)).any()


def test_a_saved_slice_is_not_drawn_on_again(store) -> None:
    key = annotation(store)
    window = begun(store, key).work(100, 2)
    window.target = drawn(2)
    save_slices(store, key, window, 2)
    draft = drafts.begin(store, key, author=DR_A)
    window.epoch, window.revision = draft.epoch, draft.revision
    with pytest.raises(DataError, match="not asked for, or done already"):
        save_slices(store, key, window, 2, seconds=61)
    window.target = drawn(4)
    with pytest.raises(DataError, match="a slice that is not asked for"):
        save_slices(store, key, window, 4, seconds=62)
    assert len(contour_evidence.saves(store, key.round_id)) == 1


def test_scribbles_are_stored_as_they_were_drawn(tmp_path) -> None:
    store = make_site(tmp_path, "scribble")
    key = annotation(store)
    window = begun(store, key).work(1000, 4)
    inside = drawn(4) & (np.indices(SHAPE_ZYX)[1] % 2 == 0)
    window.target, window.outside = inside, slice_only(4, np.eye(32, dtype=bool)) & ~drawn(4)
    with pytest.raises(DataError, match="slice 3: nothing is drawn"):
        save_slices(store, key, window, 4, 2)
    assert store.tasks(key.round_id, state="done") == []
    (one,) = save_slices(store, key, window, 4)
    (task,) = store.tasks(key.round_id, state="done")
    expected = np.full((32, 32), NOT_ANNOTATED, np.uint8)
    expected[window.outside[4]], expected[inside[4]] = 0, 1
    np.testing.assert_array_equal(store.task_label(task), expected)
    assert (task.provenance, one.mask_sha256) == ("manual", mask_sha256(inside[4]))


def test_a_start_is_what_the_slices_are_compared_with(store) -> None:
    key = annotation(store)
    window = begun(store, key, TUMOUR).work(100, 4)
    window.target = TUMOUR.copy()
    window.target[4, :16] = False
    one, other = save_slices(store, key, window, 4, 2)
    inside, left = int(TUMOUR[4].sum()), int(window.target[4].sum())
    expected = 100 * (1 - 2 * left / (inside + left))
    assert one.revision_degree_percent == pytest.approx(expected)
    assert one.slice_degrees_percent == {"4": one.revision_degree_percent}
    assert other.revision_degree_percent == other.added_path_length_mm == 0.0
    np.testing.assert_array_equal(store.read_mask(one.start_file, SHAPE_ZYX), TUMOUR)


def test_only_the_actions_on_a_slice_are_in_its_evidence(store) -> None:
    key = annotation(store)
    window = begun(store, key).work(10, 2, "lasso").work(10, 4, "fill").work(10, -1, "undo")
    one, other = save_slices(store, key, window, 2, 4)
    for row, named in ((one, {"open", "lasso", "undo"}), (other, {"open", "fill", "undo"})):
        (sitting,) = row.sittings["sittings"].values()
        assert {name for _, name, *_ in sitting["actions"]} == named


def test_nothing_marked_as_done_is_no_save(store) -> None:
    key = annotation(store)
    with pytest.raises(DataError, match="no slice is marked as done"):
        save_slices(store, key, begun(store, key))


def test_clicks_are_accepted_with_what_a_hand_made_of_them(store, each_database) -> None:
    from site_agent.segmentation import open_task

    key = annotation(store)
    by_slice = {task.slice_z: task for task in store.tasks(key.round_id)}
    window = begun(store, key).work(4000, 4)
    clicks = open_task(store, by_slice[4].id, author=DR_A)
    answer = clicks.segment(np.argwhere(TUMOUR[4])[[0, -1]])
    window.target[4] = answer
    window.target[4, 0, :3] = True  # painted after the answer
    saved = save_slices(store, key, window, 4, 2, click_sessions={4: clicks})
    tasks = {task.slice_z: task for task in store.tasks(key.round_id, state="done")}
    np.testing.assert_array_equal(store.task_mask(tasks[4]), window.target[4])
    assert [tasks[z].provenance for z in (4, 2)] == ["semiautomatic", "manual"]
    assert tasks[4].active_s == saved[0].active_s == 4.0
    with Session(store.engine) as session:
        (row,) = session.scalars(select(ClickSessionRow)).all()
    assert (row.state, row.active_s, row.clicks) == ("finished", 4.0, 2)


def test_clicks_that_fell_behind_save_nothing(store) -> None:
    from site_agent.segmentation import open_task

    key = annotation(store)
    task_id = next(t.id for t in store.tasks(key.round_id) if t.slice_z == 4)
    window = begun(store, key).work(100, 4)
    here = open_task(store, task_id, author=DR_A)
    open_task(store, task_id, author=DR_A).take(TUMOUR[4])
    with pytest.raises(DataError, match="in another window"):
        save_slices(store, key, window, 2, 4, click_sessions={4: here})
    assert store.tasks(key.round_id, state="done") == []
    assert contour_evidence.saves(store, key.round_id) == []
    assert drafts.restore(store, key, author=DR_A) is not None


# -- review ----------------------------------------------------------------------------------------


def test_a_revised_contour_is_stored_with_what_it_took(store, each_database) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(20_000).wait(3000).idle(5000)
    window.target = REVISED
    row = save(store, key, window.save(), likert=4)
    kept = store.contour(REVIEWED, purpose=REVIEWED_PURPOSE, round_id=key.round_id)
    np.testing.assert_array_equal(kept.mask.voxels, REVISED)
    assert kept.provenance is Provenance.SEMIAUTOMATIC
    said = only_review(store)
    degree = 100 * (1 - 2 * (MODEL & REVISED).sum() / (MODEL.sum() + REVISED.sum()))
    assert (said.verdict, said.likert, said.reason, said.author) == ("revised", 4, "", DR_A)
    assert said.revision_degree_percent == row.revision_degree_percent == pytest.approx(degree)
    assert (said.active_s, said.wall_s) == (row.active_s, row.wall_s) == (20.0, 60.0)
    assert row.model_wait_s == 3.0
    assert row.mask_sha256 == mask_sha256(REVISED)
    np.testing.assert_array_equal(store.read_mask(row.start_file, SHAPE_ZYX), MODEL)
    np.testing.assert_array_equal(store.read_mask(row.file, SHAPE_ZYX), REVISED)
    changed = {z for z in range(8) if (MODEL[z] ^ REVISED[z]).any()}
    assert {int(z) for z, d in row.slice_degrees_percent.items() if d} == changed
    assert {int(z) for z in row.slice_degrees_percent} == set(np.flatnonzero(MODEL.any((1, 2))))
    assert row.added_path_length_mm == pytest.approx(path_mm(REVISED, MODEL))
    assert claims.holders(store, key.round_id) == {}
    assert drafts.restore(store, key, author=DR_A) is None


def path_mm(revised: np.ndarray, model: np.ndarray) -> float:
    """Count outline pixels one by one."""

    def outline(mask: np.ndarray) -> set[tuple[int, ...]]:
        inside = set(map(tuple, np.argwhere(mask).tolist()))
        steps = ((1, 0), (-1, 0), (0, 1), (0, -1))
        return {
            (z, y, x)
            for z, y, x in inside
            if any((z, y + dy, x + dx) not in inside for dy, dx in steps)
        }

    return len(outline(revised) - outline(model)) * (SPACING_ZYX_MM[1] + SPACING_ZYX_MM[2]) / 2


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_what_is_measured_is_what_can_be_measured_again(store, seed, share) -> None:
    """From the stored masks alone, by the formula, whatever was drawn."""
    key = review(store)
    window = begun(store, key, MODEL)
    flipped = np.random.default_rng(seed).random(SHAPE_ZYX) < share
    window.target = MODEL ^ flipped
    row = save(store, key, window.work(10).save(), seconds=1)
    start, end = (store.read_mask(file, SHAPE_ZYX) for file in (row.start_file, row.file))
    np.testing.assert_array_equal(end, window.target)
    dice = 2 * (start & end).sum() / (start.sum() + end.sum())
    assert row.revision_degree_percent == pytest.approx(100 * (1 - dice))
    for z, degree in row.slice_degrees_percent.items():
        one, other = start[int(z)], end[int(z)]
        assert degree == pytest.approx(
            100 * (1 - 2 * (one & other).sum() / (one.sum() + other.sum()))
        )


def test_clicks_of_a_review_are_closed_with_it(store) -> None:
    from site_agent.segmentation import open_case

    key = review(store)
    model = store.contour(REVIEWED, purpose="adapted", round_id=key.round_id)
    window = begun(store, key, MODEL).work(4000)
    clicks = open_case(store, REVIEWED, author=DR_A, start=model, round_id=key.round_id)
    window.target = clicks.refine(foreground=[(1, 3, 3)])
    window.target[0, 0, 0] = True
    row = save(store, key, window.save(), click_session=clicks)
    assert row.mask_sha256 == mask_sha256(window.target)
    with Session(store.engine) as session:
        (kept,) = session.scalars(select(ClickSessionRow)).all()
    assert (kept.state, kept.clicks, kept.active_s) == ("finished", 1, 4.0)
    assert store.contour(REVIEWED, purpose="corrected", round_id=key.round_id) is None
    finished = next(entry for entry in audit(store) if entry.event == "clicks_accepted")
    assert finished.detail["mask_sha256"] == row.mask_sha256


@pytest.mark.parametrize("chosen", ["accepted", "revised"])
def test_the_masks_decide_between_accepted_and_revised(store, chosen) -> None:
    key = review(store)
    row = save(store, key, begun(store, key, MODEL).work(100).save(), chosen)
    assert (only_review(store).verdict, row.revision_degree_percent) == ("accepted", 0.0)
    kept = store.contour(REVIEWED, purpose=REVIEWED_PURPOSE, round_id=key.round_id)
    assert kept.provenance is Provenance.AUTOMATIC
    window = begun(store, key, MODEL)
    window.target = REVISED
    save(store, key, window.work(100).save(), chosen)
    assert only_review(store).verdict == "revised"


def test_accepted_without_a_stroke_is_what_was_begun(store) -> None:
    key = review(store)
    with pytest.raises(DataError, match="no revision was started"):
        save(store, claimed(store, key), None, "accepted")
    begun(store, key, MODEL)
    row = save(store, key, None, "accepted")
    assert (row.active_s, row.wall_s, only_review(store).verdict) == (0.0, 60.0, "accepted")


def test_a_rejected_case_keeps_no_contour(store) -> None:
    key = review(store)
    before = masks(store, REVIEWED)
    for times, reason in enumerate(REJECTION_REASONS, start=1):
        window = begun(store, key, MODEL).work(2000)
        window.target = REVISED
        assert save(store, key, window.save(), "rejected", reason=reason, likert=1) is None
        said = only_review(store)
        assert (said.verdict, said.reason, said.likert) == ("rejected", reason, 1)
        measured = (said.revision_degree_percent, said.active_s, said.wall_s)
        assert measured == (100.0, 2.0 * times, 60.0 * times)
    assert store.contour(REVIEWED, purpose=REVIEWED_PURPOSE, round_id=key.round_id) is None
    assert masks(store, REVIEWED) == before
    assert contour_evidence.saves(store, key.round_id) == []


def test_a_review_carries_the_time_of_all_that_one_person_took_for_it(store, each_database) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(10_000)
    window.target = REVISED
    save(store, key, window.save(), seconds=60)
    save(store, key, begun(store, key, REVISED).work(2000).save(), "rejected", reason="other")
    said = only_review(store)
    assert (said.verdict, said.active_s, said.wall_s) == ("rejected", 12.0, 120.0)
    save(store, key, begun(store, key, MODEL).work(1000).save(), seconds=5)
    said = only_review(store)
    assert (said.verdict, said.active_s, said.wall_s) == ("accepted", 13.0, 125.0)
    each = [(row.active_s, row.wall_s) for row in contour_evidence.saves(store, key.round_id)]
    assert each == [(10.0, 60.0), (1.0, 5.0)]  # the evidence is of each save
    mask = store.contour(REVIEWED, purpose="adapted", round_id=key.round_id).mask
    again = {"author": DR_A, "simulated": False}
    record_review(store, key.round_id, REVIEWED, mask, **again)  # nobody took the time
    assert only_review(store).active_s == 13.0
    record_review(store, key.round_id, REVIEWED, mask, author=DR_B, simulated=False)
    assert only_review(store).active_s is None
    record_review(store, key.round_id, REVIEWED, mask, active_s=3.0, author=DR_B, simulated=False)
    assert (only_review(store).active_s, only_review(store).wall_s) == (3.0, None)


def test_a_case_that_is_rejected_later_is_not_a_corrected_one(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    window.target = REVISED
    save(store, key, window.work(10).save())
    between = utc_now()
    assert store.last_correction(REVIEWED, before=between) is not None
    save(store, key, begun(store, key, MODEL).work(10).save(), "rejected", reason="other")
    assert store.last_correction(REVIEWED, before=utc_now()) is None
    # A round that began before goes on with what it began with.
    assert store.last_correction(REVIEWED, before=between) is not None
    assert store.contour(REVIEWED, purpose=REVIEWED_PURPOSE, round_id=key.round_id) is None
    record_review(
        store,
        key.round_id,
        REVIEWED,
        store.contour(REVIEWED, purpose="adapted", round_id=key.round_id).mask,
        author=DR_B,
        simulated=False,
    )
    assert store.last_correction(REVIEWED, before=utc_now()) is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "rejected"}, "a rejection has a reason: choose one of wrong_target"),
        ({"verdict": "rejected", "reason": "I do not like it"}, "has a reason"),
        ({"verdict": "revised", "reason": "other"}, "has a reason"),
        ({"likert": 0}, "a score is 1"),
        ({"likert": 6}, "a score is 1"),
    ],
)
def test_another_score_or_reason_saves_nothing(store, changes, told) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(100)
    with pytest.raises(DataError, match=told):
        save(store, key, window.save(), **changes)
    assert store.reviews(key.round_id) == []
    assert claims.holders(store, key.round_id)
    save(store, key, window.save())


def test_what_the_model_has_not_segmented_is_not_reviewed(store) -> None:
    key = claims.WorkKey(review(store).round_id, ANNOTATED, "review")
    window = begun(store, key)
    with pytest.raises(ValueError, match="has not segmented this case"):
        save(store, key, window.save())


# -- once, and as one ------------------------------------------------------------------------------


def test_an_answer_that_was_lost_is_given_again(store) -> None:
    """The browser sends the same save once more, to a server that was killed after it."""
    key = review(store)
    window = begun(store, key, MODEL).work(100)
    window.target = REVISED
    first = save(store, key, window.save())
    again = save(CaseStore(store.home), key, window.idle(9000).save(), seconds=99)
    assert (again.id, again.wall_s) == (first.id, 60.0)
    window.target = MODEL
    with pytest.raises(DataError, match="was released"):
        save(store, key, window.save(), seconds=99)
    other = annotation(store)
    drawing = begun(store, other, sitting="b").work(100, 2)
    done = drawing.save(2)
    for seconds in (5, 9):
        (row,) = save_annotation(
            store, other, author=DR_A, message=done, slices=(2,), now=after(seconds)
        )
        assert row.wall_s == 5.0
    assert len(contour_evidence.saves(store, key.round_id)) == 2


def test_what_was_drawn_on_since_is_not_saved(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(100)
    old = window.save()
    window.target = REVISED
    drafts.take(store, key, author=DR_A, message=window.work(100).message(), now=after(5))
    with pytest.raises(DataError, match="drawn on since: save it again"):
        save(store, key, old)
    assert store.reviews(key.round_id) == []


@pytest.mark.parametrize("purpose", ["annotation", "review"])
def test_a_kill_at_any_moment_saves_all_of_it_or_nothing(tmp_path, each_database, purpose) -> None:
    store, step, outcomes = make_site(tmp_path), 0, set()
    key = annotation(store) if purpose == "annotation" else review(store)
    window = begun(store, key, None if purpose == "annotation" else MODEL).work(100, 2)
    window.target = drawn(2) if purpose == "annotation" else REVISED
    while True:
        slices = (2,) if purpose == "annotation" else ()
        message = window.save(*slices)

        def act(message=message, slices=slices) -> object:
            again = CaseStore(store.home)
            who = {"author": DR_A, "message": message, "now": after(9)}
            if purpose == "annotation":
                return save_annotation(again, key, slices=slices, **who)
            return save_review(again, key, verdict="revised", **who)

        store.engine.dispose()
        killed = killed_at(step, act)
        saved = contour_evidence.saves(store, key.round_id)
        done = [*store.tasks(key.round_id, state="done"), *store.reviews(key.round_id)]
        assert len(saved) == len(done)
        for row in saved:
            assert (store.home.folder / row.file).is_file()
        outcomes.add((killed, len(saved)))
        if saved:
            act()  # sent again
            assert len(contour_evidence.saves(store, key.round_id)) == 1
            break
        draft = drafts.restore(store, key, author=DR_A)
        window.revision = draft.revision
        step += 1
    audit(store)
    assert (True, 0) in outcomes


def test_of_two_doctors_who_save_at_once_the_holder_wins(store, each_database) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(100)
    window.target = REVISED
    message = window.save()
    store.engine.dispose()
    children = []
    for author in (DR_A, DR_B, DR_B):
        child = os.fork()
        if child == 0:
            code = 9
            try:
                again = CaseStore(store.home)
                save_review(
                    again, key, author=author, message=message, verdict="revised", now=after(9)
                )
                code = 0
            except DataError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 1, 1]
    with Session(store.engine) as session:
        assert [row.author for row in session.scalars(select(ContourSaveRow))] == [DR_A]
    assert only_review(store).author == DR_A


def test_a_tampered_save_changes_nothing(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(100)
    for changes in ({"epoch": "0" * 16}, {"revision": 9}):
        with pytest.raises(DataError):
            save(store, key, replace(window.save(), **changes))
    assert store.reviews(key.round_id) == []
    assert drafts.restore(store, key, author=DR_A).revision == 0

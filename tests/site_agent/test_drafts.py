"""Drafts: nothing that was drawn is lost, overwritten, or taken from whom it should not be."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from algorithms.contracts.errors import DataError
from site_agent import claims, drafts
from site_agent.case_store import CaseStore
from site_agent.erasure import count_rows, erase
from site_agent.site_lock import nothing_erased
from tests.phantoms import SHAPE_ZYX
from tests.site_agent.doctors_site import (
    ANNOTATED,
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


def begun(store: CaseStore, key, start=None, author=DR_A) -> Window:
    """Claim, begin, and open a window on it."""
    draft = drafts.begin(
        store, claimed(store, key, author), author=author, start=start, now=after(0)
    )
    return Window(draft, SHAPE_ZYX)


def take(store: CaseStore, key, message, seconds: float, author: str = DR_A) -> int:
    return drafts.take(store, key, author=author, message=message, now=after(seconds))


def held(store: CaseStore, key, author: str = DR_A) -> drafts.Draft:
    draft = drafts.restore(store, key, author=author)
    assert draft is not None
    return draft


# -- kept ------------------------------------------------------------------------------------------


def test_a_draft_comes_back_in_another_process(store, each_database) -> None:
    key = review(store)
    assert drafts.restore(store, key, author=DR_A) is None
    window = begun(store, key, MODEL)
    np.testing.assert_array_equal(held(store, key).target, MODEL)
    window.target = REVISED
    assert take(store, key, window.work(4000).message(), 5) == 1
    again = CaseStore(store.home)
    draft = drafts.begin(again, key, author=DR_A, start=None, now=after(60))
    np.testing.assert_array_equal(draft.target, REVISED)
    np.testing.assert_array_equal(draft.start, MODEL)
    assert (draft.epoch, draft.revision, draft.begun_at) == (window.epoch, 1, after(0))
    assert draft.active_s == 4.0
    assert draft.sittings[window.sitting]["first_received_at"] == after(5).isoformat()


def test_a_message_that_comes_again_or_late_changes_nothing(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    first = window.work(1000).message()
    window.target = REVISED
    second = window.work(1000).message()
    assert take(store, key, second, 3) == 1
    before = held(store, key)
    for late in (second, first, second):
        assert take(store, key, late, 9) == 1
    after_it = held(store, key)
    np.testing.assert_array_equal(after_it.target, REVISED)
    assert after_it.sittings == before.sittings


def test_what_an_older_message_could_not_say_the_next_one_does(store) -> None:
    """Messages are cumulative: one that was lost is made up for."""
    key = review(store)
    window = begun(store, key, MODEL)
    window.work(1000).message()  # lost
    take(store, key, window.work(1500).message(), 3)
    assert held(store, key).active_s == 2.5


def test_the_time_of_all_sittings_counts_and_none_twice(store) -> None:
    """A known script: work, a pause, a reload in the middle of work, and a killed server."""
    key = review(store)
    window = begun(store, key, MODEL)
    take(store, key, window.work(10_000).message(), 10)
    window.idle(40_000).wait(2000).work(8000)
    assert take(store, key, window.message(), 60.2) == 2  # a slow network
    again = Window(held(CaseStore(store.home), key), SHAPE_ZYX, "b")  # reload at 60 s
    take(store, key, again.idle(1000).work(5000).message(), 66.1)
    assert held(store, key).active_s == pytest.approx(23.0, abs=0.2)
    take(store, key, again.work(5000).message(), 71.0)  # a quick one tells when it began
    assert held(store, key).active_s == 28.0


def test_a_viewer_that_was_open_before_the_clock_began_is_no_liar(store) -> None:
    """Looking comes first; *start revision* begins the draft."""
    key = review(store)
    window = begun(store, key, MODEL).idle(600_000)
    take(store, key, window.work(3000).message(), 3)
    assert held(store, key).active_s == 3.0


def test_discarding_goes_back_to_the_start_but_the_clock_goes_on(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    window.target = REVISED
    late = window.work(2000).message()
    take(store, key, late, 2)
    draft = drafts.discard(store, key, author=DR_A, now=after(2))
    np.testing.assert_array_equal(draft.target, MODEL)
    assert draft.epoch != window.epoch
    assert (draft.active_s, draft.begun_at) == (2.0, after(0))
    with pytest.raises(DataError, match="begun anew meanwhile: reload"):
        take(store, key, replace(late, sequence=9), 3)
    window.epoch, window.revision = draft.epoch, draft.revision
    assert take(store, key, window.work(1000).message(), 4) == draft.revision + 1
    assert drafts.discard(store, claimed(store, annotation(store)), author=DR_A) is None


def test_a_kill_at_any_moment_loses_neither_the_old_nor_the_new(store, each_database) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    outcomes, step = set(), 0
    drawn = MODEL.copy()
    while True:
        drawn = drawn.copy()
        drawn[1, step // 30, step % 30] = True
        window.target = drawn
        message = window.work(100).message()
        before = held(store, key)
        store.engine.dispose()
        killed = killed_at(step, lambda: take(CaseStore(store.home), key, message, 99))  # noqa: B023
        now = held(store, key)
        new = now.revision == before.revision + 1
        np.testing.assert_array_equal(now.target, drawn if new else before.target)
        outcomes.add((killed, new))
        take(store, key, message, 99)  # the browser sends it again
        np.testing.assert_array_equal(held(store, key).target, drawn)
        window.revision = held(store, key).revision
        step += 1
        if not killed:
            break
    assert {(True, False), (False, True)} <= outcomes


def test_masks_that_were_drawn_over_do_not_pile_up(store) -> None:
    key = review(store)
    before = masks(store, REVIEWED)
    window = begun(store, key, MODEL)
    for z in range(4):
        window.target = REVISED ^ slice_only(z, np.eye(32, dtype=bool))
        take(store, key, window.work(100).message(), z + 1)
    assert len(masks(store, REVIEWED) - before) == 1
    drafts.discard(store, key, author=DR_A)
    assert masks(store, REVIEWED) == before  # the model's, which it began from, stays


def test_while_a_backup_reads_files_none_goes_away(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    window.target = REVISED
    take(store, key, window.work(100).message(), 1)
    drawn = masks(store, REVIEWED)
    with nothing_erased(store.home):
        window.target = MODEL
        take(store, key, window.work(100).message(), 2)
        assert masks(store, REVIEWED) == drawn


def test_an_erased_patient_leaves_no_draft(store, each_database) -> None:
    key = annotation(store)
    window = begun(store, key)
    window.target = slice_only(4, TUMOUR[4])
    take(store, key, window.work(100, 4).message(), 1)
    patient = store.case(ANNOTATED).patient_id
    assert count_rows(store, [patient])["drafts"] == 1
    erase(store.home, store, [patient], actor="it")
    assert drafts.restore(store, key, author=DR_A) is None
    assert masks(store, ANNOTATED) == set()


# -- refused ---------------------------------------------------------------------------------------


def test_an_older_window_is_refused_once_a_newer_one_drew(store) -> None:
    key = review(store)
    old = begun(store, key, MODEL)
    old.revision = take(store, key, old.work(1000).message(), 1)
    new = Window(held(store, key), SHAPE_ZYX, "b")
    assert take(store, key, old.work(1000).message(), 2) == 2  # nobody drew in the new one yet
    with pytest.raises(DataError, match="in another window meanwhile: reload"):
        take(store, key, new.work(100).message(), 3)  # it has not seen that
    new = Window(held(store, key), SHAPE_ZYX, "c")
    new.target = REVISED
    take(store, key, new.work(100).message(), 4)
    with pytest.raises(DataError, match="opened in another window later: go on there"):
        take(store, key, old.work(1000).message(), 5)
    np.testing.assert_array_equal(held(store, key).target, REVISED)


TAMPERED = [
    ({"epoch": "0" * 16}, "begun anew meanwhile"),
    ({"revision": 7}, "in another window"),
    ({"revision": 0}, "in another window"),
    ({"elapsed_ms": 500, "active": (), "actions": ()}, "clock went back"),
    ({"outside": np.zeros(SHAPE_ZYX, bool)}, "a review has no scribbles"),
]


@pytest.mark.parametrize(("changes", "told"), TAMPERED)
def test_what_does_not_fit_the_draft_is_refused_and_changes_nothing(store, changes, told) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    window.revision = take(store, key, window.work(1000).message(), 1)
    window.revision = take(store, key, window.work(1000).message(), 2)
    window.target = REVISED
    before = held(store, key)
    with pytest.raises(DataError, match=told) as refused:
        take(store, key, replace(window.work(1000).message(), **changes), 3)
    assert "\n" not in str(refused.value)
    now = held(store, key)
    assert (now.revision, now.sittings) == (before.revision, before.sittings)
    np.testing.assert_array_equal(now.target, MODEL)


def test_nobody_works_for_longer_than_since_the_beginning(store) -> None:
    key = review(store)
    window = begun(store, key, MODEL).work(60_000)
    with pytest.raises(DataError, match="more time was worked than passed"):
        take(store, key, window.message(), 40)
    take(store, key, window.message(), 55)  # within what a clock that is put right explains
    assert held(store, key).active_s == 55.0  # of which no more counts than passed


@pytest.mark.parametrize("z", [0, 3, 7])
def test_a_slice_that_nobody_asked_for_stays_as_it_is(store, z) -> None:
    key = annotation(store)
    window = begun(store, key, TUMOUR)
    window.target = TUMOUR ^ slice_only(4, np.eye(32, dtype=bool))
    take(store, key, window.work(100, 4).message(), 1)
    kept = window.target
    window.target = kept ^ slice_only(z, np.eye(32, dtype=bool))
    with pytest.raises(DataError, match="a slice that is not asked for: reload"):
        take(store, key, window.work(100, 4).message(), 2)
    np.testing.assert_array_equal(held(store, key).target, kept)


def test_begun_with_nothing_only_asked_for_slices_are_drawn_on(store) -> None:
    key = annotation(store)
    window = begun(store, key)
    assert held(store, key).target is None
    assert drafts.editable_slices(store, key) == (2, 4, 5)
    assert drafts.editable_slices(store, review(store)) is None
    window.target = slice_only(3, TUMOUR[3])
    with pytest.raises(DataError, match="not asked for"):
        take(store, key, window.work(100).message(), 1)


def test_scribbles_are_taken_where_they_are_asked_for(tmp_path, store) -> None:
    outside = slice_only(4, np.eye(32, dtype=bool) & ~TUMOUR[4])
    for site, asked in ((store, False), (make_site(tmp_path / "other", "scribble"), True)):
        key = annotation(site)
        window = begun(site, key)
        window.target, window.outside = slice_only(4, TUMOUR[4]), outside
        message = window.work(100, 4).message()
        if asked:
            take(site, key, message, 1)
            np.testing.assert_array_equal(held(site, key).outside, outside)
        else:
            with pytest.raises(DataError, match="contours are asked for, not scribbles"):
                take(site, key, message, 1)


def test_who_has_not_claimed_it_writes_nothing(store, each_database) -> None:
    key = review(store)
    window = begun(store, key, MODEL)
    message = window.work(100).message()
    with pytest.raises(DataError, match="dr a works on it"):
        take(store, key, message, 1, author=DR_B)
    with pytest.raises(DataError, match="dr a works on it"):
        drafts.begin(store, key, author=DR_B)
    claims.release(store, key, author=DR_A)
    with pytest.raises(DataError, match="was released: claim it again"):
        take(store, key, message, 1)
    claims.claim(store, key, author=DR_B)
    with pytest.raises(DataError, match="dr b works on it"):
        take(store, key, message, 1)
    # The draft is still there for when it is claimed again.
    np.testing.assert_array_equal(held(store, key).target, MODEL)
    drafts.begin(store, key, author=DR_B, start=REVISED)
    np.testing.assert_array_equal(held(store, key, DR_B).target, REVISED)


def test_two_windows_that_send_at_once_do_not_both_win(store, each_database) -> None:
    key = review(store)
    begun(store, key, MODEL)
    children = []
    messages = []
    for sitting in "bcd":
        window = Window(held(store, key), SHAPE_ZYX, sitting)
        messages.append(window.work(100).message())
    store.engine.dispose()
    for message in messages:
        child = os.fork()
        if child == 0:
            code = 9
            try:
                take(CaseStore(store.home), key, message, 1)
                code = 0
            except DataError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 1, 1]
    assert list(held(store, key).sittings) == [messages[codes.index(0)].sitting]


def test_a_draft_begins_on_the_grid_of_its_case(store) -> None:
    key = claimed(store, review(store))
    with pytest.raises(ValueError, match="for a case of"):
        drafts.begin(store, key, author=DR_A, start=MODEL[1:])


def test_what_was_refused_is_logged_without_what_it_was(store) -> None:
    key = review(store)
    drafts.log_refused(store, key, DR_A, DataError("x" * 500))
    last = audit(store)[-1]
    assert (last.event, last.actor, last.subject) == ("payload_refused", DR_A, REVIEWED)
    assert last.detail["why"] == "x" * 300
    assert len(json.dumps(last.detail)) < 500

"""A doctor's desk on the real stores and model: messages are made as the browser makes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import MaskArray
from clinical_ui.desk import NO_EPOCH, Desk
from evaluation.overlap import dice
from evaluation.revision import revision_degree_percent
from site_agent import claims, drafts
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.click_store import mask_sha256
from site_agent.contour_evidence import saves
from site_agent.database import ClickSessionRow, ReviewRow
from site_agent.erasure import erase
from tests.clinical_ui.run_length_text import decode
from tests.clinical_ui.synthetic_site import (
    ADAPTED,
    CASES,
    PATIENTS,
    REFERENCE,
    REVIEWED_CASE,
    UNREVIEWED_CASE,
    make_site,
)
from tests.site_agent import doctors_site
from tests.site_agent.doctors_site import ASKED, DR_A, DR_B, TUMOUR, audit
from tests.site_agent.viewer_window import Window

CLICKED_CASE, CLICKED_Z = CASES[2], 7
MARGIN = [[7, 35, 38], [7, 55, 38], [7, 45, 31], [7, 45, 46]]  # just inside the target


@pytest.fixture
def annotated(tmp_path: Path) -> CaseStore:
    """Return a small site that asks for three slices of a case."""
    return doctors_site.make_site(tmp_path)


@pytest.fixture
def clicked(tmp_path: Path) -> CaseStore:
    """Return a site that asks for slices on which the model sees something."""
    return make_site(tmp_path / "home", reviewed=False)


@pytest.fixture
def reviewing(tmp_path: Path) -> CaseStore:
    return make_site(tmp_path / "home")


@dataclass
class Sat:
    """Somebody at a desk, and the window of the viewer in front of them."""

    desk: Desk
    window: Window

    def follow(self) -> None:
        """Take in what the server says, as the viewer does."""
        self.window.epoch = self.desk.state()["epoch"]
        self.window.revision = self.desk.state()["revision"]
        answer = self.desk.answer
        if answer is not None and answer["target"] is not None:
            self.window.target = decode(answer["target"], self.window.shape)

    def prompt(self, kind: str, foreground: list, background: list = []) -> dict[str, Any]:  # noqa: B006
        """Click, and return the answer."""
        clicks = {"kind": kind, "foreground": foreground, "background": background}
        self.desk.prompt(self.window.value(prompt=clicks))
        self.follow()
        assert self.desk.answer is not None
        return self.desk.answer

    def save(self, *slices: int, **verdict: Any) -> None:
        self.desk.save(self.window.value(slices=list(slices), **verdict))
        self.follow()

    def end(self, how: str, likert: int | None = None, reason: str = "") -> None:
        """End a review as its form does."""
        self.save(verdict=how, likert=likert, reason=reason)


def key(store: CaseStore, case_id: str, purpose: str = "annotation") -> WorkKey:
    return WorkKey(store.latest_round().round_id, case_id, purpose)


def open_desk(store: CaseStore, case_id: str, author: str = DR_A) -> Desk:
    """Make a desk as the pages do; the browser's session, or the server, is new."""
    if store.contour(case_id, purpose="adapted", round_id=store.latest_round().round_id) is None:
        return Desk(store, key(store, case_id), author)
    work = key(store, case_id, "review")
    found = [
        store.contour(case_id, purpose=purpose, round_id=work.round_id)
        for purpose in ("reviewed", "adapted")
    ]
    return Desk(store, work, author, start=found[0] or found[1])


def sit(store: CaseStore, case_id: str, author: str = DR_A, sitting: str = "a") -> Sat:
    """Begin, or go on, in a new window."""
    desk = open_desk(store, case_id, author)
    desk.begin()
    return Sat(desk, Window(desk.draft, desk.shape_zyx, sitting))


def shown(desk: Desk) -> MaskArray:
    return decode(desk.state()["target"], desk.shape_zyx)


def task(store: CaseStore, case_id: str, z: int):
    tasks = store.tasks(store.latest_round().round_id)
    return next(t for t in tasks if (t.case_id, t.slice_z) == (case_id, z))


def click_sessions(store: CaseStore) -> list[tuple[str, int | None]]:
    with Session(store.engine) as session:
        rows = session.scalars(select(ClickSessionRow).order_by(ClickSessionRow.opened_at))
        return [(row.state, row.clicks) for row in rows]


def refusals(store: CaseStore) -> list[str]:
    return [row.detail["why"] for row in audit(store) if row.event == "payload_refused"]


def review_of(store: CaseStore, case_id: str) -> ReviewRow:
    (found,) = (
        row for row in store.reviews(store.latest_round().round_id) if row.case_id == case_id
    )
    return found


# -- drawing --------------------------------------------------------------------------------------


def test_looking_starts_no_clock_and_claims_nothing(annotated) -> None:
    state = open_desk(annotated, doctors_site.ANNOTATED).state()
    assert (state["epoch"], state["revision"], state["target"]) == (NO_EPOCH, 0, None)
    assert claims.holders(annotated, annotated.latest_round().round_id) == {}
    looked_at = open_desk(annotated, doctors_site.REVIEWED)
    np.testing.assert_array_equal(shown(looked_at), doctors_site.MODEL)


def test_a_draft_is_there_for_whoever_comes_back(annotated) -> None:
    sat = sit(annotated, doctors_site.ANNOTATED)
    sat.window.target[2] = TUMOUR[2]
    value = sat.window.work(1500, 2).value()
    sat.desk.take(value)
    assert sat.desk.stored == {
        "sitting": "a" * 16,
        "sequence": 1,
        "revision": 1,
        "sha256": mask_sha256(sat.window.target),
        "kind": "draft",
    }
    again = open_desk(annotated, doctors_site.ANNOTATED)  # the server was killed
    assert again.state()["epoch"] == sat.window.epoch
    assert again.state()["revision"] == 1
    assert 0 < again.state()["earlier_active_s"] <= 1.5  # no more than passed
    np.testing.assert_array_equal(shown(again), sat.window.target)
    assert not again.page_is_behind


def test_the_page_is_told_how_long_was_worked_with_each_draft(annotated) -> None:
    sat = sit(annotated, doctors_site.ANNOTATED)
    assert sat.desk.state()["earlier_active_s"] == 0
    sat.desk.take(sat.window.work(1500, 2).value())
    worked_s = sat.desk.state()["earlier_active_s"]
    assert worked_s > 0
    assert worked_s == open_desk(annotated, doctors_site.ANNOTATED).state()["earlier_active_s"]


def test_slices_are_saved_in_two_goes_and_the_case_is_let_go_with_the_last(annotated) -> None:
    case_id = doctors_site.ANNOTATED
    sat = sit(annotated, case_id)
    sat.window.target[list(ASKED)] = TUMOUR[list(ASKED)]
    first_epoch = sat.window.epoch
    sat.save(ASKED[0])
    assert sat.desk.page_is_behind
    assert sat.desk.stored["kind"] == "save"
    assert sat.desk.stored["sha256"] == mask_sha256(sat.window.target)
    assert sat.desk.editable_z == ASKED[1:]
    assert sat.window.epoch not in (first_epoch, NO_EPOCH)
    np.testing.assert_array_equal(shown(sat.desk), sat.window.target)  # nothing of it is lost

    sat.save(*ASKED[1:])
    assert sat.desk.refused is None
    assert sat.desk.draft is None
    assert claims.holders(annotated, annotated.latest_round().round_id) == {}
    for z in ASKED:
        done = task(annotated, case_id, z)
        assert (done.state, done.author, done.provenance) == ("done", DR_A, "manual")
        np.testing.assert_array_equal(annotated.task_mask(done), TUMOUR[z])


def test_a_save_whose_answer_was_lost_is_answered_again(annotated) -> None:
    sat = sit(annotated, doctors_site.ANNOTATED)
    sat.window.target[2] = TUMOUR[2]
    value = sat.window.value(slices=[2])
    sat.desk.save(value)
    again = open_desk(annotated, doctors_site.ANNOTATED)
    again.save({**value, "sequence": value["sequence"] + 1})  # the viewer counts each attempt
    assert again.refused is None
    assert again.stored["kind"] == "save"
    assert len(saves(annotated, annotated.latest_round().round_id)) == 1


def test_scribbles_are_saved_with_what_is_outside(tmp_path) -> None:
    store = doctors_site.make_site(tmp_path, kind="scribble")
    sat = sit(store, doctors_site.ANNOTATED)
    sat.window.target[2, 15, 14:17] = True
    sat.window.outside = np.zeros_like(sat.window.target)
    sat.window.outside[2, 2, :] = True
    sat.desk.take(sat.window.value())
    np.testing.assert_array_equal(
        decode(sat.desk.state()["outside"], sat.desk.shape_zyx), sat.window.outside
    )
    sat.save(2)
    label = store.task_label(task(store, doctors_site.ANNOTATED, 2))
    assert set(np.unique(label[2])) == {0}
    assert (label == 1).sum() == 3


def test_a_discarded_draft_goes_back_to_its_beginning_and_the_viewer_must_take_it(reviewing):
    sat = sit(reviewing, UNREVIEWED_CASE)
    sat.window.target[:] = False
    sat.desk.take(sat.window.work(1000).value())
    before = sat.window.epoch
    worked_s = open_desk(reviewing, UNREVIEWED_CASE).state()["earlier_active_s"]
    sat.desk.discard()
    state = sat.desk.state()
    assert state["fresh"]
    assert state["epoch"] != before
    np.testing.assert_array_equal(shown(sat.desk), ADAPTED)
    assert state["earlier_active_s"] >= worked_s > 0  # the clock goes on
    sat.follow()
    sat.desk.take(sat.window.value())
    assert not sat.desk.state()["fresh"]


# -- clicks ---------------------------------------------------------------------------------------


def test_margin_points_give_a_contour_on_their_slice_and_clicks_correct_it(clicked) -> None:
    sat = sit(clicked, CLICKED_CASE)
    answer = sat.prompt("segment", MARGIN)
    assert (answer["sitting"], answer["sequence"], answer["message"]) == ("a" * 16, 1, None)
    first = sat.window.target
    assert dice(first[CLICKED_Z], REFERENCE[CLICKED_Z]) > 0.85
    assert not np.delete(first, CLICKED_Z, axis=0).any()
    sat.prompt("refine", [], [[7, 36, 38]])
    assert not sat.window.target[7, 36, 38]
    assert first[7, 36, 38]
    assert sat.desk.state()["revision"] == 2


def test_clicks_that_make_no_sense_are_answered_in_words_and_change_nothing(clicked) -> None:
    sat = sit(clicked, CLICKED_CASE)
    both = [[7, 45, 38]]
    answer = sat.prompt("refine", both, both)
    assert answer["target"] is None
    assert answer["message"]
    assert sat.desk.refused is None
    assert not sat.window.target.any()
    assert refusals(clicked) == []
    sat.prompt("segment", MARGIN)  # and it goes on
    assert sat.window.target.any()


def test_clicks_correct_what_a_hand_drew(clicked) -> None:
    sat = sit(clicked, CLICKED_CASE)
    sat.prompt("segment", MARGIN)
    sat.window.target[CLICKED_Z, :20] = True  # a brush, far away
    sat.prompt("refine", [], [[7, 36, 38]])
    assert sat.window.target[CLICKED_Z, :20].mean() > 0.9
    assert not sat.window.target[7, 36, 38]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_contour_by_clicks_is_semiautomatic_also_after_a_restart(clicked, restarted) -> None:
    sat = sit(clicked, CLICKED_CASE)
    sat.prompt("segment", MARGIN)
    if restarted:  # a new server knows nothing but what is stored
        sat.desk = open_desk(clicked, CLICKED_CASE)
    sat.save(CLICKED_Z)
    done = task(clicked, CLICKED_CASE, CLICKED_Z)
    assert Provenance(done.provenance) is Provenance.SEMIAUTOMATIC
    np.testing.assert_array_equal(clicked.task_mask(done), sat.window.target[CLICKED_Z])
    assert click_sessions(clicked) == [("finished", 4)]


def test_clicks_go_on_where_a_killed_server_left_them(clicked) -> None:
    sat = sit(clicked, CLICKED_CASE)
    sat.prompt("segment", MARGIN)
    sat.desk = open_desk(clicked, CLICKED_CASE)
    sat.prompt("refine", [], [[7, 36, 38]])
    sat.save(CLICKED_Z)
    assert click_sessions(clicked) == [("finished", 5)]


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_drawn_after_clicks_were_discarded_is_manual(clicked, restarted) -> None:
    sat = sit(clicked, CLICKED_CASE)
    sat.prompt("segment", MARGIN)
    if restarted:
        sat.desk = open_desk(clicked, CLICKED_CASE)
    sat.desk.discard()
    sat.follow()
    sat.window.target[:] = False
    sat.window.target[CLICKED_Z, 40:50, 30:40] = True
    sat.save(CLICKED_Z)
    assert task(clicked, CLICKED_CASE, CLICKED_Z).provenance == "manual"
    assert click_sessions(clicked) == [("finished", 4)]  # the clicks stay on record


def test_clicks_in_a_review_change_the_whole_volume(reviewing) -> None:
    sat = sit(reviewing, UNREVIEWED_CASE)
    away = np.argwhere(REFERENCE & ~ADAPTED)[0].tolist()
    sat.prompt("refine", [away])
    assert sat.window.target[tuple(away)]
    assert dice(sat.window.target, ADAPTED) > 0.5
    sat.desk = open_desk(reviewing, UNREVIEWED_CASE)
    sat.end("accept")
    assert review_of(reviewing, UNREVIEWED_CASE).verdict == "revised"
    assert click_sessions(reviewing) == [("finished", 1)]


def test_an_image_that_is_gone_is_said_and_drawing_goes_on(clicked) -> None:
    sat = sit(clicked, CLICKED_CASE)
    (clicked.home.cases / CLICKED_CASE / "image.npy").unlink()
    assert "cannot be read" in sat.prompt("segment", MARGIN)["message"]
    sat.window.target[CLICKED_Z, 40:50, 30:40] = True
    sat.save(CLICKED_Z)
    assert sat.desk.stored["kind"] == "save"


# -- ending a review ------------------------------------------------------------------------------


def test_the_masks_decide_whether_a_contour_was_accepted_or_revised(reviewing) -> None:
    sat = sit(reviewing, UNREVIEWED_CASE)
    sat.end("accept", likert=5)
    found = review_of(reviewing, UNREVIEWED_CASE)
    assert (found.verdict, found.likert, found.author) == ("accepted", 5, DR_A)
    assert found.revision_degree_percent == 0

    sat = sit(reviewing, UNREVIEWED_CASE, DR_B, sitting="b")
    sat.window.target[:] = REFERENCE
    sat.end("accept", likert=2)
    found = review_of(reviewing, UNREVIEWED_CASE)
    assert (found.verdict, found.likert, found.author) == ("revised", 2, DR_B)
    assert found.revision_degree_percent == revision_degree_percent(ADAPTED, REFERENCE)
    assert sat.desk.draft is None
    assert sat.desk.page_is_behind


def test_a_rejected_contour_has_a_reason_and_no_successor(reviewing) -> None:
    sat = sit(reviewing, UNREVIEWED_CASE)
    sat.end("reject", likert=1)
    assert "reason" in sat.desk.refused["message"]
    assert sat.desk.draft is not None
    sat.end("reject", likert=1, reason="missed_target")
    found = review_of(reviewing, UNREVIEWED_CASE)
    assert (found.verdict, found.reason, found.likert) == ("rejected", "missed_target", 1)
    round_id = reviewing.latest_round().round_id
    assert reviewing.contour(UNREVIEWED_CASE, purpose="reviewed", round_id=round_id) is None


def test_a_second_revision_begins_with_the_first_one(reviewing) -> None:
    sat = sit(reviewing, REVIEWED_CASE)
    np.testing.assert_array_equal(sat.window.target, REFERENCE)


# -- others ---------------------------------------------------------------------------------------


def test_a_case_that_somebody_else_has_cannot_be_begun(annotated) -> None:
    sit(annotated, doctors_site.ANNOTATED, DR_B)
    with pytest.raises(DataError, match=DR_B):
        sit(annotated, doctors_site.ANNOTATED, DR_A)


def test_a_claim_lost_while_drawing_is_said_and_the_draft_waits(annotated) -> None:
    case_id = doctors_site.ANNOTATED
    sat = sit(annotated, case_id)
    sat.window.target[2] = TUMOUR[2]
    sat.desk.take(sat.window.value())
    sat.follow()
    claims.release(annotated, sat.desk.key, author=DR_B, force=True)
    other = sit(annotated, case_id, DR_B, sitting="b")
    assert not other.window.target.any()  # a draft of one's own

    sat.window.target[4] = TUMOUR[4]
    sat.desk.take(sat.window.value())
    assert DR_B in sat.desk.refused["message"]
    assert sat.desk.page_is_behind
    sat.desk.page_is_behind = False
    sat.save(2)
    assert DR_B in sat.desk.refused["message"]
    assert task(annotated, case_id, 2).state == "open"
    with pytest.raises(DataError, match=DR_B):
        sat.desk.discard()

    claims.release(annotated, sat.desk.key, author=DR_B)
    sat.desk.begin()
    assert sat.desk.state()["epoch"] == sat.window.epoch  # the viewer keeps what it has
    sat.desk.take(sat.window.value())
    np.testing.assert_array_equal(shown(sat.desk), sat.window.target)


def test_work_saved_in_another_window_is_noticed(reviewing) -> None:
    sat = sit(reviewing, UNREVIEWED_CASE)
    assert sat.desk.is_current
    other = sit(reviewing, UNREVIEWED_CASE, sitting="b")
    other.end("accept")
    assert not sat.desk.is_current
    sat.desk.take(sat.window.value())
    assert "claim it again" in sat.desk.refused["message"]
    assert not open_desk(reviewing, REVIEWED_CASE).is_current  # nothing is begun


def test_an_older_window_is_shown_what_the_newer_one_drew(annotated) -> None:
    case_id = doctors_site.ANNOTATED
    older = sit(annotated, case_id)
    older.window.target[2] = TUMOUR[2]
    older.desk.take(older.window.value())
    newer = sit(annotated, case_id, sitting="b")
    newer.window.target[4] = TUMOUR[4]
    newer.desk.take(newer.window.value())

    for send, more in ((older.desk.take, {}), (older.desk.save, {"slices": [5]})):
        older.window.target[5] = TUMOUR[5]
        send(older.window.value(**more))
        assert "another window" in older.desk.refused["message"]
        np.testing.assert_array_equal(shown(older.desk), newer.window.target)
        assert older.desk.state()["revision"] == newer.desk.state()["revision"]
    # Reloaded, it may go on from there.
    reloaded = Window(older.desk.draft, older.desk.shape_zyx, "c")
    reloaded.target[5] = TUMOUR[5]
    older.desk.take(reloaded.value())
    assert older.desk.refused is None
    np.testing.assert_array_equal(shown(open_desk(annotated, case_id)), reloaded.target)


def test_an_erased_case_takes_nothing_any_more(reviewing) -> None:
    sat = sit(reviewing, UNREVIEWED_CASE)
    erase(reviewing.home, reviewing, [PATIENTS[4]], actor="it")
    sat.desk.take(sat.window.value())
    assert sat.desk.refused is not None
    sat.end("accept")
    assert sat.desk.refused is not None
    assert sat.desk.page_is_behind


def test_who_was_signed_out_is_told_so_and_nothing_is_taken(annotated) -> None:
    sat = sit(annotated, doctors_site.ANNOTATED)
    value = sat.window.value()
    sat.desk.turn_away(value, DataError("sign in again"))
    assert sat.desk.refused == {
        "sitting": "a" * 16,
        "sequence": 1,
        "message": "sign in again",
        "again": True,
    }
    assert sat.desk.stored is None
    assert drafts.restore(annotated, sat.desk.key, author=DR_A).revision == 0

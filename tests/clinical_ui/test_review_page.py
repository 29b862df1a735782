"""The review page: who sees what, from looking at a case to the verdict, and what goes wrong."""

import numpy as np
import pytest
import streamlit as st
from sqlalchemy.orm import Session

from clinical_ui import wording
from clinical_ui.case_layers import Layer
from clinical_ui.desk import NO_EPOCH
from site_agent import claims, drafts
from site_agent.blinded_reading import next_to_read, record, start
from site_agent.blinded_results import unseal
from site_agent.claims import WorkKey
from site_agent.database import PackageRow, transaction, utc_now
from site_agent.erasure import erase
from tests.clinical_ui.people import DISPLAY_NAMES, EVERYTHING
from tests.clinical_ui.run_length_text import decode
from tests.clinical_ui.synthetic_site import (
    ADAPTED,
    CASES,
    GEOMETRY,
    PATIENTS,
    REFERENCE,
    REVIEWED_CASE,
    UNREVIEWED_CASE,
    make_site,
)
from tests.clinical_ui.viewer_in_page import has_viewer, image, send, told
from tests.site_agent.viewer_window import Window

SHAPE = GEOMETRY.shape_zyx
NAME = DISPLAY_NAMES[EVERYTHING]


def html(page) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def texts(page) -> str:
    kinds = (page.markdown, page.info, page.warning, page.error, page.caption)
    return "\n".join(element.value for kind in kinds for element in kind)


def labels(page) -> list[str]:
    return [button.label for button in page.button]


def press(page, label: str):
    return next(button for button in page.button if button.label == label).click().run()


def layers(page) -> dict[str, bool]:
    """Return the contours that the viewer can show, and whether they are switched on."""
    return {layer["key"]: layer["shown"] for layer in told(page)["layers"]}


def mask(page, layer: Layer) -> np.ndarray:
    (runs,) = (one["mask"] for one in told(page)["layers"] if one["key"] == layer)
    return decode(runs, SHAPE)


def key(store, case_id: str = UNREVIEWED_CASE) -> WorkKey:
    return WorkKey(store.latest_round().round_id, case_id, "review")


def window(store, case_id: str = UNREVIEWED_CASE) -> Window:
    return Window(drafts.restore(store, key(store, case_id), author=EVERYTHING), SHAPE)


def verdict(window: Window, how: str = "accept", reason: str = "") -> dict:
    return window.value(slices=[], verdict=how, likert=4, reason=reason)


# -- looking --------------------------------------------------------------------------------------


def test_a_reviewed_case_shows_model_and_reviewer(site, run_page):
    page = run_page(site, "review", case=REVIEWED_CASE)
    assert not page.exception
    assert layers(page) == {"direct": False, "adapted": True, "reviewed": True}
    np.testing.assert_array_equal(mask(page, Layer.ADAPTED), ADAPTED)
    np.testing.assert_array_equal(mask(page, Layer.REVIEWED), REFERENCE)
    by = wording.verbatim(wording.SIMULATED)
    assert f"✎ revised by {by}, 12.5 % (>10-15 %). Not signed." in texts(page)
    shown = html(page)
    assert "12.5 % (&gt;10-15 %)" in shown
    assert PATIENTS[3] in shown
    assert wording.SIMULATED_NOTICE in texts(page)


def test_looking_changes_nothing_and_is_read_only(site, run_page):
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    data = told(page)
    assert (data["mode"], data["epoch"], data["prompts"]) == ("view", NO_EPOCH, None)
    assert (data["verdict"], data["compare"]) == (None, "adapted")
    assert len(image(page)) > 1000
    assert drafts.restore(site, key(site), author=EVERYTHING) is None
    assert claims.holders(site, key(site).round_id) == {}


def test_volumes_are_in_ml_and_that_of_a_hidden_reference_is_not_told(site, run_page):
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    voxel_ml = 4.0 * 1.0 * 1.25 / 1000
    assert f"{ADAPTED.sum() * voxel_ml:.1f} ml" in html(page)
    assert f"{REFERENCE.sum() * voxel_ml:.1f} ml" not in html(page)


def test_a_case_opens_at_its_contour_or_where_the_address_says(site, run_page):
    widest = int(ADAPTED.sum(axis=(1, 2)).argmax())
    assert told(run_page(site, "review", case=UNREVIEWED_CASE))["slice"] == widest
    assert told(run_page(site, "review", case=UNREVIEWED_CASE, slice="3"))["slice"] == 2


@pytest.mark.parametrize("query", [{"case": "case-ffffffffffff"}, {"slice": "x"}, {"slice": "²"}])
def test_a_wrong_address_shows_a_case_all_the_same(site, run_page, query):
    page = run_page(site, "review", **query)
    assert not page.exception
    assert page.selectbox[0].value == CASES[0]


def test_another_case_is_one_choice_away(site, run_page):
    page = run_page(site, "review", case=REVIEWED_CASE)
    page.selectbox[0].set_value(UNREVIEWED_CASE).run()
    assert told(page)["title"] == UNREVIEWED_CASE
    assert page.query_params["case"] in (UNREVIEWED_CASE, [UNREVIEWED_CASE])


def test_annotated_slices_of_a_training_case_are_shown(site, run_page):
    page = run_page(site, "review", case=CASES[0])
    drawn = mask(page, Layer.ANNOTATION)
    assert np.flatnonzero(drawn.any(axis=(1, 2))).tolist() == [3, 6]
    np.testing.assert_array_equal(drawn[6], REFERENCE[6])
    assert wording.NOT_SEGMENTED in texts(page)
    assert labels(page) == []  # nothing to review here


def test_an_annotator_may_look_and_do_nothing(site, run_page):
    page = run_page(site, "review", username="annotator", case=UNREVIEWED_CASE)
    assert told(page)["mode"] == "view"
    assert labels(page) == []


def test_a_site_without_a_round_shows_its_cases(site, run_page, monkeypatch):
    monkeypatch.setattr(type(site), "latest_round", lambda self: None)
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert not page.exception
    assert layers(page) == {}


def test_the_reference_is_shown_where_it_is_worked_with_and_sent_nowhere_else(site, run_page):
    assert "reference" not in layers(run_page(site, "review", case=UNREVIEWED_CASE))
    settings = site.home.folder / "site.toml"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace('role = "target"', 'role = "source"'), "utf-8")
    st.cache_resource.clear()
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert layers(page)["reference"] is True
    np.testing.assert_array_equal(mask(page, Layer.REFERENCE), REFERENCE)


def test_markup_in_a_scanner_name_stays_text(site, run_page):
    page = run_page(site, "review", case=REVIEWED_CASE)
    assert "Example &lt;MR&gt; One" in html(page)
    assert "<MR>" not in html(page)


# -- reviewing ------------------------------------------------------------------------------------


def test_a_review_from_its_start_to_the_verdict(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    data = told(page)
    assert (data["mode"], data["prompts"], data["revision"]) == ("contour", "3d", 0)
    assert [reason for reason, _ in data["verdict"]["reasons"]] == [
        r for r, _ in wording.REJECTIONS
    ]
    np.testing.assert_array_equal(decode(data["target"], SHAPE), ADAPTED)
    assert "reviewed" not in layers(page)  # it is what is being drawn
    assert labels(page) == [wording.THROW_AWAY, "Release"]

    at_work = window(site)
    at_work.target[:] = REFERENCE
    send(page, "draft", at_work.value())
    assert told(page)["stored"]["kind"] == "draft"
    at_work.revision = told(page)["revision"]
    send(page, "save", verdict(at_work))
    assert told(page)["stored"]["kind"] == "save"  # the viewer is told, though the work is over
    assert told(page)["mode"] == "view"
    assert f"✎ revised by {NAME}" in texts(page)
    assert f"revised by {NAME}" in html(page)
    assert labels(page) == ["Sign", "Revise again"]
    np.testing.assert_array_equal(mask(page, Layer.REVIEWED), REFERENCE)


def test_a_rejected_contour_is_named_with_its_reason_and_cannot_be_signed(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    send(page, "save", verdict(window(site), "reject", "missed_target"))
    assert f"✕ rejected by {NAME}: the tumour was missed." in texts(page)
    assert labels(page) == ["Revise again"]


def test_a_rejection_voids_the_contour_of_an_earlier_review(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    at_work.target[:] = REFERENCE
    send(page, "save", verdict(at_work))
    press(page, "Revise again")
    send(page, "save", verdict(window(site), "reject", "needs_redrawing"))
    assert labels(page) == ["Revise again"]
    assert "reviewed" not in layers(page)
    press(page, "Revise again")
    np.testing.assert_array_equal(decode(told(page)["target"], SHAPE), ADAPTED)


def test_a_revision_goes_on_after_the_browser_was_closed(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    at_work.target[:] = REFERENCE
    send(page, "draft", at_work.value())
    again = run_page(site, "review", case=UNREVIEWED_CASE)
    assert told(again)["mode"] == "contour"
    assert told(again)["epoch"] == at_work.epoch
    np.testing.assert_array_equal(decode(told(again)["target"], SHAPE), REFERENCE)


def test_begin_anew_goes_back_to_the_model(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    at_work.target[:] = False
    send(page, "draft", at_work.value())
    press(page, wording.THROW_AWAY)
    assert told(page)["fresh"]
    np.testing.assert_array_equal(decode(told(page)["target"], SHAPE), ADAPTED)


def test_a_released_case_waits_with_its_draft(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    press(page, "Release")
    assert claims.holders(site, key(site).round_id) == {}
    assert told(page)["mode"] == "view"
    assert labels(page) == ["Go on"]
    assert told(press(page, "Go on"))["mode"] == "contour"


def test_a_claim_from_the_worklist_does_not_start_the_clock(site, run_page):
    claims.claim(site, key(site), author=EVERYTHING)
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert told(page)["mode"] == "view"
    assert "the clock starts with it" in texts(page)
    assert told(press(page, "Start revision"))["mode"] == "contour"


# -- others and accidents -------------------------------------------------------------------------


def test_a_case_that_somebody_else_has_can_be_looked_at(site, run_page):
    claims.claim(site, key(site), author="dr-beta")
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert "dr-beta works on it" in texts(page)
    assert next(b for b in page.button if b.label == "Start revision").disabled
    assert told(page)["mode"] == "view"


def test_who_works_on_a_case_is_named_as_colleagues_know_the_person(site, run_page):
    claims.claim(site, key(site), author="reviewer")
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert "◆ Dr Rita Reviewer works on it." in texts(page)
    claims.release(site, key(site), author="reviewer")
    page.run()
    claims.claim(site, key(site), author="reviewer")
    press(page, "Start revision")
    assert f"{UNREVIEWED_CASE}: Dr Rita Reviewer works on it: take" in page.toast[0].value


def test_a_case_that_was_taken_since_the_page_was_drawn_stays_theirs(site, run_page):
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    claims.claim(site, key(site), author="dr-beta")
    press(page, "Start revision")
    assert "dr-beta works on it" in page.toast[0].value
    assert told(page)["mode"] == "view"


def test_a_claim_lost_while_drawing_is_said_on_the_page(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    claims.release(site, key(site), author="dr-beta", force=True)
    claims.claim(site, key(site), author="dr-beta")
    send(page, "draft", at_work.value())
    assert not page.exception
    assert "dr-beta works on it" in page.toast[0].value
    assert told(page)["mode"] == "view"
    assert told(page)["epoch"] == at_work.epoch  # the viewer keeps what was drawn


def test_work_saved_in_another_window_is_not_gone_on_with(site, run_page):
    first = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    second = run_page(site, "review", case=UNREVIEWED_CASE)
    at_work = window(site)
    at_work.target[:] = REFERENCE
    send(second, "save", verdict(at_work))
    first.run()
    assert f"revised by {NAME}" in texts(first)
    np.testing.assert_array_equal(
        decode(told(press(first, "Revise again"))["target"], SHAPE), REFERENCE
    )


def test_a_new_round_takes_the_page_over(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    other = "cd" * 32
    with transaction(site.engine) as session:
        session.add(
            PackageRow(
                package_id=other,
                model_version="3.0.0",
                signed_by="0" * 16,
                state="approved",
                received_at=utc_now(),
            )
        )
    site.start_round(other, seed=0)
    page.run()
    assert not page.exception
    assert told(page)["mode"] == "view"
    assert wording.NOT_SEGMENTED in texts(page)


def test_an_erased_case_gives_way_to_another(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    erase(site.home, site, [PATIENTS[4]], actor="it")
    send(page, "draft", at_work.value())
    assert not page.exception
    assert told(page)["title"] == CASES[0]
    assert page.toast


def test_a_missing_image_is_a_sentence(site, run_page):
    (site.home.cases / REVIEWED_CASE / "image.npy").unlink()
    page = run_page(site, "review", case=REVIEWED_CASE)
    assert not page.exception
    assert wording.NO_IMAGE in texts(page)
    assert "12.5 %" in html(page)
    assert not has_viewer(page)
    assert "Revise again" in labels(page)
    assert next(one for one in page.button if one.label == "Revise again").disabled


def test_without_its_image_no_clock_is_said_to_run(site, run_page):
    press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    (site.home.cases / UNREVIEWED_CASE / "image.npy").unlink()
    st.cache_resource.clear()
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert wording.YOURS_WITHOUT_IMAGE in texts(page)
    assert "the clock runs" not in texts(page)
    assert "Release" in labels(page)


def test_a_missing_contour_is_named_and_the_rest_is_shown(site, run_page):
    for file in (site.home.cases / UNREVIEWED_CASE).glob("mask-*.npy"):
        file.unlink()
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert not page.exception
    assert "Cannot be read, ask hospital IT: AI direct, AI adapted" in texts(page)
    assert "The model's contour cannot be read." in texts(page)
    assert layers(page) == {}
    assert labels(page) == []


@pytest.mark.parametrize("lost", ["what was drawn", "what it began from"])
def test_what_cannot_be_read_of_a_draft_is_thrown_away_and_begun_anew(site, run_page, lost):
    before = set((site.home.cases / UNREVIEWED_CASE).glob("mask-*.npy"))
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    at_work.target[2, :9] = True
    if lost == "what was drawn":
        before = set((site.home.cases / UNREVIEWED_CASE).glob("mask-*.npy"))
    send(page, "draft", at_work.value())
    for drawn in set((site.home.cases / UNREVIEWED_CASE).glob("mask-*.npy")) - before:
        drawn.write_bytes(b"damaged")
    again = run_page(site, "review", case=UNREVIEWED_CASE)
    assert not again.exception
    assert wording.NO_DRAFT in texts(again)
    press(again, wording.THROW_AWAY)
    assert not again.exception
    assert told(again)["mode"] == "contour"
    draft = drafts.restore(site, key(site), author=EVERYTHING)
    assert (draft.target == draft.start).all()
    at_work = window(site)
    at_work.target[2, :9] = True
    send(again, "draft", at_work.value())
    assert (drafts.restore(site, key(site), author=EVERYTHING).target == at_work.target).all()


def test_what_cannot_be_read_is_not_thrown_away_while_somebody_else_has_the_case(site, run_page):
    press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    claims.release(site, key(site), author=EVERYTHING)
    claims.claim(site, key(site), author="reviewer")
    with Session(site.engine) as session:
        file = drafts.find(session, key(site), EVERYTHING).file
    (site.home.folder / file).unlink()
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    assert wording.NO_DRAFT in texts(page)
    assert labels(page) == []


def test_an_empty_site_says_what_to_do(tmp_path, run_page):
    store = make_site(tmp_path / "home", reviewed=False)
    erase(store.home, store, PATIENTS, actor="it")
    page = run_page(store, "review")
    assert not page.exception
    assert wording.NO_CASES in texts(page)


def test_a_case_claimed_in_the_worklist_can_be_released_here(site, run_page):
    claims.claim(site, key(site), author=EVERYTHING)
    page = run_page(site, "review", case=UNREVIEWED_CASE)
    press(page, "Release")
    assert claims.holders(site, key(site).round_id) == {}
    assert "○ To review." in texts(page)


# -- a blinded reading under way ------------------------------------------------------------------


def blind(store, reader: str = EVERYTHING) -> None:
    """Start a blinded reading of the case that the model and the reference have contours of."""
    arms = ("adapted", "reference")
    start(store, reading="r1", reader=reader, seed=1, arms=arms, actor="lead", now=utc_now())


def read_on(store) -> None:
    """Judge the next contour of the reading."""
    row = next_to_read(store, "r1", reader=EVERYTHING)
    said = {"likert": 4, "verdict": "minor changes", "active_s": None, "wall_s": None}
    record(store, row, reader=EVERYTHING, now=utc_now(), **said)


def test_while_somebody_reads_blinded_the_page_shows_them_nothing_of_the_case(site, run_page):
    blind(site)
    page = run_page(site, "review", case=REVIEWED_CASE)
    assert not page.exception
    assert wording.BLINDED in texts(page)
    assert labels(page) == ["Blinded reading"]
    assert not has_viewer(page)
    everything = "\n".join(str(node.proto) for node in page.main if node.proto is not None)
    for hidden in (wording.SIMULATED, "12.5", PATIENTS[3], "accepted", "revised", "ml"):
        assert hidden not in everything
    assert has_viewer(run_page(site, "review", username="reviewer", case=REVIEWED_CASE))
    assert has_viewer(run_page(site, "review", case=CASES[0]))  # no case of the reading


def test_while_somebody_reads_blinded_the_study_page_names_no_case_they_judge(site, run_page):
    def reviews(**who):
        tables = [node.value for node in run_page(site, "study", **who).dataframe]
        return next(one for one in tables if "Revision degree" in one.columns)

    assert REVIEWED_CASE in reviews()["Case"].tolist()
    blind(site)
    hidden = reviews()[["Case", "Reviewed", "Reviewer", "Said"]]
    assert set(hidden.to_numpy().ravel()) == {"blinded"}
    assert REVIEWED_CASE in reviews(username="reviewer")["Case"].tolist()


@pytest.mark.parametrize("how", ["judged", "stopped"])
def test_when_the_reading_is_over_the_case_shows_again(site, run_page, how):
    blind(site)
    read_on(site)
    assert not has_viewer(run_page(site, "review", case=REVIEWED_CASE))
    assert not has_viewer(run_page(site, "review", case=UNREVIEWED_CASE))
    if how == "judged":
        read_on(site)
    else:
        unseal(site, "r1", stop=True, actor="lead", now=utc_now())
    for case_id in (REVIEWED_CASE, UNREVIEWED_CASE):
        assert has_viewer(run_page(site, "review", case=case_id))


def test_a_review_under_way_takes_nothing_more_when_a_reading_begins(site, run_page):
    page = press(run_page(site, "review", case=UNREVIEWED_CASE), "Start revision")
    at_work = window(site)
    blind(site)
    at_work.target[:] = REFERENCE
    send(page, "draft", at_work.value())
    assert not page.exception
    assert not has_viewer(page)
    assert wording.BLINDED in texts(page)
    kept = drafts.restore(site, key(site), author=EVERYTHING)
    np.testing.assert_array_equal(kept.target, ADAPTED)

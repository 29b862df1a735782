"""The annotation page: what may be drawn by whom, from the start to the last slice."""

import numpy as np
import pytest
from sqlalchemy.orm import Session

from algorithms.contracts.contour import NOT_ANNOTATED, Provenance
from clinical_ui import wording
from clinical_ui.case_layers import Layer
from clinical_ui.session import SIGN_IN_TOKEN
from site_agent import accounts, claims, drafts, sign_ins
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.database import utc_now
from site_agent.erasure import erase
from tests.clinical_ui.people import DISPLAY_NAMES, EVERYTHING
from tests.clinical_ui.run_length_text import decode
from tests.clinical_ui.synthetic_site import CASES, GEOMETRY, PATIENTS, REFERENCE, make_site
from tests.clinical_ui.viewer_in_page import has_viewer, send, told
from tests.site_agent.viewer_window import Window

SHAPE = GEOMETRY.shape_zyx
BEGUN_CASE, FREE_CASE, FINISHED_CASE = CASES[0], CASES[2], CASES[1]
OPEN_Z, DONE_Z = 3, 6  # of the case that is begun


@pytest.fixture
def annotating(tmp_path) -> CaseStore:
    """Return a site whose doctors contour: two of four slices are done."""
    return make_site(tmp_path / "home", reviewed=False, simulated=False)


def texts(page) -> str:
    kinds = (page.markdown, page.info, page.warning, page.error)
    return "\n".join(element.value for kind in kinds for element in kind)


def labels(page) -> list[str]:
    return [button.label for button in page.button]


def press(page, label: str):
    return next(button for button in page.button if button.label == label).click().run()


def key(store, case_id: str = BEGUN_CASE) -> WorkKey:
    return WorkKey(store.latest_round().round_id, case_id, "annotation")


def window(store, case_id: str = BEGUN_CASE) -> Window:
    return Window(drafts.restore(store, key(store, case_id), author=EVERYTHING), SHAPE)


def shown(run_page, store, case_id: str) -> list[dict]:
    """Return the layers beside what is drawn, the same on both pages."""
    layers, looked = (
        told(run_page(store, page, case=case_id))["layers"] for page in ("annotate", "review")
    )
    assert [one for one in looked if one["key"] in {layer["key"] for layer in layers}] == layers
    return layers


def task(store, case_id: str, z: int):
    tasks = store.tasks(store.latest_round().round_id)
    return next(t for t in tasks if (t.case_id, t.slice_z) == (case_id, z))


def test_the_slices_asked_for_are_named_and_nothing_can_be_drawn_yet(annotating, run_page):
    page = run_page(annotating, "annotate", case=BEGUN_CASE)
    data = told(page)
    assert not page.exception
    assert data["mode"] == "view"
    assert data["slice"] == OPEN_Z
    assert data["selected"] == [
        {"z": OPEN_Z, "done": False, "label": "rank 3, ◆ specific"},
        {"z": DONE_Z, "done": True, "label": "rank 1, ■ invariant"},
    ]
    assert "○ Free: start to draw on it." in texts(page)
    assert page.selectbox[0].options[0] == f"{BEGUN_CASE}  (1 of 2 slices done)"
    assert labels(page) == ["Start"]
    (layer,) = data["layers"]
    saved = decode(layer["mask"], SHAPE)
    np.testing.assert_array_equal(saved[DONE_Z], REFERENCE[DONE_Z])
    assert layer["key"] == Layer.ANNOTATION
    assert not np.delete(saved, DONE_Z, axis=0).any()


def test_a_case_from_its_start_to_its_last_slice(annotating, run_page):
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    data = told(page)
    assert (data["mode"], data["prompts"], data["editable_z"]) == ("contour", "2d", [OPEN_Z])
    assert "only the slices asked for" in texts(page)
    assert claims.holders(annotating, key(annotating).round_id).keys() == {
        (BEGUN_CASE, "annotation")
    }
    at_work = window(annotating)
    at_work.target[OPEN_Z] = REFERENCE[OPEN_Z]
    send(page, "draft", at_work.value())
    assert told(page)["stored"]["kind"] == "draft"
    at_work.revision = told(page)["revision"]
    send(page, "save", at_work.value(slices=[OPEN_Z]))
    assert told(page)["stored"]["kind"] == "save"
    assert told(page)["mode"] == "view"
    assert f"✓ All slices are done, by {DISPLAY_NAMES[EVERYTHING]}, Dr Example." in texts(page)
    assert labels(page) == ["Worklist"]
    assert claims.holders(annotating, key(annotating).round_id) == {}
    np.testing.assert_array_equal(
        annotating.task_mask(task(annotating, BEGUN_CASE, OPEN_Z)), REFERENCE[OPEN_Z]
    )


def test_margin_points_are_answered_on_the_page(annotating, run_page):
    page = press(run_page(annotating, "annotate", case=FREE_CASE), "Start")
    margin = [[7, 35, 38], [7, 55, 38], [7, 45, 31], [7, 45, 46]]
    clicks = {"kind": "segment", "foreground": margin, "background": []}
    send(page, "prompt", window(annotating, FREE_CASE).value(prompt=clicks))
    answer = told(page)["answer"]
    assert (answer["sequence"], answer["message"]) == (1, None)
    assert decode(answer["target"], SHAPE)[7, 45, 38]


def test_what_was_drawn_waits_while_others_may_take_the_case(annotating, run_page):
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    at_work = window(annotating)
    at_work.target[OPEN_Z] = REFERENCE[OPEN_Z]
    send(page, "draft", at_work.value())
    press(page, "Release")
    assert "○ Free; what you drew is kept." in texts(page)
    assert told(page)["mode"] == "view"
    np.testing.assert_array_equal(decode(told(page)["target"], SHAPE), at_work.target)
    press(page, "Go on")
    assert told(page)["mode"] == "contour"
    assert told(page)["epoch"] == at_work.epoch
    press(page, wording.THROW_AWAY)
    assert told(page)["fresh"]
    assert told(page)["target"] is None


def test_a_claim_from_the_worklist_does_not_start_the_clock(annotating, run_page):
    claims.claim(annotating, key(annotating), author=EVERYTHING)
    page = run_page(annotating, "annotate", case=BEGUN_CASE)
    assert told(page)["mode"] == "view"
    assert "the clock starts with it" in texts(page)
    assert labels(page) == ["Start", "Release"]
    assert told(press(page, "Start"))["mode"] == "contour"


def test_a_case_that_somebody_else_has_can_be_looked_at(annotating, run_page):
    page = run_page(annotating, "annotate", case=BEGUN_CASE)
    claims.claim(annotating, key(annotating), author="dr-beta")
    press(page, "Start")
    assert "dr-beta works on it" in page.toast[0].value
    assert told(page)["mode"] == "view"
    assert next(b for b in page.button if b.label == "Start").disabled


def test_who_lost_the_role_draws_nothing_more(annotating, run_page):
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    at_work = window(annotating)
    accounts.set_roles(annotating.engine, EVERYTHING, ["reviewer"], actor="it", now=utc_now())
    send(page, "draft", at_work.value())
    assert "This is for annotators." in page.error[0].value
    assert not has_viewer(page)
    assert drafts.restore(annotating, key(annotating), author=EVERYTHING).revision == 0


def test_a_server_that_cannot_store_says_so_and_the_viewer_keeps_what_it_has(
    annotating, run_page, caplog
):
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    folder = annotating.home.cases / BEGUN_CASE
    at_work = window(annotating)
    at_work.target[OPEN_Z] = REFERENCE[OPEN_Z]
    moved = folder.rename(folder.with_name("away"))
    folder.touch()  # nothing can be written there
    send(page, "draft", at_work.value())
    folder.unlink()
    moved.rename(folder)
    assert not page.exception
    assert "Error: " in caplog.text
    assert told(page)["mode"] == "contour"
    assert told(page)["refused"]["message"] == wording.NOT_STORED
    send(page, "draft", at_work.value())
    assert told(page)["refused"] is None
    assert told(page)["stored"]["kind"] == "draft"


def test_what_is_no_message_is_refused_on_the_page(annotating, run_page):
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    for junk in ("x", 7, [], {"epoch": 1}):
        send(page, "save", junk)
        assert not page.exception
        assert "refused" in told(page)["refused"]["message"]


def test_scribbles_are_drawn_where_they_are_asked_for(annotating, run_page):
    with annotating.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE annotation_tasks SET kind = 'scribble'")
    page = press(run_page(annotating, "annotate", case=FREE_CASE), "Start")
    assert (told(page)["mode"], told(page)["prompts"]) == ("scribble", None)


def test_saved_scribbles_are_bands_inside_and_outside_and_no_contour(annotating, run_page):
    with annotating.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE annotation_tasks SET kind = 'scribble'")
    inside, outside = np.zeros((2, *SHAPE[1:]), bool)
    inside[40:44, 30:33], outside[5:8, 10:50] = True, True
    drawn = np.full(SHAPE[1:], NOT_ANNOTATED)
    drawn[inside], drawn[outside] = 1, 0
    annotating.complete_task_by_scribble(
        task(annotating, FREE_CASE, 7).id,
        drawn,
        author="Dr Example",
        provenance=Provenance.MANUAL,
        active_s=None,
    )
    layers = {layer["key"]: layer for layer in shown(run_page, annotating, FREE_CASE)}
    assert layers.keys() == {Layer.INSIDE, Layer.OUTSIDE}
    assert all(layer["band"] for layer in layers.values())
    for name, told_of in ((Layer.INSIDE, inside), (Layer.OUTSIDE, outside)):
        np.testing.assert_array_equal(decode(layers[name]["mask"], SHAPE)[7], told_of)


def test_a_contour_where_a_scribble_was_asked_for_is_shown_as_a_contour(annotating, run_page):
    with annotating.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE annotation_tasks SET kind = 'scribble'")
    annotating.complete_task(
        task(annotating, FREE_CASE, 7).id,
        REFERENCE[7],
        author="Dr Example",
        provenance=Provenance.MANUAL,
        active_s=None,
    )
    (layer,) = shown(run_page, annotating, FREE_CASE)
    assert (layer["key"], layer["band"]) == (Layer.ANNOTATION, False)


def test_the_simulated_annotator_is_called_that(tmp_path, run_page):
    page = run_page(make_site(tmp_path / "home"), "annotate", case=FINISHED_CASE)
    assert f"by {wording.verbatim(wording.SIMULATED)}." in texts(page)


def test_a_saved_slice_that_is_gone_is_named(annotating, run_page):
    (annotating.home.folder / task(annotating, BEGUN_CASE, DONE_Z).file).unlink()
    page = run_page(annotating, "annotate", case=BEGUN_CASE)
    assert not page.exception
    assert f"Cannot be read, ask hospital IT: slice {DONE_Z + 1}" in texts(page)


def test_a_missing_image_is_a_sentence(annotating, run_page):
    (annotating.home.cases / BEGUN_CASE / "image.npy").unlink()
    page = run_page(annotating, "annotate", case=BEGUN_CASE)
    assert not page.exception
    assert wording.NO_IMAGE in texts(page)
    assert "Start" in labels(page)
    assert next(one for one in page.button if one.label == "Start").disabled


def test_what_cannot_be_read_of_a_draft_is_thrown_away_and_begun_anew(annotating, run_page):
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    at_work = window(annotating)
    at_work.target[OPEN_Z, :9] = True
    send(page, "draft", at_work.value())
    with Session(annotating.engine) as session:
        file = drafts.find(session, key(annotating), EVERYTHING).file
    (annotating.home.folder / file).unlink()
    again = run_page(annotating, "annotate", case=BEGUN_CASE)
    assert wording.NO_DRAFT in texts(again)
    press(again, wording.THROW_AWAY)
    assert not again.exception
    assert told(again)["mode"] == "contour"
    assert drafts.restore(annotating, key(annotating), author=EVERYTHING).target is None


def test_who_signed_out_elsewhere_is_asked_to_sign_in_with_a_sentence(annotating, run_page):
    page = run_page(annotating, "annotate", case=BEGUN_CASE)
    sign_ins.end(annotating.engine, page.session_state[SIGN_IN_TOKEN], now=utc_now())
    press(page, "Start")
    assert [one.value for one in page.title] == ["Sign in"]
    assert "You were signed out: sign in again; drafts are kept." in texts(page)
    assert claims.holders(annotating, annotating.latest_round().round_id) == {}


def test_without_slices_the_page_says_what_comes_next(annotating, run_page):
    erase(annotating.home, annotating, PATIENTS, actor="it")
    page = run_page(annotating, "annotate")
    assert not page.exception
    assert wording.NOTHING_TO_ANNOTATE in texts(page)


def test_a_button_whose_action_fails_leaves_one_line(annotating, run_page):
    """The page's buttons go through `_try`: the error of a store becomes the page's sentence."""
    page = press(run_page(annotating, "annotate", case=BEGUN_CASE), "Start")
    claims.release(annotating, key(annotating), author="dr-beta", force=True)
    press(page, wording.THROW_AWAY)
    assert "claim it again" in page.toast[0].value
    page.run()
    assert not page.toast

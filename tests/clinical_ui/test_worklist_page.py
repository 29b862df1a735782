"""The worklist names every slice and case, who works on it, and opens the next with one click."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from clinical_ui import wording
from clinical_ui.work_items import REVIEW, Show
from site_agent import accounts, claims
from site_agent.blinded_reading import start
from site_agent.claims import WorkKey
from site_agent.database import AuditRow, utc_now
from site_agent.review import record_review
from tests.clinical_ui.people import EVERYTHING
from tests.clinical_ui.synthetic_site import CASES, REVIEWED_CASE, UNREVIEWED_CASE, make_site

FREE_CASE, BEGUN_CASE, FINISHED_CASE = CASES[2], CASES[0], CASES[1]


@pytest.fixture
def annotating(tmp_path):
    """Return a site whose doctors contour: two of four slices are done."""
    return make_site(tmp_path / "home", reviewed=False)


def key(store, case_id: str, purpose: str = "annotation") -> WorkKey:
    return WorkKey(store.latest_round().round_id, case_id, purpose)


def holders(store) -> dict[tuple[str, str], str]:
    held = claims.holders(store, store.latest_round().round_id)
    return {work: row.author for work, row in held.items()}


def texts(page) -> str:
    kinds = (page.markdown, page.info, page.warning, page.error, page.title)
    spoken = [element.value for kind in kinds for element in kind]
    return "\n".join([*spoken, *(element.proto.body for element in page.get("html"))])


def rows(page) -> list[str]:
    """Return the cases listed, from the top."""
    bodies = (element.proto.body for element in page.get("html"))
    return [body.split("<b>")[1].split("</b>")[0] for body in bodies if 'class="work-row"' in body]


def labels(page) -> list[str]:
    return [button.label for button in page.button]


def choose(page, widget: str, choice):
    return page.get("button_group")[["work_section", "work_show"].index(widget)].set_value(choice)


def test_what_is_to_do_is_listed_with_its_reason(annotating, run_page):
    page = run_page(annotating, "worklist")
    assert not page.exception
    assert "The model waits for doctors: please annotate these slices." in texts(page)
    assert rows(page) == [BEGUN_CASE, FREE_CASE]  # ranks 3 and 4; the third case is done
    assert "<b>slice 4</b><i>◆ specific</i><i>no tumour seen</i><i>#3</i>" in texts(page)
    bar = page.get("progress")[0].proto
    assert bar.value == 50
    assert "2 of 4 slices annotated" in bar.text
    assert "11% of the 36 slices of 3 patients" in bar.text
    assert "Left: about 2 min (60 s a slice, assumed until 5 are timed here)." in bar.text


def test_one_click_claims_the_next_case_and_opens_its_most_wanted_slice(annotating, run_page):
    page = run_page(annotating, "worklist")
    page.button(key="open_next").click().run()
    assert not page.exception
    assert page.session_state["open_case"] == BEGUN_CASE
    assert page.session_state["open_slices"] == {BEGUN_CASE: 3}
    assert holders(annotating) == {(BEGUN_CASE, "annotation"): EVERYTHING}


def test_what_i_hold_comes_first_and_can_be_given_back(annotating, run_page):
    claims.claim(annotating, key(annotating, FREE_CASE), author=EVERYTHING)
    page = run_page(annotating, "worklist")
    assert rows(page) == [FREE_CASE, BEGUN_CASE]
    assert "yours since just now" in texts(page)
    assert page.button(key="open_next").label == "Continue"
    page.button(key=f"release_annotation_{FREE_CASE}").click().run()
    assert holders(annotating) == {}
    assert rows(page) == [BEGUN_CASE, FREE_CASE]


def test_what_another_doctor_claims_meanwhile_cannot_be_taken(annotating, run_page):
    page = run_page(annotating, "worklist")
    claims.claim(annotating, key(annotating, BEGUN_CASE), author="dr-beta")
    page.button(key=f"open_annotation_{BEGUN_CASE}").click().run()
    assert not page.exception
    assert "dr-beta" in page.error[0].value
    assert "open_case" not in page.session_state
    assert holders(annotating) == {(BEGUN_CASE, "annotation"): "dr-beta"}
    assert rows(page) == [FREE_CASE, BEGUN_CASE]
    assert f"of {FREE_CASE}" in texts(page)  # the next for me is another one


def test_a_claim_of_somebody_else_is_released_after_a_question_and_on_record(annotating, run_page):
    claims.claim(annotating, key(annotating, BEGUN_CASE), author="dr-beta")
    page = run_page(annotating, "worklist")
    page.button(key=f"ask_annotation_{BEGUN_CASE}").click().run()
    page.button(key=f"leave_annotation_{BEGUN_CASE}").click().run()
    assert holders(annotating) == {(BEGUN_CASE, "annotation"): "dr-beta"}
    page.button(key=f"ask_annotation_{BEGUN_CASE}").click().run()
    page.button(key=f"force_annotation_{BEGUN_CASE}").click().run()
    assert holders(annotating) == {}
    with Session(annotating.engine) as session:
        newest = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc())).first()
    assert (newest.actor, newest.subject) == (EVERYTHING, BEGUN_CASE)


def test_a_role_that_is_gone_takes_nothing_any_more(annotating, run_page):
    claims.claim(annotating, key(annotating, BEGUN_CASE), author="dr-beta")
    page = run_page(annotating, "worklist")
    page.button(key=f"ask_annotation_{BEGUN_CASE}").click().run()
    accounts.set_roles(annotating.engine, EVERYTHING, ["reviewer"], actor="it", now=utc_now())
    page.button(key=f"force_annotation_{BEGUN_CASE}").click().run()
    assert "Hospital IT can give an account more roles" in page.error[0].value
    assert holders(annotating) == {(BEGUN_CASE, "annotation"): "dr-beta"}


@pytest.mark.parametrize(
    ("username", "offered"),
    [
        ("annotator", ["Open next", "Open", "Claim", "Look"]),
        ("reviewer", ["Look", "Look"]),
        ("it", ["Release …"]),
        ("lead", ["Release …"]),
    ],
)
def test_everybody_is_offered_what_the_role_may_do(annotating, run_page, username, offered):
    claims.claim(annotating, key(annotating, BEGUN_CASE), author="dr-beta")
    page = run_page(annotating, "worklist", username=username)
    assert labels(page) == offered


def test_filters_narrow_the_list(annotating, run_page):
    page = run_page(annotating, "worklist")
    choose(page, "work_show", Show.DONE).run()
    assert rows(page) == [FINISHED_CASE]
    assert labels(page)[-1] == "Look"
    choose(page, "work_show", Show.ALL).run()
    page.text_input(key="work_text").set_value(FREE_CASE).run()
    assert rows(page) == [FREE_CASE]
    page.text_input(key="work_text").set_value("").run()
    page.selectbox(key="work_reason").set_value("domain_specific").run()
    assert rows(page) == [BEGUN_CASE, FINISHED_CASE]
    choose(page, "work_show", Show.MINE).run()
    assert rows(page) == []
    assert "Nothing here matches" in texts(page)


def test_cases_to_review_show_state_and_revision(site, run_page):
    page = run_page(site, "worklist")  # review comes first: it is wanted now
    assert not page.exception
    assert rows(page) == [UNREVIEWED_CASE]
    assert "○ to review" in texts(page)
    assert page.get("progress")[0].proto.text.startswith("1 of 2 cases reviewed.")
    choose(page, "work_show", Show.DONE).run()
    assert rows(page) == [REVIEWED_CASE]
    assert "✎ revised, revision degree 12.5 % (&gt;10-15 %)" in texts(page)
    assert wording.SIMULATED in texts(page)


def test_what_the_computer_has_not_contoured_waits_for_nobody(annotating, run_page):
    page = run_page(annotating, "worklist")
    choose(page, "work_section", REVIEW).run()
    said = page.get("progress")[0].proto.text
    assert said == "0 of 2 cases reviewed. Not contoured by the computer yet: 2."
    assert "the computer comes first" in texts(page)


def test_reviews_are_claimed_apart_from_annotations(site, run_page):
    page = run_page(site, "worklist")
    page.button(key=f"claim_review_{UNREVIEWED_CASE}").click().run()
    assert holders(site) == {(UNREVIEWED_CASE, "review"): EVERYTHING}
    assert "open_case" not in page.session_state
    page.button(key=f"open_review_{UNREVIEWED_CASE}").click().run()
    assert page.session_state["open_case"] == UNREVIEWED_CASE


def test_people_are_not_called_simulated(tmp_path, run_page):
    page = run_page(make_site(tmp_path / "home", simulated=False), "worklist")
    choose(page, "work_show", Show.DONE).run()
    assert "by Dr Example · not signed" in texts(page)
    assert "simulated" not in texts(page)


def test_what_i_reviewed_is_opened_to_be_signed(site, run_page):
    for case_id in (REVIEWED_CASE, UNREVIEWED_CASE):
        model = site.contour(case_id, purpose="adapted", round_id=site.latest_round().round_id)
        record_review(
            site,
            site.latest_round().round_id,
            case_id,
            model.mask,
            author=EVERYTHING,
            simulated=False,
        )
    page = run_page(site, "worklist")
    assert "Next for you: sign the contour of" in texts(page)
    assert texts(page).count("waits for your signature") == 2
    assert page.get("progress")[0].proto.text.startswith("2 of 2 cases reviewed.")
    page.button(key="open_next").click().run()
    assert page.session_state["open_case"] in (REVIEWED_CASE, UNREVIEWED_CASE)
    assert holders(site) == {}
    other = run_page(site, "worklist", username="reviewer")
    assert "Nothing waits for you" in texts(other)


def test_a_review_begun_again_is_opened_again(site, run_page):
    claims.claim(site, key(site, REVIEWED_CASE, "review"), author=EVERYTHING)
    page = run_page(site, "worklist")
    assert rows(page) == [REVIEWED_CASE, UNREVIEWED_CASE]
    page.button(key=f"open_review_{REVIEWED_CASE}").click().run()
    assert page.session_state["open_case"] == REVIEWED_CASE


def test_an_empty_site_says_what_to_do(tmp_path, run_page):
    from site_agent.case_store import CaseStore
    from site_agent.config import open_home
    from site_agent.site_setup import initialise

    initialise(tmp_path / "new", name="new", study="s", role="target", trusted_keys=[])
    page = run_page(CaseStore(open_home(tmp_path / "new")), "worklist")
    assert not page.exception
    assert "fedgtv-site ingest" in texts(page)


def test_while_somebody_reads_blinded_their_list_tells_nothing_of_those_cases(site, run_page):
    claims.claim(site, key(site, UNREVIEWED_CASE, "review"), author="reviewer")
    arms = ("adapted", "reference")
    begun = {"seed": 1, "arms": arms, "actor": "lead", "now": utc_now()}
    start(site, reading="r1", reader=EVERYTHING, **begun)
    page = run_page(site, "worklist")
    choose(page, "work_show", Show.ALL).run()
    assert not page.exception
    assert sorted(rows(page)) == sorted([REVIEWED_CASE, UNREVIEWED_CASE])
    told = texts(page)
    assert told.count("in your blinded reading") == 2
    for hidden in ("revised", "12.5", "Rita", f"by {wording.SIMULATED}"):
        assert hidden not in told
    assert "Look" not in labels(page)
    assert "Next for you: your blinded reading" in told
    assert "Blinded reading" in labels(page)
    assert page.get("progress")[0].proto.text == wording.BLINDED_LEFT_OUT
    others = run_page(site, "worklist", username="reviewer")
    choose(others, "work_show", Show.ALL).run()
    assert "12.5" in texts(others)

"""The worklist names every slice and case, and who did what."""

from clinical_ui import wording
from tests.clinical_ui.synthetic_site import CASES, REVIEWED_CASE, UNREVIEWED_CASE, make_site


def texts(page) -> str:
    kinds = (page.markdown, page.info, page.warning, page.caption, page.title, page.subheader)
    return "\n".join(element.value for kind in kinds for element in kind)


def test_slices_to_contour_stand_in_order_of_rank(tmp_path, run_page):
    page = run_page(make_site(tmp_path / "home", reviewed=False), "worklist")
    assert not page.exception
    table = page.dataframe[0].value
    assert table["Rank"].tolist() == [1, 2, 3, 4]
    assert table["Case"].tolist() == [CASES[0], CASES[1], CASES[0], CASES[2]]
    assert table["Slice"].tolist() == ["7 / 12", "6 / 12", "4 / 12", "8 / 12"]
    assert table["Why this slice"].tolist()[:2] == [
        "domain-invariant: typical of the source",
        "domain-specific: new at this hospital",
    ]
    assert table["Distance to source"].tolist()[2] == "none: the model sees no tumour"
    assert [state.split()[-1] for state in table["State"]] == ["annotated"] * 2 + ["annotate"] * 2


def test_the_round_is_told_in_plain_words(tmp_path, run_page):
    page = run_page(make_site(tmp_path / "home", reviewed=False), "worklist")
    assert "The model waits for doctors: please annotate these slices." in texts(page)
    bar = page.get("progress")[0].proto
    assert bar.value == 50
    assert "2 of 4 slices annotated" in bar.text
    assert "11% of the 36 slices of 3 patients" in bar.text


def test_cases_to_review_show_state_and_revision(site, run_page):
    page = run_page(site, "worklist")
    assert not page.exception
    table = page.dataframe[0].value.set_index("Case")  # review comes first: it is wanted now
    assert table.loc[REVIEWED_CASE, "State"] == "✓ revised"
    assert table.loc[REVIEWED_CASE, "Revision degree"] == "12.5 % (>10-15 %)"
    assert table.loc[UNREVIEWED_CASE, "State"] == "○ to review"
    assert "1 of 2 test cases reviewed." in texts(page)


def test_the_simulated_annotator_is_called_that(site, run_page):
    page = run_page(site, "worklist")
    reviews, tasks = (frame.value for frame in page.dataframe)
    assert reviews["Reviewer"].tolist()[0] == wording.SIMULATED
    assert set(tasks["Author"]) == {wording.SIMULATED}
    assert wording.SIMULATED in texts(page)


def test_people_are_not_called_simulated(tmp_path, run_page):
    page = run_page(make_site(tmp_path / "home", simulated=False), "worklist")
    reviews, tasks = (frame.value for frame in page.dataframe)
    assert set(tasks["Author"]) == {"Dr Example"}
    assert reviews["Reviewer"].tolist()[0] == "Dr Example"
    assert "simulated" not in texts(page)


def test_the_button_opens_the_next_slice_that_waits(tmp_path, run_page):
    page = run_page(make_site(tmp_path / "home", reviewed=False), "worklist")
    assert page.button(key="open_task").label == f"Open rank 3: {CASES[0]}, slice 4 / 12"
    assert page.button(key="open_task").click().run().session_state["open_case"] == CASES[0]
    assert page.session_state["open_slices"] == {CASES[0]: 3}


def test_an_empty_site_says_what_to_do(tmp_path, run_page):
    from site_agent.case_store import CaseStore
    from site_agent.config import open_home
    from site_agent.site_setup import initialise

    initialise(tmp_path / "new", name="new", study="s", role="target", trusted_keys=[])
    page = run_page(CaseStore(open_home(tmp_path / "new")), "worklist")
    assert not page.exception
    assert "fedgtv-site ingest" in texts(page)

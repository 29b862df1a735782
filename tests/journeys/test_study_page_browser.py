"""Hospital IT in a browser: going back asks first, and a worker's bar moves by itself."""

from collections.abc import Iterator

import pytest

from clinical_ui import launch
from clinical_ui.study_page import TABS
from site_agent.case_store import CaseStore
from site_agent.live_progress import ProgressWriter, clear_progress
from site_agent.model_store import active_model
from site_agent.site_lock import only_worker
from tests.clinical_ui.browser import Window, open_window, serve
from tests.clinical_ui.people import PASSWORD, add_people
from tests.clinical_ui.study_site import make_study_site

pytestmark = pytest.mark.journey


@pytest.fixture
def study(tmp_path) -> CaseStore:
    return make_study_site(tmp_path / "home")


@pytest.fixture
def window(study, tmp_path) -> Iterator[Window]:
    """Open the study page as hospital IT; nothing but this machine is asked for anything."""
    add_people(study.engine)
    home, folder = study.home.folder, tmp_path / "server"
    with serve(home, folder) as server, open_window(server.url, tmp_path / "it") as window:
        window.go("study")
        window.sign_in("it", PASSWORD)
        window.page.get_by_role("tab", name="What left").wait_for(timeout=60_000)
        yield window
        assert window.hosts <= {launch.ADDRESS, "page"}
        assert not server.called_out()


@pytest.fixture
def page(window) -> object:
    return window.page


def test_going_back_asks_first_and_closes_the_question(study, page):
    in_use = active_model(study.engine).sha256[:16]
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("button", name="Go back").click()
    page.get_by_text("will be segmented by the package's own model").wait_for()
    assert active_model(study.engine).sha256.startswith(in_use)  # asked, not done
    page.get_by_role("button", name="Yes, go back").click()
    page.get_by_text("The package's own model is in use.").wait_for()
    page.get_by_role("button", name="Yes, go back").wait_for(state="detached")
    assert active_model(study.engine) is None
    page.get_by_role("cell", name="it", exact=True).wait_for()


def test_a_bar_moves_by_itself_and_the_page_follows_the_worker(study, page):
    with only_worker(study.home):
        writer = ProgressWriter(study.home, "stage1")
        writer.update(100, 400, 0.5)
        page.reload()
        page.get_by_text("Learning from the annotated slices · 100 of 400").wait_for()
        writer.update(400, 400, 0.25)
        page.get_by_text("400 of 400").wait_for(timeout=20_000)  # nobody touched the page
        clear_progress(study.home)
        page.get_by_text("The computer is working.").wait_for(timeout=20_000)
        writer.update(1, 1, -1.0)
    page.get_by_text("stopped at 1 of 1").wait_for(timeout=20_000)
    page.get_by_role("button", name="Continue the round").wait_for()


def test_a_message_is_read_by_keyboard_before_it_leaves(study, page):
    page.get_by_role("tab", name="What left").click()
    message = page.get_by_role("region", name="Message of entry 2")
    message.focus()
    assert message.evaluate("element => document.activeElement === element")
    assert '"kind": "site_report"' in message.inner_text()
    page.get_by_role("button", name="Let no. 2 leave").click()
    page.get_by_role("button", name="Yes, let no. 2 leave").click()
    page.get_by_text("Entry 2 may leave").wait_for()
    page.get_by_text("1 message waits").wait_for(state="detached")


def test_the_drift_chart_has_words_for_those_who_do_not_see_it(page):
    page.get_by_role("tab", name="Drift").click()
    chart = page.get_by_role("img", name="Control chart of 16 cases")
    chart.wait_for()
    box = chart.bounding_box()
    assert box["width"] > 600


def test_every_tab_fits_the_small_screen(window):
    for tab in TABS:
        window.page.get_by_role("tab", name=tab).click()
        window.page.get_by_role("tabpanel", name=tab).wait_for()
        window.settle()
        assert window.hidden_below() <= 0, tab

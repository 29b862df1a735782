"""The frame around the pages."""

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from clinical_ui import wording
from clinical_ui.launch import APP_FILE, HOME_VARIABLE


@pytest.fixture
def open_at(run_app):
    """Return a function that opens an address of a site as somebody of a role."""

    def run(store, role: str, path: str) -> AppTest:
        page = run_app(store, role)
        page.context["url"] = f"http://127.0.0.1/{path}"
        page._page_hash = calc_hash(path)  # as the browser names a page
        return page.run()

    return run


def banner(page: AppTest) -> str:
    return "".join(element.proto.body for element in page.get("html"))


def test_the_banner_names_research_use_site_and_study(site, run_app):
    page = run_app(site)
    assert not page.exception
    assert wording.RESEARCH_ONLY in banner(page)
    assert "hospital-b, study npc-demo" in banner(page)
    assert page.title[0].value == "Worklist"


def test_a_site_that_cannot_be_opened_says_what_to_do(run_page, monkeypatch, tmp_path):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "nowhere"))
    page = AppTest.from_file(str(APP_FILE), default_timeout=30).run()
    assert not page.exception
    assert "fedgtv-site init" in page.error[0].value
    assert wording.RESEARCH_ONLY in banner(page)


PATHS = {
    "annotator": {"worklist", "annotate", "review", "study"},
    "reviewer": {"worklist", "review", "blinded", "study"},
    "it": {"worklist", "study", "accounts"},
    "lead": {"worklist", "study"},
}
ALL_PATHS = set().union(*PATHS.values())


@pytest.mark.parametrize("role", PATHS)
@pytest.mark.parametrize("path", sorted(ALL_PATHS))
def test_every_address_is_a_page_which_refuses_those_it_is_not_for(site, open_at, role, path):
    page = open_at(site, role, path)
    assert not page.exception
    refused = [info.value for info in page.info if "Hospital IT can give" in info.value]
    assert bool(refused) == (path not in PATHS[role])
    if refused:
        (link,) = page.get("page_link")
        assert link.proto.label == "Go to the worklist"
        assert len(page.button) == 1  # the way out


def test_an_address_of_no_page_says_so_and_leads_to_the_worklist(site, open_at):
    page = open_at(site, "lead", "nowhere")
    assert not page.exception
    assert page.title[0].value == "No such page"
    assert page.info[0].value == wording.NO_SUCH_PAGE
    assert len(page.get("page_link")) == 1

"""The frame around the pages."""

from streamlit.testing.v1 import AppTest

from clinical_ui import wording
from clinical_ui.launch import APP_FILE, HOME_VARIABLE


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

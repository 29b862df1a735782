"""Browsers of doctors on the real server: the worklist, every page's looks, nothing that leaves.

With FEDGTV_SCREENSHOTS=FOLDER it leaves pictures of the pages there, as `make screenshots` does.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from clinical_ui import launch
from site_agent import claims
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.ingest import ingest
from tests.clinical_ui.accessibility import grave_violations
from tests.clinical_ui.browser import LARGE, SMALL, Server, open_window, serve
from tests.clinical_ui.people import EVERYTHING, PASSWORD, add_people
from tests.clinical_ui.synthetic_site import CASES, make_site
from tests.site_agent import dicom_builder

pytestmark = pytest.mark.journey

PLANTED = (*dicom_builder.PLANTED, dicom_builder.STUDY_UID, dicom_builder.SERIES_UID)


@dataclass
class Site:
    """A site and the server of its pages."""

    server: Server
    store: CaseStore
    dicom_case: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ui")
    store = make_site(folder / "home", reviewed=False)
    images = dicom_builder.save(dicom_builder.slices(), folder / "export")
    (dicom_case,) = ingest(store.home, store, images, actor="test")
    add_people(store.engine)
    with serve(store.home.folder, folder / "server") as server:
        yield Site(server, store, dicom_case)


@pytest.fixture
def window(site, tmp_path):
    """A browser of somebody who may do everything; nothing may leave, and no name may arrive."""
    with open_window(site.server.url, tmp_path / "profile") as opened:
        opened.page.goto(site.server.url)
        opened.sign_in(EVERYTHING, PASSWORD)
        yield opened
        seen = opened.page.content().encode() + b"".join(opened.received)
    seen += site.server.log.read_bytes()
    assert opened.hosts <= {launch.ADDRESS, "page"}
    assert b"Research use only" in seen
    assert [word for word in PLANTED if word.encode() in seen] == []
    assert not site.server.called_out()


@pytest.fixture
def given_back(site):
    """Leave every case free for the next test."""
    yield
    for (case_id, purpose), row in claims.holders(site.store, round_id(site)).items():
        key = WorkKey(row.round_id, case_id, purpose)
        claims.release(site.store, key, author="test", force=True)


def round_id(site: Site) -> str:
    return site.store.latest_round().round_id


def test_one_click_on_the_worklist_claims_the_next_case_and_opens_it(site, window, given_back):
    page = window.go()
    page.get_by_text("2 of 4 slices annotated").wait_for()
    page.get_by_text("◆ specific").first.wait_for()
    page.get_by_role("button", name="Open next").click()
    window.wait_for_case()
    assert page.url.endswith(f"/annotate?case={CASES[0]}")
    assert page.evaluate("() => fedgtvViewer.state().cursor[0]") == 3
    assert claims.holders(site.store, round_id(site))[CASES[0], "annotation"].author == EVERYTHING


def test_another_doctors_claim_shows_by_itself_and_takes_nothing_away(site, window, given_back):
    page = window.go()
    page.get_by_role("radio", name="Free").click()
    row = page.locator(f".st-key-work_annotation_{CASES[0]}")
    row.wait_for()
    page.get_by_label("Find a case or patient").press_sequentially("not ent")  # no Enter yet
    claims.claim(site.store, WorkKey(round_id(site), CASES[0], "annotation"), author="dr-beta")
    row.wait_for(state="detached")
    page.locator(f".st-key-work_annotation_{CASES[2]}").wait_for()
    assert page.get_by_label("Find a case or patient").input_value() == "not ent"
    assert page.get_by_label("Find a case or patient").evaluate("e => e == document.activeElement")
    expect(page.get_by_role("radio", name="Free")).to_be_checked()


def test_the_worklist_is_worked_by_keyboard_and_keeps_its_filter(site, window, given_back):
    page = window.go()
    page.get_by_role("radio", name="All", exact=True).click()
    button = page.locator(f".st-key-claim_annotation_{CASES[2]} button")
    button.focus()
    page.keyboard.press("Enter")
    release = page.locator(f".st-key-release_annotation_{CASES[2]} button")
    release.wait_for()
    page.get_by_role("link", name="Study").click()
    page.get_by_role("heading", name="Study").wait_for()
    page.get_by_role("link", name="Worklist").click()
    release.wait_for()
    expect(page.get_by_role("radio", name="All", exact=True)).to_be_checked()


PAGES = {
    "Worklist": "",
    "Annotate": "annotate",
    "Review": "review",
    "Blinded reading": "blinded",
    "Study": "study",
    "Accounts": "accounts",
}


@pytest.mark.parametrize("title", PAGES)
def test_pages_are_accessible_and_fit_the_screens_of_a_hospital(window, title):
    path = PAGES[title]
    page = window.go(path)
    page.get_by_role("heading", name=title, exact=True).wait_for()
    if path in ("annotate", "review"):
        window.wait_for_case()
    window.settle()
    assert grave_violations(page) == []
    for name, (width, height) in {"": SMALL, "-large": LARGE}.items():
        page.set_viewport_size({"width": width, "height": height})
        window.settle()
        window.screenshot(f"{path or 'worklist'}{name}")
        wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{path} is {wide} px wider than {width} px"
        assert window.hidden_below() <= 0, f"{path} is higher than {height} px"


def test_the_sign_in_page_is_accessible(site, tmp_path):
    with open_window(site.server.url, tmp_path / "profile") as window:
        page = window.go()
        page.get_by_label("User name").wait_for()
        window.screenshot("sign-in")
        assert grave_violations(page) == []


def test_a_case_from_dicom_shows_its_pseudonym_only(site, window):
    window.go(f"review?case={site.dicom_case}")
    window.wait_for_case()
    expect(window.page.get_by_text(site.dicom_case).first).to_be_visible()


def test_a_page_from_elsewhere_may_not_connect(site):
    handshake = (
        "GET /_stcore/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: http://foreign.example\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    place = urlsplit(site.server.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(handshake.format(host=place.netloc).encode())
        answer = connection.recv(4096)
    assert answer.split(b"\r\n")[0].split()[1] == b"403"
    assert not site.server.called_out()

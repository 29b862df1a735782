"""A doctor's browser on the real server: worklist, case, and nothing that leaves this machine."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from clinical_ui import launch
from site_agent import claims
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.ingest import ingest
from tests.clinical_ui.accessibility import grave_violations
from tests.clinical_ui.browser import LARGE, Server, open_window, serve
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
    with serve(store.home.folder, folder / "server") as server:
        yield Site(server, store, dicom_case)


@pytest.fixture
def window(site, tmp_path):
    """A browser at the pages; nothing may leave this machine, and no name may reach it."""
    with open_window(site.server.url, tmp_path / "profile") as opened:
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
    window.screenshot("worklist")
    page.get_by_role("button", name="Start next").click()
    page.get_by_role("img", name=f"axial slice 4 / 12 of {CASES[0]}").wait_for()
    assert f"case={CASES[0]}&slice=4" in page.url
    assert (CASES[0], "annotation") in claims.holders(site.store, round_id(site))


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
    assert page.get_by_role("radio", name="Free").get_attribute("aria-checked") == "true"


def test_the_worklist_is_worked_by_keyboard_and_keeps_its_filter(site, window, given_back):
    page = window.go()
    page.get_by_role("radio", name="All", exact=True).click()
    button = page.locator(f".st-key-claim_annotation_{CASES[2]} button")
    button.focus()
    page.keyboard.press("Enter")
    release = page.locator(f".st-key-release_annotation_{CASES[2]} button")
    release.wait_for()
    page.get_by_role("link", name="Study").click()
    page.get_by_role("heading", name="This round").wait_for()
    page.get_by_role("link", name="Worklist").click()
    release.wait_for()
    assert page.get_by_role("radio", name="All", exact=True).get_attribute("aria-checked") == "true"


@pytest.mark.parametrize("path", ["", "case", "study"])
def test_pages_are_accessible(site, window, path):
    page = window.go(path)
    window.settle()
    assert grave_violations(page) == []


def test_pages_look_right_on_a_large_screen_too(site, tmp_path):
    with open_window(site.server.url, tmp_path / "large", LARGE) as window:
        page = window.go()
        page.get_by_text("Next for you").wait_for()
        window.screenshot("worklist-large")
        too_wide = "() => document.documentElement.scrollWidth > window.innerWidth"
        assert not page.evaluate(too_wide)


def test_a_case_is_shown_with_its_contour_and_survives_a_reload(window):
    page = window.go(f"case?case={CASES[0]}&slice=7")
    picture = page.get_by_role("img", name="Annotation of this slice")
    picture.first.wait_for()
    box = page.locator(".fedgtv-picture img").bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) > 250
    assert box["y"] + box["height"] <= 768  # the whole slice is in view on a small screen

    page.get_by_role("slider").press("ArrowRight")
    page.get_by_role("img", name="axial slice 8 / 12").wait_for()
    page.reload()
    page.get_by_role("img", name="axial slice 8 / 12").wait_for()


def test_a_case_from_dicom_shows_its_pseudonym_only(site, window):
    page = window.go(f"case?case={site.dicom_case}")
    page.get_by_role("img", name=f"of {site.dicom_case}").wait_for()
    page.get_by_text("Acme Magnet 3").wait_for()


def test_the_study_page_shows_what_left(window):
    page = window.go("study")
    page.get_by_text("Entries in the ledger: 1").wait_for()


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

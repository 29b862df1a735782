"""A doctor's browser on the real server: worklist, case, and nothing that leaves this machine."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from clinical_ui import launch
from site_agent.ingest import ingest
from tests.clinical_ui.people import add_people
from tests.clinical_ui.synthetic_site import CASES, make_site
from tests.journeys.pages_in_browser import Server, browser, cookie, serving
from tests.site_agent import dicom_builder

pytestmark = pytest.mark.journey

PLANTED = (*dicom_builder.PLANTED, dicom_builder.STUDY_UID, dicom_builder.SERIES_UID)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ui")
    store = make_site(folder / "home", reviewed=False)
    add_people(store.engine)
    images = dicom_builder.save(dicom_builder.slices(), folder / "export")
    ingest(store.home, store, images, actor="test")
    with serving(store) as server:
        yield server


@pytest.fixture
def visit(server, tmp_path):
    """Open a page in a fresh browser profile; watch everything that crosses the wire."""
    with browser(tmp_path / "profile") as (context, seen):
        context.add_cookies([cookie(server)])
        page = context.new_page()

        def go(path: str):
            page.goto(f"{server.url}/{path}")
            page.locator("h1").wait_for(timeout=30_000)
            return page

        yield go
        shown = page.content().encode() + b"".join(seen.received) + server.log.read_bytes()
    assert seen.hosts <= {launch.ADDRESS, "page"}
    assert seen.complaints == []
    assert b"Research use only" in shown
    assert [word for word in PLANTED if word.encode() in shown] == []
    assert not server.called_out()


def test_the_worklist_shows_the_tasks_and_opens_the_next(server, visit):
    page = visit("")
    page.get_by_text("2 of 4 slices annotated").wait_for()
    rows = page.get_by_test_id("stDataFrame").first.locator("table")
    rows.get_by_text("domain-specific: new at this hospital").first.wait_for(state="attached")
    assert all(case in rows.inner_text() for case in CASES[:3])

    page.get_by_role("button", name=f"Open rank 3: {CASES[0]}, slice 4 / 12").click()
    page.get_by_role("img", name=f"axial slice 4 / 12 of {CASES[0]}").wait_for()
    page.get_by_text("Still to annotate").wait_for()
    assert f"case={CASES[0]}&slice=4" in page.url


def test_a_case_is_shown_with_its_contour_and_survives_a_reload(server, visit):
    page = visit(f"case?case={CASES[0]}&slice=7")
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


def test_a_case_from_dicom_shows_its_pseudonym_only(server, visit):
    (dicom_case,) = {case.case_id for case in server.store.cases()} - set(CASES)
    page = visit(f"case?case={dicom_case}")
    page.get_by_role("img", name=f"of {dicom_case}").wait_for()
    page.get_by_text("Acme Magnet 3").wait_for()


def test_the_study_page_shows_what_left(visit):
    page = visit("study")
    page.get_by_text("Entries in the ledger: 1").wait_for()


def test_a_page_from_elsewhere_may_not_connect(server):
    handshake = (
        "GET /_stcore/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: http://foreign.example\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(handshake.format(host=place.netloc).encode())
        answer = connection.recv(4096)
    assert answer.split(b"\r\n")[0].split()[1] == b"403"
    assert not server.called_out()

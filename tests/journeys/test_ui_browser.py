"""A doctor's browser on the real server: worklist, case, and nothing that leaves this machine."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest

from clinical_ui import launch
from site_agent.case_store import CaseStore
from site_agent.ingest import ingest
from tests.clinical_ui.synthetic_site import CASES, make_site
from tests.debian_packages import absent
from tests.site_agent import dicom_builder

pytestmark = pytest.mark.journey

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PLANTED = (*dicom_builder.PLANTED, dicom_builder.STUDY_UID, dicom_builder.SERIES_UID)
START_LIMIT_S = 60


@dataclass
class Server:
    """The real server on a site, with a trap where its calls to the outside would arrive."""

    url: str
    store: CaseStore
    dicom_case: str
    log: Path
    trap: socket.socket

    def called_out(self) -> bool:
        """Say whether the server tried to reach anything through the proxy it was given."""
        try:
            self.trap.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ui")
    store = make_site(folder / "home", reviewed=False)
    images = dicom_builder.save(dicom_builder.slices(), folder / "export")
    (dicom_case,) = ingest(store.home, store, images, actor="test")

    with socket.create_server((launch.ADDRESS, 0)) as trap, (folder / "log").open("wb") as log:
        trap.setblocking(False)
        proxy = f"http://{launch.ADDRESS}:{trap.getsockname()[1]}"
        port = _free_port()
        process = subprocess.Popen(
            launch.command(folder / "home", port),
            cwd=folder,
            env={**os.environ, "http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://{launch.ADDRESS}:{port}"
        try:
            _wait_until_ready(url, process)
            yield Server(url, store, dicom_case, folder / "log", trap)
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture
def visit(server, tmp_path):
    """Open a page in a fresh browser profile; watch everything that crosses the wire."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        absent(str(CHROMIUM), "chromium")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1366, "height": 768},
        )
        page = context.new_page()
        hosts: set[str] = set()
        received: list[bytes] = []
        context.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or "page"))
        page.on("websocket", lambda ws: hosts.add(urlsplit(ws.url).hostname))
        page.on(
            "websocket", lambda ws: ws.on("framereceived", lambda data: received.append(_raw(data)))
        )

        def go(path: str):
            page.goto(f"{server.url}/{path}")
            page.locator("h1").wait_for(timeout=30_000)
            return page

        yield go
        seen = page.content().encode() + b"".join(received) + server.log.read_bytes()
        context.close()
    assert hosts <= {launch.ADDRESS, "page"}
    assert b"Research use only" in seen
    assert [word for word in PLANTED if word.encode() in seen] == []
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
    page = visit(f"case?case={server.dicom_case}")
    page.get_by_role("img", name=f"of {server.dicom_case}").wait_for()
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


def _free_port() -> int:
    with socket.create_server((launch.ADDRESS, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(f"{url}/_stcore/health", timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail("the server did not start")


def _raw(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data

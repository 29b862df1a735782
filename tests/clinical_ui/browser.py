"""The real server of the pages, and a real browser with a real mouse in front of it."""

import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest

from clinical_ui import launch
from tests.debian_packages import absent
from tests.ports import free_ports

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
SMALL, LARGE = (1366, 768), (1920, 1080)  # the screens of a hospital
SCREENSHOTS = "FEDGTV_SCREENSHOTS"
START_LIMIT_S = 60
SHOW_LIMIT_MS = 30_000


@dataclass
class Server:
    """The pages of one site, served by the command that people use.

    It can be killed and started again at the same address, as a hospital's server is. The viewer
    lets tests look at its state. A trap stands where the server's calls to the outside would
    arrive. `command` takes the place of the usual one, `more` is added to its environment.
    """

    home: Path
    folder: Path
    port: int
    trap: socket.socket
    command: Sequence[str]
    more: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://{launch.ADDRESS}:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file that holds all it said."""
        return self.folder / "server.log"

    def start(self) -> None:
        proxy = f"http://{launch.ADDRESS}:{self.trap.getsockname()[1]}"
        calls_outside = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={
                    **launch.environment(self.home, os.environ),
                    **calls_outside,
                    launch.TEST_VARIABLE: "1",
                    **self.more,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        _wait_until_ready(self.url, self.process)

    def kill(self) -> None:
        """End it without warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=20)

    def called_out(self) -> bool:
        """Say whether the server tried to reach anything through the proxy it was given."""
        try:
            self.trap.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@contextmanager
def serve(
    home: Path,
    folder: Path,
    *,
    port: int | None = None,
    command: Sequence[str] | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve the site in `home`; `folder` is where the server runs and logs."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server((launch.ADDRESS, 0)) as trap:
        trap.setblocking(False)
        port = port or free_ports(1)[0]
        server = Server(home, folder, port, trap, command or launch.command(home, port), more or {})
        try:
            server.start()
            yield server
        finally:
            if server.process is not None:
                server.process.terminate()
                server.process.wait(timeout=20)


@dataclass
class Window:
    """One page of a browser, and what crossed the wire.

    Attributes:
        page: the page as Playwright drives it.
        hosts: whom the browser talked to.
        received, sent: frames of the page's websocket, in order.
        complaints: what the browser's content security policy kept the page from.
    """

    page: Any
    url: str
    hosts: set[str] = field(default_factory=set)
    received: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str = "") -> Any:
        """Go to a page of the site and wait for its title."""
        self.page.goto(f"{self.url}/{path}")
        self.page.locator("h1").first.wait_for(timeout=SHOW_LIMIT_MS)
        return self.page

    def sign_in(self, username: str, password: str) -> None:
        """Sign in as a person does; the page that was asked for follows."""
        self.page.get_by_label("User name").fill(username)
        # Streamlit puts a button that shows the password under the same label.
        self.page.locator("input[type=password]").fill(password)
        self.page.get_by_role("button", name=re.compile("^sign in$", re.IGNORECASE)).click()
        self.page.get_by_role("button", name="Sign out").wait_for()
        # Until the browser holds the cookie, a reload would ask again.
        self.page.wait_for_function("() => /(^|; )fedgtv_/.test(document.cookie)")

    def settle(self) -> None:
        """Wait until the server has nothing more to draw."""
        self.page.wait_for_function(
            "() => document.querySelector('[data-testid=stApp]')"
            "?.getAttribute('data-test-script-state') !== 'running'"
        )

    def wait_for_case(self) -> None:
        """Wait until the viewer shows a case."""
        self.page.wait_for_function("() => window.fedgtvViewer !== undefined")
        self.settle()

    def hidden_below(self) -> int:
        """Return how many px of the page lie below the window."""
        main = self.page.locator("[data-testid=stMain]")
        return int(main.evaluate("element => element.scrollHeight - element.clientHeight"))

    def stroke(self, points: Sequence[tuple[float, float]], *, button: str = "left") -> None:
        """Press the mouse at the first point, move it over the others, and let go at the last."""
        mouse = self.page.mouse
        mouse.move(*points[0])
        mouse.down(button=button)
        for x, y in points[1:]:
            mouse.move(x, y)
        mouse.up(button=button)

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page where somebody asked for pictures, else do nothing."""
        if folder := os.environ.get(SCREENSHOTS):
            target = Path(folder)
            target.mkdir(parents=True, exist_ok=True)
            self.settle()
            self.page.screenshot(path=target / f"{name}.png")

    def wire_bytes(self) -> tuple[int, int]:
        """Return how many bytes the page has received and sent on its websocket."""
        self.page.evaluate("0")  # frames are told of while something is asked of the page
        return sum(map(len, self.received)), sum(map(len, self.sent))


@contextmanager
def open_window(url: str, profile: Path, size: tuple[int, int] = SMALL) -> Iterator[Window]:
    """Open a browser with a profile of its own."""
    with open_windows(url, [profile], size) as (window,):
        yield window


@contextmanager
def open_windows(
    url: str, profiles: Sequence[Path], size: tuple[int, int] = SMALL
) -> Iterator[list[Window]]:
    """Open one browser for each profile, as people at screens of their own have."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        absent(str(CHROMIUM), "chromium")
    with playwright.sync_playwright() as driver, ExitStack() as open_browsers:
        yield [
            watch(open_browsers.enter_context(_browser(driver, profile, size)), url)
            for profile in profiles
        ]


@contextmanager
def _browser(driver: Any, profile: Path, size: tuple[int, int]) -> Iterator[Any]:
    context = driver.chromium.launch_persistent_context(
        profile,
        executable_path=CHROMIUM,
        headless=True,
        args=FLAGS,
        viewport={"width": size[0], "height": size[1]},
    )
    context.set_default_timeout(SHOW_LIMIT_MS)
    try:
        yield context
    finally:
        context.close()


def watch(context: Any, url: str) -> Window:
    """Open one more page in a browser, and watch everything that crosses the wire."""
    window = Window(context.new_page(), url)
    hosts = window.hosts
    context.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or "page"))

    def follow(socket: Any) -> None:
        hosts.add(urlsplit(socket.url).hostname or "page")
        socket.on("framereceived", lambda data: window.received.append(_raw(data)))
        socket.on("framesent", lambda data: window.sent.append(_raw(data)))

    def note(message: Any) -> None:
        if "Content Security Policy" in message.text:
            window.complaints.append(message.text)

    window.page.on("websocket", follow)
    window.page.on("console", note)
    return window


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

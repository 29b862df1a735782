"""The real server on a site, and a browser in front of it, both watched for what they call.

Journeys share it: start a `Server`, open a `browser`, sign in with the keyboard or by `cookie`.
"""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import pytest

from clinical_ui import launch
from clinical_ui.sign_in_cookie import cookie_name
from site_agent.case_store import CaseStore
from tests.clinical_ui.people import EVERYTHING, PASSWORD, sign_in_token
from tests.debian_packages import absent

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
START_LIMIT_S = 60


@dataclass
class Server:
    """The real server on a site, with a trap where its calls to the outside would arrive."""

    url: str
    store: CaseStore
    log: Path
    trap: socket.socket
    process: subprocess.Popen[bytes]

    def called_out(self) -> bool:
        """Say whether the server tried to reach anything through the proxy it was given."""
        try:
            self.trap.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@dataclass
class Seen:
    """What crossed the wire of a browser, and what it complained about."""

    hosts: set[str] = field(default_factory=set)
    received: list[bytes] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def serving(
    store: CaseStore,
    *,
    port: int | None = None,
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve the pages of a site until the end of the block; `command` in place of the usual one."""
    port = port or free_port()
    log = store.home.folder.with_name(f"{store.home.folder.name}-{port}.log")
    with socket.create_server((launch.ADDRESS, 0)) as trap, log.open("ab") as written:
        trap.setblocking(False)
        proxy = f"http://{launch.ADDRESS}:{trap.getsockname()[1]}"
        watched = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}
        process = subprocess.Popen(
            command or launch.command(store.home.folder, port),
            cwd=store.home.folder.parent,
            env={**os.environ, **watched, **(environment or {})},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        url = f"http://{launch.ADDRESS}:{port}"
        try:
            _wait_until_ready(url, process)
            yield Server(url, store, log, trap, process)
        finally:
            process.terminate()
            process.wait(timeout=20)


@contextmanager
def browser(profile: Path, **viewport: int) -> Iterator[tuple[Any, Seen]]:
    """Open a browser with a fresh profile; yield its context and what is seen of it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        absent(str(CHROMIUM), "chromium")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": 1366, "height": 768, **viewport},
        )
        seen = Seen()
        context.on(
            "request", lambda request: seen.hosts.add(urlsplit(request.url).hostname or "page")
        )
        context.on("page", lambda page: _watch(page, seen))
        yield context, seen
        context.close()


def cookie(server: Server, username: str = EVERYTHING) -> dict[str, str]:
    """Sign somebody in; return the cookie that a browser keeps of it."""
    name = cookie_name(server.store.home.config)
    return {
        "name": name,
        "value": sign_in_token(server.store.engine, username),
        "url": server.url,
        "sameSite": "Strict",
    }


def sign_in(page: Any, username: str, password: str = PASSWORD) -> None:
    """Sign in on the page that is open, with the keyboard."""
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password", exact=True).click()
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server((launch.ADDRESS, 0)) as probe:
        return int(probe.getsockname()[1])


def _watch(page: Any, seen: Seen) -> None:
    page.on("websocket", lambda ws: seen.hosts.add(urlsplit(ws.url).hostname))
    page.on(
        "websocket",
        lambda ws: ws.on("framereceived", lambda data: seen.received.append(_raw(data))),
    )
    page.on(
        "console",
        lambda message: (
            seen.complaints.append(message.text)
            if "Content Security Policy" in message.text
            else None
        ),
    )


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

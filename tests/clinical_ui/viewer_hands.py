"""What a doctor's hands do in the viewer of the real pages, and what can be seen of it."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algorithms.contracts.volume import MaskArray
from site_agent.claims import WorkKey
from tests.clinical_ui.browser import Window
from tests.clinical_ui.people import PASSWORD

PAGES = {"annotation": "annotate", "review": "review"}
BEGIN = re.compile("^(Start|Go on|Start revision|Revise again)$")
WAIT_MS = 60_000  # generous: five browsers may share two cores


@dataclass
class Hands:
    """A doctor at a window.

    Attributes:
        window: of the browser.
        shape_zyx: of the case that is open.
    """

    window: Window
    shape_zyx: tuple[int, int, int]

    @property
    def page(self) -> Any:
        """Return the page as Playwright drives it."""
        return self.window.page

    def open(self, key: WorkKey, username: str | None = None) -> None:
        """Open a case on its page; `username` signs in first."""
        self.page.goto(f"{self.window.url}/{PAGES[key.purpose]}?case={key.case_id}")
        if username is not None:
            self.page.get_by_label("User name").wait_for(timeout=WAIT_MS)
            self.window.sign_in(username, PASSWORD)
        self.wait("true")

    def press_begin(self) -> None:
        """Press the button that starts the work, or goes on with it."""
        self.page.get_by_role("button", name=BEGIN).click()

    def begin(self) -> None:
        """Start to draw."""
        self.press_begin()
        self.wait("fedgtvViewer.state().mode !== 'view'")

    def wait(self, what: str) -> Any:
        """Wait until there is a viewer and an expression about it is true; return its handle."""
        return self.page.wait_for_function(
            f"() => window.fedgtvViewer && ({what})", timeout=WAIT_MS, polling=50
        )

    def wait_stored(self) -> None:
        """Wait until the server has everything that is drawn."""
        self.wait("!fedgtvViewer.state().unsent && !fedgtvViewer.state().busy")

    def wait_shown(self, checksum: str) -> None:
        """Wait until a contour is on screen."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while self.checksum() != checksum:  # a promise would count as true while it is waited for
            assert time.monotonic() < deadline, "another contour is shown"
            self.page.wait_for_timeout(100)

    def ask(self, what: str) -> Any:
        """Return what the viewer's test hook says."""
        return self.page.evaluate(f"fedgtvViewer.{what}")

    def state(self) -> dict[str, Any]:
        """Return the viewer's state."""
        return dict(self.ask("state()"))

    def checksum(self) -> str:
        """Return the checksum of what is on screen, as the browser computes it."""
        return str(self.ask("checksum()"))

    def mask(self) -> MaskArray:
        """Return what is on screen."""
        runs = self.ask("runs()")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(self.shape_zyx)

    def at(self, z: int, y: float, x: float) -> tuple[float, float]:
        """Return where a voxel is in the large plane."""
        place = self.ask(f"screen({z}, {y}, {x})")
        return place["x"], place["y"]

    def click(self, z: int, y: float, x: float, tool: str) -> None:
        """Click on a voxel with the tool of a key."""
        self.page.mouse.move(*self.at(z, y, x))  # keys work where the mouse is
        self.page.keyboard.press(tool)
        self.page.mouse.click(*self.at(z, y, x))

    def stroke(self, z: int, yx: Sequence[tuple[float, float]], tool: str = "b") -> float:
        """Draw from voxel to voxel of a slice with the tool of a key; return the seconds it took.

        The time is that of the mouse alone.
        """
        places = [self.at(z, y, x) for y, x in yx]
        self.page.mouse.move(*places[0])
        self.page.keyboard.press(tool)
        start = time.monotonic()
        self.window.stroke(places)
        return time.monotonic() - start

    def button(self, name: str) -> Any:
        """Return a button by its words."""
        return self.page.get_by_role("button", name=re.compile(f"^{name}$"))

"""Several windows on one site at once: nobody slows, overwrites or deceives anybody."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from playwright.sync_api import expect

from algorithms.contracts.volume import MaskArray
from site_agent import claims, drafts
from site_agent.case_store import CaseStore
from site_agent.claims import WorkKey
from site_agent.click_store import mask_sha256
from tests.clinical_ui.browser import Server, open_windows, serve, watch
from tests.clinical_ui.people import DISPLAY_NAMES, EVERYTHING, PASSWORD, add_people
from tests.clinical_ui.viewer_hands import Hands
from tests.phantoms import SHAPE_ZYX
from tests.site_agent.doctors_site import ASKED, TUMOUR, annotation, audit, make_site, review

pytestmark = pytest.mark.journey

FIRST, SECOND = "annotator", EVERYTHING
MOVES = 25
STROKES = 4


@dataclass
class Hospital:
    """A site with a case to annotate and one to review, and its server."""

    store: CaseStore
    server: Server

    def drawn(self, key: WorkKey, author: str) -> MaskArray:
        """Return somebody's draft as it is stored."""
        draft = drafts.restore(self.store, key, author=author)
        assert draft is not None
        assert draft.target is not None
        return draft.target

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let the server do nothing at all for the length of the block."""
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two-doctors")


@pytest.fixture(scope="module")
def hospital(server_folder) -> Iterator[Hospital]:
    store = make_site(server_folder)
    add_people(store.engine)
    with serve(store.home.folder, server_folder / "run") as server:
        yield Hospital(store, server)


@pytest.fixture
def doctors(hospital, tmp_path) -> Iterator[tuple[Hands, Hands]]:
    """Return two doctors, each at a browser of their own; afterwards nothing is claimed."""
    with open_windows(hospital.server.url, [tmp_path / "a", tmp_path / "b"]) as (one, other):
        yield Hands(one, SHAPE_ZYX), Hands(other, SHAPE_ZYX)
    store = hospital.store
    for key in (annotation(store), review(store)):
        claims.release(store, key, author="test", force=True)


def line(number: int) -> list[tuple[float, float]]:
    """Return a stroke of `MOVES` moves."""
    return [(5 + 7 * number, 4 + move) for move in range(MOVES)]


def draw(hands: Hands, z: int, tool: str) -> list[float]:
    """Draw some strokes, none of which may need the server; return the seconds that each took."""
    took = []
    for number in range(STROKES):
        before, drawn = hands.window.wire_bytes()[1], hands.checksum()
        took.append(hands.stroke(z, line(number), tool))
        assert hands.window.wire_bytes()[1] == before
        assert hands.checksum() != drawn
        hands.page.keyboard.press("Control+z")
        assert hands.checksum() == drawn
        hands.page.keyboard.press("Control+y")
        hands.wait_stored()
    return took


def test_one_doctor_waits_for_the_model_and_the_other_paints_on(hospital, doctors) -> None:
    store, (one, other) = hospital.store, doctors
    mine, theirs = annotation(store), review(store)
    one.open(mine, FIRST)
    other.open(theirs, "reviewer")
    one.begin()
    other.begin()
    z = other.state()["cursor"][0]
    alone = draw(other, z, "b")

    slice_z = one.state()["cursor"][0]
    y, x = (int(np.median(where)) for where in np.nonzero(TUMOUR[slice_z]))
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        one.click(slice_z, y + dy, x + dx, "1")
    one.page.keyboard.press("Enter")
    besides = draw(other, z, "e")
    one.wait("fedgtvViewer.voxels() > 0")
    answered = one.mask()
    assert answered[slice_z].any()

    other.wait_stored()
    stored = mask_sha256(hospital.drawn(theirs, "reviewer"))
    with hospital.standing_still():
        one.click(slice_z, y, x, "2")  # the model cannot answer: the server does not run
        one.wait("fedgtvViewer.state().lock === 'The model is at work.'")
        before, drawn = other.window.wire_bytes()[1], other.checksum()
        took = other.stroke(z, line(1))
        painted = other.checksum()
        assert painted != drawn
        other.page.keyboard.press("Control+z")
        assert other.checksum() == drawn
        other.page.keyboard.press("Control+y")
        other.page.keyboard.press("ArrowDown")
        assert other.state()["cursor"][0] == z + 1
        assert other.checksum() == painted
        assert other.window.wire_bytes()[1] - before < 10_000  # a draft at most, unanswered
    one.wait("fedgtvViewer.state().lock === ''")
    other.wait_stored()
    assert stored != mask_sha256(hospital.drawn(theirs, "reviewer")) == painted
    one.wait_stored()
    assert mask_sha256(hospital.drawn(mine, FIRST)) == one.checksum()
    medians = {"alone": median(alone), "beside a model at work": median(besides)}
    seconds = {**medians, "while the server stands still": took}
    sys.stdout.write(f"stroke of {MOVES} moves, s: {seconds}\n")


def test_a_case_belongs_to_one_doctor_until_it_is_released(hospital, doctors) -> None:
    store, (one, other) = hospital.store, doctors
    key = annotation(store)
    z = ASKED[0]
    other.open(key, SECOND)  # while it is free
    one.open(key, FIRST)
    one.begin()
    one.stroke(z, [(8, 8), (8, 24)])
    one.wait_stored()
    kept = one.checksum()

    other.press_begin()  # on a page that is older than the claim
    other.page.get_by_text(f"{DISPLAY_NAMES[FIRST]} works on it: take another case").wait_for()
    other.wait("fedgtvViewer.state().mode === 'view'")
    other.window.screenshot("held-by-another")
    nothing = other.checksum()
    other.stroke(z, [(20, 8), (20, 24)])
    assert other.checksum() == nothing
    expect(other.button("Start")).to_be_disabled()

    one.button("Release").click()
    one.wait("fedgtvViewer.state().mode === 'view'")
    one.window.settle()  # from here on the page is as old as it is
    other.page.reload()
    other.wait("true")
    other.begin()
    other.stroke(z, [(20, 8), (20, 24)])
    other.wait_stored()
    assert claims.holders(store, key.round_id)[key.case_id, key.purpose].author == SECOND
    one.press_begin()
    one.page.get_by_text(f"{DISPLAY_NAMES[SECOND]} works on it: take another case").wait_for()
    assert mask_sha256(hospital.drawn(key, FIRST)) == kept
    assert mask_sha256(hospital.drawn(key, SECOND)) == other.checksum() != kept


def test_an_older_tab_of_the_same_doctor_overwrites_nothing(hospital, doctors) -> None:
    store, (old, _) = hospital.store, doctors
    key = review(store)
    old.open(key, SECOND)
    old.begin()
    z = old.state()["cursor"][0]
    old.stroke(z, [(6, 6), (6, 24)])
    old.wait_stored()

    new = Hands(watch(old.page.context, hospital.server.url), SHAPE_ZYX)
    new.open(key)
    new.wait("fedgtvViewer.state().lock === ''")
    assert new.checksum() == old.checksum()
    new.stroke(z, [(26, 6), (26, 24)])
    new.wait_stored()
    newest = new.checksum()

    old.page.bring_to_front()
    old.stroke(z, [(16, 6), (16, 24)])
    old.page.get_by_text("opened in another window").first.wait_for()
    old.window.screenshot("older-tab")
    assert mask_sha256(hospital.drawn(key, SECOND)) == newest
    old.page.reload()
    old.wait("fedgtvViewer.state().trouble.includes('another window')")
    old.wait_shown(newest)  # what this tab had kept is refused; from there it may go on
    old.stroke(z, [(16, 6), (16, 24)])
    old.wait_stored()
    assert mask_sha256(hospital.drawn(key, SECOND)) == old.checksum() != newest
    assert (old.mask() >= new.mask()).all()

    new.page.bring_to_front()
    new.stroke(z, [(11, 6), (11, 24)])
    new.page.get_by_text("another window").first.wait_for()
    assert mask_sha256(hospital.drawn(key, SECOND)) == old.checksum()
    refusals = [row.detail["why"] for row in audit(store) if row.event == "payload_refused"]
    assert all("another window" in why for why in refusals[-2:])


def test_who_signed_out_in_another_tab_signs_in_again_and_draws_on(hospital, doctors) -> None:
    hands, _ = doctors
    key = review(hospital.store)
    hands.open(key, SECOND)
    hands.begin()
    z = hands.state()["cursor"][0]
    hands.stroke(z, [(6, 6), (6, 24)])
    hands.wait_stored()
    other = Hands(watch(hands.page.context, hospital.server.url), SHAPE_ZYX)
    other.page.goto(hospital.server.url)
    other.page.get_by_role("button", name="Sign out").click()
    other.page.get_by_role("heading", name="Sign in").wait_for()

    hands.page.bring_to_front()
    hands.stroke(z, [(26, 6), (26, 24)])
    drawn = hands.checksum()
    hands.page.get_by_role("heading", name="Sign in").wait_for()
    hands.page.get_by_text("You were signed out: sign in again; drafts are kept.").wait_for()
    hands.window.screenshot("signed-out-elsewhere")
    hands.page.get_by_text("Sign out").wait_for(state="detached")
    hands.window.sign_in(SECOND, PASSWORD)
    hands.wait("fedgtvViewer.state().lock === ''")
    hands.wait_shown(drawn)
    hands.wait_stored()
    assert mask_sha256(hospital.drawn(key, SECOND)) == drawn

"""How long a doctor worked, whatever happened meanwhile, against the test's own clock.

The test is the doctor: it knows when it works, and when it pauses, looks elsewhere, reloads, or has
no server. What is stored must say the same within a second, with every voxel that was drawn.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask, MaskArray
from clinical_ui import wording
from site_agent import claims, contour_evidence, drafts
from site_agent.case_store import CaseStore, SliceChoice
from site_agent.claims import WorkKey, holders
from site_agent.click_store import mask_sha256
from site_agent.database import DraftRow, ReviewRow
from site_agent.dicom_series import read_series
from site_agent.ingest import ingest
from site_agent.pacs_export import export_rtstruct
from site_agent.rtstruct import read_rtstruct
from tests.clinical_ui.browser import Server, open_window, serve
from tests.clinical_ui.people import EVERYTHING, add_people
from tests.clinical_ui.viewer_hands import Hands
from tests.phantoms import SHAPE_ZYX, make_home
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import write_patient

pytestmark = pytest.mark.journey

ASKED = (2, 4)
IDLE_LIMIT_S = 5
AWAY_S = 2.5  # more than the second by which the stored time may be wrong
WORK_S = 2.5
ROWS = 5


@dataclass
class Hospital:
    """A site with one patient from DICOM: two slices to annotate, and a contour to review."""

    store: CaseStore
    server: Server
    images: Path
    round_id: str
    case_id: str
    model: MaskArray

    def key(self, purpose) -> WorkKey:
        return WorkKey(self.round_id, self.case_id, purpose)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("working-time")
    write_patient(folder / "export", 1)
    home = make_home(folder / "home", idle_limit_s=IDLE_LIMIT_S)
    store = CaseStore(home)
    (case_id,) = ingest(home, store, folder / "export", actor="test")
    round_id = start_round(store)
    store.open_tasks(
        round_id, [SliceChoice(case_id, z, "chosen", 1.0) for z in ASKED], actor="test"
    )
    reference = store.contour(case_id, purpose="reference").mask
    model = np.roll(reference.voxels, 2, axis=2)
    contour = Contour("GTVp", Mask(model, reference.geometry), Provenance.AUTOMATIC)
    store.save_contour(case_id, contour, purpose="adapted", round_id=round_id, author="model")
    add_people(store.engine)
    images = folder / "images"
    images.mkdir()
    for file in (folder / "export").glob("MR.*.dcm"):
        file.rename(images / file.name)
    with serve(home.folder, folder / "run") as server:
        yield Hospital(store, server, images, round_id, case_id, model)


@pytest.fixture
def doctor(hospital, tmp_path) -> Iterator["TimedHands"]:
    with open_window(hospital.server.url, tmp_path / "profile") as window:
        yield TimedHands(window, SHAPE_ZYX)
    for case_id, purpose in holders(hospital.store, hospital.round_id):
        key = WorkKey(hospital.round_id, case_id, purpose)
        claims.release(hospital.store, key, author=EVERYTHING)


@dataclass
class StopWatch:
    """The test's clock; it is pressed in the middle of the act that starts or ends the work."""

    seconds: float = 0.0
    parts: list[tuple[str, float]] = field(default_factory=list)
    _since: float | None = None

    @property
    def is_running(self) -> bool:
        return self._since is not None

    @contextmanager
    def start(self) -> Iterator[None]:
        """Run from the middle of the block on."""
        assert self._since is None
        before = time.monotonic()
        yield
        self._since = (before + time.monotonic()) / 2

    def start_at(self, moment: float) -> None:
        """Run from a moment of the monotonic clock on."""
        assert self._since is None
        self._since = moment

    @contextmanager
    def stop(self, why: str) -> Iterator[None]:
        """Stand from the middle of the block on."""
        assert self._since is not None
        before = time.monotonic()
        yield
        worked = (before + time.monotonic()) / 2 - self._since
        self._since = None
        self.seconds += worked
        self.parts.append((why, worked))


@dataclass
class TimedHands(Hands):
    """A doctor whose work the test times."""

    watch: StopWatch = field(default_factory=StopWatch)
    strokes: int = 0

    def begin(self) -> None:
        self.press_begin()
        self.start_when("fedgtvViewer.state().mode !== 'view'")

    def draw(self, z: int, seconds: float = WORK_S) -> None:
        """Draw on a slice for some time; each stroke changes something."""
        assert self.watch.is_running
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            times, row = divmod(self.strokes, ROWS)
            y = 4 + 6 * row  # a little more than the brush is wide
            self.stroke(z, [(y, x) for x in range(6, 26, 4)], "be"[times % 2])
            self.strokes += 1

    def wait_stored(self) -> None:
        """Wait, and while the watch runs move the mouse, as somebody at work does."""
        while self.state()["unsent"] or self.state()["busy"]:
            if self.watch.is_running:
                self.page.mouse.move(400, 400)
                self.page.mouse.move(420, 400)
            self.page.wait_for_timeout(100)

    def pause(self) -> None:
        """Press Pause, and go on with nothing, though the mouse still moves."""
        place = self._middle("Pause")
        with self.watch.stop("pause"):
            self.page.mouse.click(*place)
        self.stay_away()

    def go_on(self) -> None:
        """Press Continue."""
        place = self._middle("Continue")
        with self.watch.start():
            self.page.mouse.click(*place)

    def stay_away(self, seconds: float = AWAY_S) -> None:
        """Let time pass while the mouse moves over the page."""
        assert not self.watch.is_running
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.page.mouse.move(400, 400)
            self.page.mouse.move(420, 400)
            self.page.wait_for_timeout(100)

    def look_at_another_tab(self) -> None:
        """Bring another tab to the front for a while."""
        # Playwright makes each page believe that it has the focus, unless told not to.
        devtools = self.page.context.new_cdp_session(self.page)
        devtools.send("Emulation.setFocusEmulationEnabled", {"enabled": False})
        other = self.page.context.new_page()
        with self.watch.stop("blur"):
            other.bring_to_front()
            self.wait("!document.hasFocus()")
        time.sleep(AWAY_S)
        with self.watch.start():
            self.page.bring_to_front()
            self.wait("document.hasFocus()")
        other.close()

    def hide(self) -> None:
        """Let the page say that it is hidden, which no headless browser makes it do."""
        script = (
            "hidden => { Object.defineProperty(document, 'hidden', "
            "{ configurable: true, get: () => hidden });"
            "document.dispatchEvent(new Event('visibilitychange')); }"
        )
        with self.watch.stop("hidden"):
            self.page.evaluate(script, True)
        self.stay_away()
        with self.watch.start():
            self.page.evaluate(script, False)

    def reload(self) -> None:
        """Press F5."""
        sitting = self.state()["sitting"]
        with self.watch.stop("reload"):
            self.page.evaluate("location.reload()")
        self.wait(f"fedgtvViewer.state().sitting !== '{sitting}'")
        self._be_back()

    def go_elsewhere_and_back(self) -> None:
        """Look at the worklist."""
        with self.watch.stop("page switch"):
            self._menu("Worklist")
        self.page.get_by_role("heading", name="Worklist").wait_for()
        self.page.get_by_role("region", name="Contour viewer").wait_for(state="detached")
        self.stay_away()
        self._menu("Annotate")
        self._be_back()

    def idle(self) -> None:
        """Take the hands off for longer than the limit."""
        with self.watch.stop("idle"):
            self.page.mouse.move(500, 400)
        time.sleep(IDLE_LIMIT_S + 1.5)
        with self.watch.start():
            self.page.mouse.move(510, 400)

    def _be_back(self) -> None:
        self.start_when("fedgtvViewer.state().lock === ''")

    def start_when(self, what: str) -> None:
        """Start the watch when the tools are there, as the page sees it: the test hears it late."""
        seen = self.wait(f"({what}) && Date.now()").json_value()
        self.watch.start_at(time.monotonic() - (time.time() - seen / 1000))

    def _middle(self, button: str) -> tuple[float, float]:
        box = self.button(button).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def _menu(self, name: str) -> None:
        self.page.get_by_role("link", name=name).first.click()


def draft_sha256(store: CaseStore, key: WorkKey) -> str:
    draft = drafts.restore(store, key, author=EVERYTHING)
    assert draft is not None
    assert draft.target is not None
    return mask_sha256(draft.target)


def test_nothing_that_happens_meanwhile_loses_or_doubles_work(hospital, doctor) -> None:
    store, key = hospital.store, hospital.key("annotation")
    doctor.open(key, EVERYTHING)
    doctor.begin()
    z = doctor.state()["cursor"][0]
    assert z == ASKED[0]

    doctor.draw(z)
    doctor.pause()
    paused = doctor.checksum()
    doctor.stroke(z, [(25, 4), (25, 28)])  # not while paused
    assert doctor.checksum() == paused
    doctor.go_on()
    doctor.draw(z)
    doctor.look_at_another_tab()
    doctor.draw(z)
    doctor.hide()
    doctor.draw(z)
    doctor.idle()
    doctor.draw(z, 1)
    drawn = doctor.checksum()
    doctor.reload()  # within two seconds of the last stroke
    assert doctor.checksum() == drawn
    doctor.draw(z)
    drawn = doctor.checksum()
    doctor.go_elsewhere_and_back()
    assert doctor.checksum() == drawn
    doctor.draw(z)
    doctor.wait_stored()
    assert draft_sha256(store, key) == doctor.checksum()

    hospital.server.kill()
    doctor.draw(z)
    doctor.pause()
    drawn = doctor.checksum()
    assert doctor.state()["unsent"]
    hospital.server.start()
    doctor.wait("!fedgtvViewer.state().unsent")
    assert doctor.checksum() == drawn == draft_sha256(store, key)
    doctor.go_on()
    doctor.draw(z)
    first = save_the_slice_shown(doctor)

    doctor.start_when(f"fedgtvViewer.state().epoch !== '{first.epoch}'")
    doctor.page.keyboard.press("n")
    doctor.wait(f"fedgtvViewer.state().cursor[0] === {ASKED[1]}")
    doctor.draw(ASKED[1])
    doctor.pause()
    doctor.go_on()
    doctor.draw(ASKED[1])
    second = save_the_slice_shown(doctor)
    doctor.wait("fedgtvViewer.state().mode === 'view'")

    rows = contour_evidence.saves(store, key.round_id, key.case_id)
    say(doctor.watch.parts, [row.active_s for row in rows])
    assert [row.active_s for row in rows] == [
        pytest.approx(first.worked_s, abs=1),
        pytest.approx(second.worked_s - first.worked_s, abs=1),
    ]
    assert sum(row.active_s for row in rows) == pytest.approx(doctor.watch.seconds, abs=1)
    for row, shown, slice_z in zip(rows, (first, second), ASKED, strict=True):
        assert row.mask_sha256 == mask_sha256(shown.mask[slice_z])
        assert row.wall_s > row.active_s + 4 * AWAY_S
    # Opened, reloaded, come back to; a server that starts again may have the viewer mounted anew.
    assert len(rows[0].sittings["sittings"]) >= 3
    assert holders(store, key.round_id) == {}
    with Session(store.engine) as session:
        assert list(session.scalars(select(DraftRow))) == []


def say(*figures: object) -> None:
    """Print what was measured; pytest shows it with -rP, and of a test that fails."""
    sys.stdout.write(f"{figures}\n")


@dataclass(frozen=True)
class Saved:
    """What the screen and the test's clock said when a slice was saved."""

    epoch: str
    mask: MaskArray
    worked_s: float


def save_the_slice_shown(doctor: TimedHands) -> Saved:
    """Declare it done and save it."""
    epoch, mask = doctor.state()["epoch"], doctor.mask()
    doctor.page.keyboard.press("d")
    save = doctor.button("Save 1 done slice")
    save.wait_for()
    with doctor.watch.stop("save"):
        save.click()
    return Saved(epoch, mask, doctor.watch.seconds)


def test_a_review_stores_its_time_and_how_much_was_revised(hospital, doctor, tmp_path) -> None:
    store, key = hospital.store, hospital.key("review")
    doctor.open(key, EVERYTHING)
    assert doctor.checksum() == mask_sha256(hospital.model)
    doctor.stroke(4, [(8, 8), (24, 24)])  # read-only until the revision is started
    assert doctor.checksum() == mask_sha256(hospital.model)
    doctor.begin()
    z = doctor.state()["cursor"][0]
    doctor.draw(z)
    doctor.idle()
    doctor.draw(z, 1)
    drawn = doctor.checksum()
    doctor.reload()
    assert doctor.checksum() == drawn
    doctor.draw(z)
    doctor.pause()
    doctor.page.reload()
    doctor.wait("fedgtvViewer.state().paused")  # until Continue is pressed
    doctor.stay_away()
    doctor.go_on()
    doctor.draw(z)
    shown = doctor.mask()
    with doctor.watch.stop("save"):
        doctor.button("Save revision").click()
    doctor.wait("fedgtvViewer.state().mode === 'view'")

    with Session(store.engine) as session:
        review = session.scalars(select(ReviewRow).where(ReviewRow.round_id == key.round_id)).one()
    (row,) = [r for r in contour_evidence.saves(store, key.round_id) if r.purpose == "review"]
    say(doctor.watch.parts, review.active_s, row.sittings)
    assert review.active_s == row.active_s == pytest.approx(doctor.watch.seconds, abs=1)
    assert row.mask_sha256 == mask_sha256(shown)
    assert review.verdict == "revised"

    export_rtstruct(store.home, store, key.case_id, tmp_path / "revised.dcm", actor="test")
    (given_back,) = read_rtstruct(tmp_path / "revised.dcm", read_series(hospital.images)).values()
    recomputed = degree_percent(hospital.model, given_back.voxels)
    say(review.revision_degree_percent, recomputed)
    assert review.revision_degree_percent > 5
    assert review.revision_degree_percent == pytest.approx(recomputed, abs=0.5)
    of_slice = {int(name): degree for name, degree in row.slice_degrees_percent.items()}
    assert of_slice == {
        k: pytest.approx(degree_percent(hospital.model[k], given_back.voxels[k]), abs=0.5)
        for k in range(SHAPE_ZYX[0])
        if (hospital.model[k] | shown[k]).any()
    }


def degree_percent(before: MaskArray, after: MaskArray) -> float:
    """Return 100 * (1 - Dice), written down a second time."""
    return 100 * (1 - 2 * float((before & after).sum()) / float(before.sum() + after.sum()))


def test_a_server_that_starts_again_is_sent_what_was_drawn_meanwhile(hospital, doctor) -> None:
    """Also where the page was drawn anew as a whole before: Streamlit asks for nothing then."""
    store, key, page = hospital.store, hospital.key("review"), doctor.page
    doctor.open(key, EVERYTHING)
    doctor.press_begin()
    doctor.wait("fedgtvViewer.state().mode !== 'view'")
    started_from = doctor.checksum()
    z = doctor.state()["cursor"][0]
    doctor.stroke(z, [(8, 8), (24, 24)])
    page.get_by_role("button", name="Begin anew").click()
    page.get_by_role("button", name=wording.THROW_AWAY).click()
    doctor.wait_shown(started_from)
    doctor.window.settle()
    away = page.get_by_role("alert").get_by_text("The hospital's server does not answer")
    hospital.server.kill()
    away.wait_for()
    page.wait_for_timeout(4000)  # by then Streamlit would have covered the page
    assert page.get_by_role("dialog").count() == 0
    doctor.stroke(z, [(8, 24), (24, 8)])
    drawn = doctor.checksum()
    assert drawn != started_from
    hospital.server.start()
    away.wait_for(state="detached")
    doctor.wait("!fedgtvViewer.state().unsent")
    assert doctor.checksum() == drawn == draft_sha256(store, key)


def test_the_keys_are_the_viewers_again_when_a_server_is_back(hospital, doctor) -> None:
    doctor.open(hospital.key("review"), EVERYTHING)
    doctor.press_begin()
    doctor.wait("fedgtvViewer.state().mode !== 'view'")
    z = doctor.state()["cursor"][0]
    doctor.stroke(z, [(8, 8), (24, 24)])
    doctor.wait_stored()
    hospital.server.kill()
    doctor.page.wait_for_timeout(4000)
    hospital.server.start()
    doctor.wait("document.querySelector('[data-test-connection-state=CONNECTED]')")
    doctor.window.settle()
    doctor.page.mouse.move(*doctor.at(z, 20, 20))  # within the picture, which is not left
    doctor.page.keyboard.press("e")
    assert doctor.state()["tool"] == "eraser"


def test_what_is_drawn_just_before_a_release_is_kept(hospital, doctor) -> None:
    store, key, page = hospital.store, hospital.key("review"), doctor.page
    doctor.open(key, EVERYTHING)
    doctor.press_begin()
    doctor.wait("fedgtvViewer.state().mode !== 'view'")
    z = doctor.state()["cursor"][0]
    for goes_away_first in (False, True):
        doctor.stroke(z, [(6, 6), (6, 24)], "be"[goes_away_first])
        drawn = doctor.checksum()
        if goes_away_first:  # the server hears of it when the claim is gone already
            page.context.set_offline(True)
            claims.release(store, key, author=EVERYTHING)
            page.context.set_offline(False)
        else:
            page.get_by_role("button", name="Release").click()
            doctor.wait("fedgtvViewer.state().mode === 'view'")
        page.reload()
        doctor.wait("fedgtvViewer.state().mode === 'view'")
        page.wait_for_timeout(2000)  # time to send it, which would be in vain
        doctor.press_begin()
        doctor.wait("fedgtvViewer.state().lock === ''")
        assert doctor.checksum() == drawn
        doctor.wait_stored()
        assert draft_sha256(store, key) == drawn


def test_beginning_anew_forgets_the_drawing_and_not_the_time(hospital, doctor) -> None:
    store, key, page = hospital.store, hospital.key("review"), doctor.page
    doctor.open(key, EVERYTHING)
    before = drafts.active_s(store, key, author=EVERYTHING)
    doctor.begin()
    z = doctor.state()["cursor"][0]
    doctor.draw(z)
    doctor.wait_stored()
    end = time.monotonic() + 4  # at work without drawing: the server is told now and then only
    while time.monotonic() < end:
        page.mouse.move(400, 400)
        page.mouse.move(420, 400)
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Begin anew").click()
    epoch = doctor.state()["epoch"]
    page.get_by_role("button", name=wording.THROW_AWAY).click()
    doctor.wait(f"fedgtvViewer.state().epoch !== '{epoch}'")
    doctor.draw(z)
    doctor.pause()
    doctor.wait_stored()
    worked = drafts.active_s(store, key, author=EVERYTHING) - before
    assert worked == pytest.approx(doctor.watch.seconds, abs=1)


def test_a_server_that_ends_while_the_model_is_asked_is_asked_again(hospital, doctor) -> None:
    doctor.open(hospital.key("review"), EVERYTHING)
    doctor.press_begin()
    doctor.wait("fedgtvViewer.state().lock === ''")
    z = doctor.state()["cursor"][0]
    answers = "fedgtvViewer.state().actions.filter((one) => one[1] === 'model').length"
    before = doctor.page.evaluate(answers)
    doctor.click(z, 16, 16, "2")
    hospital.server.kill()
    doctor.page.wait_for_timeout(1000)
    hospital.server.start()
    doctor.wait(f"{answers} > {before} && fedgtvViewer.state().lock === ''")  # in a minute

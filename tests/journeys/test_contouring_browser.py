"""A doctor's day in a real browser: sign in, contour, correct, save, review, sign, and the archive.

Mouse and keyboard are real; what is stored is compared with what the screen shows.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_erosion
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.volume import Mask, MaskArray
from evaluation.overlap import dice
from evaluation.revision import revision_degree_percent
from site_agent import contour_evidence
from site_agent.case_store import REVIEWED, CaseStore, SliceChoice
from site_agent.click_store import mask_sha256
from site_agent.database import ClickStepRow
from site_agent.dicom_series import read_series
from site_agent.export_store import newest_export, uids_of
from site_agent.ingest import ingest
from site_agent.rtstruct import read_rtstruct
from site_agent.signing import Standing, signature_state
from tests.clinical_ui.browser import Window, open_window, serve
from tests.clinical_ui.people import EVERYTHING, PASSWORD, add_people
from tests.clinical_ui.synthetic_site import CASES, REFERENCE, make_site
from tests.journeys.test_pacs import dimse_settings, write_settings
from tests.orthanc import Orthanc
from tests.phantoms import make_home
from tests.ports import free_ports
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import tags, write_patient

pytestmark = pytest.mark.journey

Voxel = tuple[float, float, float]
PERSON_NAME = "Everything^Eve^^Dr"


@dataclass
class Canvas:
    """The viewer as a doctor uses it: with the mouse at voxels, and with the keyboard."""

    window: Window

    @property
    def page(self) -> Any:
        return self.window.page

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(f"fedgtvViewer.{expression}")

    def state(self) -> dict[str, Any]:
        return dict(self.ask("state()"))

    def wait(self, condition: str) -> None:
        """Wait until something is true of the viewer."""
        self.page.wait_for_function(f"() => globalThis.fedgtvViewer && ({condition})")

    def wait_for_mode(self, mode: str) -> None:
        self.wait(f"fedgtvViewer.state().mode === '{mode}'")

    def place(self, voxel: Voxel) -> tuple[float, float]:
        found = self.ask(f"screen({','.join(map(str, voxel))})")
        return found["x"], found["y"]

    def click(self, *voxels: Voxel) -> None:
        for voxel in voxels:
            self.page.mouse.click(*self.place(voxel))

    def stroke(self, voxels: Sequence[Voxel]) -> None:
        self.window.stroke([self.place(voxel) for voxel in voxels])

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def go_to(self, z: int) -> None:
        """Scroll to a slice."""
        cursor = self.state()["cursor"]
        self.page.mouse.move(*self.place((z, cursor[1], cursor[2])))
        while (step := z - self.state()["cursor"][0]) != 0:
            self.page.mouse.wheel(0, 100 if step > 0 else -100)
            self.wait(f"fedgtvViewer.state().cursor[0] !== {z - step}")

    def answered(self, times: int) -> None:
        """Wait until the model has answered so often."""
        answers = "fedgtvViewer.state().undo.filter((name) => name === 'model').length"
        self.wait(f"{answers} === {times} && !fedgtvViewer.state().busy")

    def drawn(self) -> str:
        return str(self.ask("checksum()"))

    def mask(self, shape_yx: tuple[int, ...]) -> MaskArray:
        """Return what the screen shows, bool `[z, y, x]`."""
        runs = self.ask("runs()")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(-1, *shape_yx)


@contextmanager
def doctor(home: Path, folder: Path) -> Iterator[Canvas]:
    """Sign somebody with all roles in, at the worklist."""
    with serve(home, folder / "server") as server, open_window(server.url, folder / "me") as window:
        window.go()
        window.sign_in(EVERYTHING, PASSWORD)
        window.page.get_by_role("heading", name="Worklist").wait_for()
        try:
            yield Canvas(window)
        except BaseException:
            window.page.screenshot(path=folder / "failed.png")
            raise


def test_a_slice_is_contoured_by_points_corrected_and_saved(tmp_path) -> None:
    store = make_site(tmp_path / "home", reviewed=False)
    add_people(store.engine)
    case_id, z = CASES[2], 7
    with doctor(store.home.folder, tmp_path) as canvas:
        drawn = claim_and_contour(canvas, case_id, z, REFERENCE[z])
        canvas.page.wait_for_function("() => Object.keys(sessionStorage).length === 0")
    check_what_is_stored(store, case_id, z, drawn)


def test_a_slice_of_a_real_sarcoma_is_contoured_and_saved(
    data_packs, tmp_path, monkeypatch
) -> None:
    store, case_id = sarcoma(data_packs, tmp_path, monkeypatch)
    reference = store.contour(case_id, purpose="reference").mask.voxels
    z = int(reference.sum(axis=(1, 2)).argmax())
    round_id = start_round(store)
    store.open_tasks(round_id, [SliceChoice(case_id, z, "chosen", 1.0)], actor="test")
    add_people(store.engine)
    with doctor(store.home.folder, tmp_path) as canvas:
        drawn = claim_and_contour(canvas, case_id, z, reference[z])
    check_what_is_stored(store, case_id, z, drawn)


def claim_and_contour(canvas: Canvas, case_id: str, z: int, target: np.ndarray) -> MaskArray:
    """Claim a slice, contour it with every tool, and save it; return what the screen showed.

    Args:
        canvas: at the worklist.
        case_id: of the case.
        z: the slice that is asked for.
        target: bool `[y, x]`, what is to be contoured.
    """
    page = canvas.page
    row = page.locator(".st-key-row-annotation-" + case_id).or_(
        page.get_by_test_id("stHorizontalBlock").filter(has_text=case_id)
    )
    row.get_by_role("button", name="Claim").last.click()
    row.get_by_role("button", name="Release").last.wait_for()
    row.get_by_role("button", name="Open").last.click()
    page.get_by_role("heading", name="Annotate").wait_for()
    canvas.wait_for_mode("view")
    page.get_by_role("button", name="Go on").or_(page.get_by_role("button", name="Start")).click()
    canvas.wait_for_mode("contour")
    assert canvas.state()["cursor"][0] == z

    # Four points just inside the edge, and the contour is there in one go.
    canvas.click(*((z, *yx) for yx in margin_points(target)))
    canvas.press("Enter")
    canvas.answered(1)
    first = canvas.drawn()
    assert dice(canvas.mask(target.shape)[z], target) > 0.7
    # A click on what is too much takes it away: the answer is one step that can be undone.
    y, x = (round(float(one)) for one in np.argwhere(target).mean(axis=0))
    canvas.press("3")
    canvas.click((z, y + 2, x))
    canvas.answered(2)
    mended = canvas.drawn()
    assert mended != first
    canvas.press("Control+z")
    assert canvas.drawn() == first
    canvas.press("Control+y")
    assert canvas.drawn() == mended

    # Lasso and brush, each a step; undo and redo go over all of them.
    canvas.press("l")
    canvas.stroke([(z, y, x) for y, x in ((20, 10), (20, 20), (30, 20), (30, 10), (20, 10))])
    lassoed = canvas.drawn()
    canvas.press("b")
    canvas.stroke([(z, y, x + step) for step in range(-8, 10, 3)])
    brushed = canvas.drawn()
    assert len({mended, lassoed, brushed}) == 3
    assert canvas.state()["undo"][-4:] == ["model", "model", "lasso", "stroke"]
    canvas.press("Control+z", "Control+z")
    assert canvas.drawn() == mended
    canvas.press("Control+y", "Control+y")
    assert canvas.drawn() == brushed
    canvas.press("e")
    canvas.stroke([(z, 25, x) for x in range(8, 24, 3)])
    drawn, screen = canvas.drawn(), canvas.mask(target.shape)
    assert mask_sha256(screen) == drawn

    # A slice that was not asked for cannot be drawn on.
    canvas.go_to(z - 1)
    canvas.press("b")
    canvas.stroke([(z - 1, y, x - 8), (z - 1, y, x + 8)])
    assert canvas.drawn() == drawn
    canvas.press("n", "d")
    canvas.window.screenshot(f"contoured-{case_id}")
    page.get_by_role("button", name="Save 1 done slice").click()
    page.get_by_text("All slices are done").wait_for()
    return screen


def margin_points(target: np.ndarray) -> list[tuple[int, int]]:
    """Return `(y, x)` just inside the edge of a mask `[y, x]`: top, bottom, left and right."""
    inside = np.argwhere(binary_erosion(target))
    ends = (inside[:, 0].argmin(), inside[:, 0].argmax(), inside[:, 1].argmin())
    return [(int(y), int(x)) for y, x in inside[[*ends, inside[:, 1].argmax()]]]


def check_what_is_stored(store: CaseStore, case_id: str, z: int, screen: MaskArray) -> None:
    task = next(t for t in store.tasks(store.latest_round().round_id) if t.case_id == case_id)
    stored = np.zeros(store.geometry(case_id).shape_zyx, bool)
    stored[z] = store.task_mask(task)
    np.testing.assert_array_equal(stored, screen)
    assert (task.author, task.provenance) == (EVERYTHING, Provenance.SEMIAUTOMATIC.value)
    (save,) = contour_evidence.saves(store, task.round_id)
    assert 0 < task.active_s == save.active_s <= save.wall_s
    (sitting,) = save.sittings["sittings"].values()
    names = [action[1] for action in sitting["actions"]]
    steps = ("start", "model", "lasso", "stroke", "undo", "redo", "erase", "save")
    assert [name for name in steps if name not in names] == []
    with Session(store.engine) as session:
        kinds = set(session.scalars(select(ClickStepRow.kind)))
    assert {"segment", "refine", "painted"} <= kinds


@pytest.fixture
def archived(tmp_path) -> Iterator[tuple[Orthanc, CaseStore, Path]]:
    """Yield an archive, a site with one of its patients, segmented, and the patient's images."""
    write_patient(tmp_path / "export", 1)
    with Orthanc(tmp_path / "orthanc", {"FEDGTV": free_ports(1)[0]}) as archive:
        archive.upload(tmp_path / "export")
        make_home(tmp_path / "home")
        home = write_settings(tmp_path / "home", dimse_settings(archive, free_ports(1)[0], "auto"))
        store = CaseStore(home)
        (case_id,) = ingest(home, store, tmp_path / "export", actor="test")
        segmented(store, case_id)
        yield archive, store, tmp_path / "export"


def segmented(store: CaseStore, case_id: str) -> None:
    """Have a model contour a patient: the reference, moved a little."""
    reference = store.contour(case_id, purpose="reference").mask
    moved = Mask(np.roll(reference.voxels, 2, axis=2), reference.geometry)
    model = Contour("GTVp", moved, Provenance.AUTOMATIC)
    round_id = start_round(store)
    store.save_contour(case_id, model, purpose="adapted", round_id=round_id, author="model")
    add_people(store.engine)


def revise(canvas: Canvas, slices: Sequence[int], centre: tuple[int, int]) -> str:
    """Start a revision, paint on two slices, fill between them, and save; return the checksum."""
    page = canvas.page
    canvas.wait_for_mode("view")
    before = canvas.ask("voxels()")
    canvas.press("b")
    canvas.stroke([(slices[0], *centre), (slices[0], centre[0], centre[1] + 2)])
    assert canvas.ask("voxels()") == before  # read-only until the revision is started
    page.get_by_role("button", name="Start revision").click()
    canvas.wait_for_mode("contour")
    page.get_by_role("button", name="Accept as it is").wait_for()
    canvas.press("b")
    for z in slices:
        canvas.go_to(z)
        canvas.stroke([(z, centre[0], centre[1] + step) for step in range(4)])
    canvas.go_to(slices[0] + 1)
    page.get_by_role("button", name="Clear this slice").click()
    painted = canvas.drawn()
    page.get_by_role("button", name="Interpolate between drawn slices").click()
    canvas.wait("fedgtvViewer.state().undo.at(-1) === 'interpolate'")
    between = canvas.drawn()
    page.get_by_role("button", name="Undo").click()
    assert canvas.drawn() == painted
    page.get_by_role("button", name="Redo").click()
    assert canvas.drawn() == between
    page.get_by_label("Score of the model's contour").select_option("4")
    page.get_by_role("button", name="Save revision").click()
    page.get_by_text("revised by").first.wait_for()
    return between


def sign(canvas: Canvas) -> None:
    page = canvas.page
    page.get_by_role("button", name="Sign", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input[type=password]").fill("not my password at all")
    dialog.get_by_role("button", name="Sign and send").click()
    dialog.get_by_text("wrong").wait_for()
    dialog.locator("input[type=password]").fill(PASSWORD)
    dialog.get_by_role("button", name="Sign and send").click()
    page.get_by_text("in the PACS").first.wait_for()


def test_a_review_is_revised_signed_and_approved_in_the_archive(archived, tmp_path) -> None:
    archive, store, images = archived
    case_id, held = store.cases()[0].case_id, archive.instances()
    round_id = store.latest_round().round_id
    model = store.contour(case_id, purpose="adapted", round_id=round_id)
    with doctor(store.home.folder, tmp_path) as canvas:
        canvas.page.get_by_role("link", name="Review").click()
        drawn = revise(canvas, (1, 3), (4, 4))
        sign(canvas)

    reviewed = store.contour(case_id, purpose=REVIEWED, round_id=round_id).mask.voxels
    assert mask_sha256(reviewed) == drawn
    (review,) = store.reviews(round_id)
    assert (review.author, review.verdict, review.likert) == (EVERYTHING, "revised", 4)
    degree = revision_degree_percent(model.mask.voxels, reviewed)
    assert review.revision_degree_percent == degree > 0
    state = signature_state(store, round_id, case_id)
    assert state.standing is Standing.SIGNED
    assert archive.instances() == held + 1
    uid = uids_of(store, newest_export(store, case_id)).sop_instance_uid
    (tmp_path / "arrived.dcm").write_bytes(archive.file_of(uid))
    arrived = pydicom.dcmread(tmp_path / "arrived.dcm")
    assert (arrived.ApprovalStatus, arrived.ReviewerName) == ("APPROVED", PERSON_NAME)
    signed_at = state.signature.signed_at
    assert arrived.ReviewDate + arrived.ReviewTime == f"{signed_at:%Y%m%d%H%M%S.%f}"
    assert arrived.PatientID == tags(1).patient_id

    # The revision degree of the exported contour is the one on record.
    series = tmp_path / "series"
    series.mkdir()
    for file in images.glob("MR.*.dcm"):
        shutil.copy(file, series)
    volume = read_series(series)
    (exported,) = read_rtstruct(tmp_path / "arrived.dcm", volume).values()
    assert dice(exported.voxels, reviewed) >= 0.99
    again = revision_degree_percent(model.mask.voxels, exported.voxels)
    assert abs(again - degree) <= 0.5


def test_a_real_sarcoma_is_revised_and_signed(data_packs, tmp_path, monkeypatch) -> None:
    """The same with a patient of the collection: T1 MR with the contour of its planning."""
    store, case_id = sarcoma(data_packs, tmp_path, monkeypatch)
    segmented(store, case_id)
    round_id = store.latest_round().round_id
    model = store.contour(case_id, purpose="adapted", round_id=round_id).mask.voxels
    z = int(model.sum(axis=(1, 2)).argmax())
    y, x = (round(float(one)) for one in np.argwhere(model[z]).mean(axis=0))
    with doctor(store.home.folder, tmp_path) as canvas:
        canvas.page.get_by_role("link", name="Review").click()
        drawn = revise(canvas, (z, z + 2), (y, x + 30))
        canvas.window.screenshot("review-sarcoma")
    reviewed = store.contour(case_id, purpose=REVIEWED, round_id=round_id).mask.voxels
    assert mask_sha256(reviewed) == drawn


def sarcoma(
    data_packs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[CaseStore, str]:
    """Take a patient of the collection in, with its reference."""
    source = data_packs / "dicom" / "sts_rtstruct" / "STS_015" / "MR_T1"
    images = folder / "export"
    shutil.copytree(source / "image", images)
    shutil.copy(source / "mask" / "RS.dcm", images)
    monkeypatch.setenv("FEDGTV_SITE_ROI_NAMES", '["GTV_Mass_MR_T1"]')
    store = CaseStore(make_home(folder / "home"))
    (case_id,) = ingest(store.home, store, images, actor="test")
    return store, case_id

"""A doctor reviews and signs; the archive gets one APPROVED structure set, whatever happens."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sqlalchemy.orm import Session

from algorithms.contracts.contour import Contour, Provenance
from algorithms.contracts.errors import DataError
from algorithms.contracts.volume import Mask, MaskArray
from evaluation.benchmarks.dicom_writer import study_uids
from evaluation.overlap import dice
from site_agent.case_store import REVIEWED, CaseStore
from site_agent.config import SiteHome
from site_agent.database import SignatureRow, utc_now
from site_agent.dicom_series import read_series
from site_agent.export_store import newest_export, uids_of
from site_agent.pacs import fetch, open_pacs
from site_agent.residue import Known, scan_folder
from site_agent.review import record_review
from site_agent.signature_delivery import send_signed, waiting
from site_agent.signing import MEANINGS, sign
from tests.journeys.test_pacs import dimse_settings, run, write_settings
from tests.orthanc import Orthanc
from tests.phantoms import make_home
from tests.ports import free_ports
from tests.site_agent.stored_site import killed_at
from tests.site_agent.test_cli import start_round
from tests.site_agent.test_ingest import tags, write_patient
from tests.site_agent.test_rtstruct import plastimatch

pytestmark = pytest.mark.journey

DOCTOR, NAME = "olga", "Onkologin^Olga"
UIDS = study_uids("tiny 1 0", 8)
KNOWN = Known(
    names=frozenset({tags(1).name}),
    identifiers=frozenset(
        {tags(1).patient_id, tags(1).accession_number, UIDS.study, UIDS.series}
        | set(UIDS.sop_instances)
    ),
    dates=frozenset({tags(1).birth_date, tags(1).study_date}),
)


@dataclass
class Hospital:
    """An archive with one patient, whom the site fetched, segmented and let a doctor revise."""

    archive: Orthanc
    home: SiteHome
    store: CaseStore
    images: Path
    held: int  # instances in the archive before anything was signed

    @property
    def case_id(self) -> str:
        return self.store.cases()[0].case_id

    def mask(self) -> MaskArray:
        contour = self.store.contour(
            self.case_id, purpose=REVIEWED, round_id=self.store.latest_round().round_id
        )
        return contour.mask.voxels

    def review(self, shift: int) -> None:
        round_id = self.store.latest_round().round_id
        model = self.store.contour(self.case_id, purpose="adapted", round_id=round_id).mask
        revised = Mask(np.roll(model.voxels, shift, axis=2), model.geometry)
        record_review(self.store, round_id, self.case_id, revised, author=DOCTOR, simulated=False)

    def sign(self) -> SignatureRow:
        return sign(
            self.store,
            round_id=self.store.latest_round().round_id,
            case_id=self.case_id,
            username=DOCTOR,
            person_name=NAME,
            meaning=MEANINGS[0],
            method="password",
            now=utc_now(),
        )

    def row(self, signature: SignatureRow) -> SignatureRow:
        with Session(self.store.engine) as session:
            return session.get_one(SignatureRow, signature.id)

    def arrived(self) -> pydicom.Dataset:
        """Return the structure set of the newest export as the archive holds it."""
        uid = uids_of(self.store, newest_export(self.store, self.case_id)).sop_instance_uid
        (self.images / "../arrived.dcm").write_bytes(self.archive.file_of(uid))
        return pydicom.dcmread(self.images / "../arrived.dcm")


def dicomweb_settings(archive: Orthanc, _receive_port: int, _retrieve: str) -> str:
    return f'[pacs]\nprotocol = "dicomweb"\nurl = "{archive.web_url}"\n'


both_ways = pytest.mark.parametrize(
    "hospital", [dimse_settings, dicomweb_settings], ids=["dimse", "dicomweb"], indirect=True
)


@pytest.fixture
def hospital(request, tmp_path) -> Iterator[Hospital]:
    settings: Callable[[Orthanc, int, str], str] = getattr(request, "param", dimse_settings)
    (receive_port,) = free_ports(1)
    write_patient(tmp_path / "export", 1)
    make_home(tmp_path / "home")
    with Orthanc(tmp_path / "orthanc", {"FEDGTV": receive_port}) as archive:
        archive.upload(tmp_path / "export")
        home = write_settings(tmp_path / "home", settings(archive, receive_port, "auto"))
        store, pacs = CaseStore(home), open_pacs(home)
        series = pacs.find_series(UIDS.study)
        fetch(home, store, pacs, series, actor="test", say=lambda _line: None)
        (tmp_path / "images").mkdir()
        for file in (tmp_path / "export").glob("MR.*.dcm"):
            shutil.copy(file, tmp_path / "images")
        result = Hospital(archive, home, store, tmp_path / "images", archive.instances())
        reference = store.contour(result.case_id, purpose="reference")
        contour = Contour("GTVp", reference.mask, Provenance.AUTOMATIC)
        round_id = start_round(store)
        store.save_contour(
            result.case_id, contour, purpose="adapted", round_id=round_id, author="model"
        )
        result.review(1)
        yield result


@both_ways
def test_a_signed_review_is_approved_in_the_archive(hospital, tmp_path) -> None:
    signature = hospital.sign()
    send_signed(hospital.home, hospital.store, signature.id, actor=DOCTOR)
    assert hospital.archive.instances() == hospital.held + 1
    structure_set = hospital.arrived()
    assert structure_set.ApprovalStatus == "APPROVED"
    assert structure_set.ReviewerName == NAME
    assert structure_set.ReviewDate == f"{signature.signed_at:%Y%m%d}"
    assert structure_set.ReviewTime == f"{signature.signed_at:%H%M%S.%f}"
    assert structure_set.PatientID == tags(1).patient_id
    assert structure_set.StudyInstanceUID == UIDS.study
    geometry = read_series(hospital.images).geometry
    (tmp_path / "work").mkdir()
    theirs = plastimatch(hospital.images, tmp_path / "arrived.dcm", geometry, tmp_path / "work")
    assert dice(theirs, hospital.mask()) >= 0.99

    again = run("send-signed", "--home", hospital.home.folder)
    assert (again.returncode, again.stdout) == (0, "nothing waits\n")
    send_signed(hospital.home, hospital.store, signature.id, actor=DOCTOR)
    assert hospital.archive.instances() == hospital.held + 1
    assert "sent" in run("signatures", "--verify", "--home", hospital.home.folder).stdout

    hospital.review(2)
    second = hospital.sign()
    send_signed(hospital.home, hospital.store, second.id, actor=DOCTOR)
    (predecessor,) = hospital.arrived().PredecessorStructureSetSequence
    assert predecessor.ReferencedSOPInstanceUID == structure_set.SOPInstanceUID
    assert hospital.archive.instances() == hospital.held + 2
    assert scan_folder(hospital.home.folder, KNOWN) == {}


@both_ways
def test_while_the_archive_is_away_the_signature_waits(hospital) -> None:
    signature = hospital.sign()
    hospital.archive.kill()
    for _ in range(2):
        with pytest.raises(DataError, match="does not answer"):
            send_signed(hospital.home, hospital.store, signature.id, actor=DOCTOR)
    uid = uids_of(hospital.store, newest_export(hospital.store, hospital.case_id))
    at_home = ("--home", hospital.home.folder)
    ended = run("send-signed", *at_home)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "waiting" in run("signatures", *at_home).stdout
    assert [row.id for row in waiting(hospital.store)] == [signature.id]
    assert scan_folder(hospital.home.folder, KNOWN) == {}  # what waits is sealed

    hospital.archive.start()
    sent = run("send-signed", *at_home)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith(f"{hospital.case_id}: sent to PACS")
    assert hospital.archive.instances() == hospital.held + 1
    assert hospital.arrived().SOPInstanceUID == uid.sop_instance_uid
    assert hospital.row(signature).sent_at is not None
    said = ended.stdout + ended.stderr + sent.stdout
    assert [word for word in KNOWN.identifiers | KNOWN.names if word in said] == []


def test_what_was_revised_while_it_waited_never_leaves(hospital) -> None:
    first = hospital.sign()
    hospital.archive.kill()
    with pytest.raises(DataError, match="does not answer"):
        send_signed(hospital.home, hospital.store, first.id, actor=DOCTOR)
    hospital.review(2)
    hospital.archive.start()
    with pytest.raises(DataError, match="sign again"):
        send_signed(hospital.home, hospital.store, first.id, actor=DOCTOR)
    assert run("send-signed", "--home", hospital.home.folder).stdout == "nothing waits\n"
    hospital.sign()
    assert run("send-signed", "--home", hospital.home.folder).returncode == 0
    assert hospital.archive.instances() == hospital.held + 1


@both_ways
def test_killed_at_any_moment_the_archive_ends_with_one(hospital) -> None:
    """Each try is killed a little later than the one before, from each state that it comes to."""
    signature = hospital.sign()
    hospital.store.engine.dispose()
    after_signing, after_exporting = (False, False, False), (True, False, False)
    after_sending, done = (True, True, False), (True, True, True)
    state, seen, step = after_signing, {after_signing}, 0

    def send() -> None:
        send_signed(hospital.home, CaseStore(hospital.home), signature.id, actor=DOCTOR)

    while killed_at(step, send):
        before, row = state, hospital.row(signature)
        there = hospital.archive.instances() - hospital.held
        assert there <= 1
        state = (row.export_id is not None, there == 1, row.sent_at is not None)
        seen.add(state)
        step = step + 1 if state == before else 0
    assert seen | {done} == {after_signing, after_exporting, after_sending, done}
    assert hospital.row(signature).sent_at is not None
    assert hospital.archive.instances() == hospital.held + 1
    assert hospital.arrived().ApprovalStatus == "APPROVED"

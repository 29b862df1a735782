"""The clinical road: out of the hospital's archive, through the site, back, and back again."""

import json
import shutil
import signal
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from algorithms.contracts.case import Split
from algorithms.contracts.contour import Contour
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from evaluation.benchmarks.dicom_writer import study_uids, write_rtstruct
from evaluation.overlap import dice
from site_agent.case_store import RETURNED, CaseStore
from site_agent.config import CONFIG_FILE, SiteHome, open_home
from site_agent.database import AuditRow, utc_now
from site_agent.deidentification import pseudonym
from site_agent.dicom_series import read_series
from site_agent.pacs import fetch, open_pacs
from site_agent.residue import Known, scan_folder
from site_agent.simulated_annotator import annotate_open_tasks
from site_agent.worker import work
from tests.journeys.test_pacs import dimse_settings, listening, run, wait_until, write_settings
from tests.orthanc import AE_TITLE, Orthanc
from tests.phantoms import SHAPE_ZYX, make_home, public_hex, tiny_plan
from tests.ports import free_ports
from tests.site_agent.test_ingest import tags, write_patient
from tests.site_agent.test_rtstruct import plastimatch
from tests.site_agent.tiny_road import SHARES, install, make_package

pytestmark = pytest.mark.journey

PATIENTS = range(1, 7)
BY_DICOMWEB = (5, 6)
DEPTH = SHAPE_ZYX[0]


def uids(number: int):
    return study_uids(f"tiny {number} 0", DEPTH)


def identifiers() -> frozenset[str]:
    """Name what belongs to the patients and to nobody else."""
    found: set[str] = set()
    for number in PATIENTS:
        patient, ours = tags(number), uids(number)
        found |= {patient.patient_id, patient.accession_number, ours.study, ours.series}
        found |= {ours.frame_of_reference, *ours.sop_instances}
    return frozenset(found)


KNOWN = Known(
    names=frozenset(tags(number).name for number in PATIENTS),
    identifiers=identifiers(),
    dates=frozenset({tags(1).birth_date, tags(1).study_date}),
)


def bring_in(home: SiteHome, numbers: range | tuple[int, ...]) -> None:
    """Fetch studies of the archive as `pacs fetch` does."""
    store, pacs = CaseStore(home), open_pacs(home)
    for number in numbers:
        series = pacs.find_series(uids(number).study)
        assert sorted(one.modality for one in series) == ["MR", "RTSTRUCT"]
        fetch(home, store, pacs, series, actor="test", say=lambda _line: None)


def segmented(home: SiteHome, folder: Path) -> tuple[CaseStore, str, Contour]:
    """Adapt a source hospital's model and segment; return a test case and the model's contour."""
    package = make_package(folder, tiny_plan())
    settings = home.folder / CONFIG_FILE
    trusted = f"trusted_keys = {json.dumps([public_hex(package.key)])}"
    settings.write_text(settings.read_text().replace("trusted_keys = []", trusted))
    home = open_home(home.folder)  # which trusts the key from here on
    store = CaseStore(home)
    install(home, store, package)
    assert work(home, store) is RoundState.AWAITING_ANNOTATION
    annotate_open_tasks(store)
    assert work(home, store) is RoundState.AWAITING_REVIEW
    latest = store.latest_round()
    assert latest is not None
    case_id = store.cases(Split.TEST)[0].case_id
    contour = store.contour(case_id, purpose="adapted", round_id=latest.round_id)
    assert contour is not None
    assert contour.mask.voxels.any()
    return store, case_id, contour


def number_of(home: SiteHome, case_id: str) -> int:
    key = home.secret("pseudonym.key")
    names = {pseudonym(uids(n).series, key, prefix="case"): n for n in PATIENTS}
    return names[case_id]


def test_out_of_the_archive_and_back_and_the_contour_that_comes_back(tmp_path) -> None:
    receive_port, listen_port = free_ports(2)
    for number in PATIENTS:
        write_patient(tmp_path / "export" / f"P{number}", number)
    known = {"FEDGTV": receive_port, "FEDGTV_IN": listen_port}
    make_home(tmp_path / "home", **SHARES)
    with Orthanc(tmp_path / "orthanc", known) as archive:
        archive.upload(tmp_path / "export")
        dimse = dimse_settings(archive, receive_port, "move") + (
            f"[listener]\nport = {listen_port}\nquiet_s = 0.5\nkeep_free_mb = 0\n"
            f'[[listener.peers]]\nae_title = "{AE_TITLE}"\naddress = "127.0.0.1"\n'
            '[[listener.rules]]\nmodality = "RTSTRUCT"\n'
        )
        config = tmp_path / "home" / CONFIG_FILE
        plain = config.read_text()

        # In: most by C-MOVE, some by DICOMweb.
        wrong = dimse.replace(f'"{AE_TITLE}"\nhost', '"NOBODY"\nhost')
        with pytest.raises(DataError, match="NOBODY"):
            open_pacs(write_settings(tmp_path / "home", wrong)).echo()
        config.write_text(plain + f'[pacs]\nprotocol = "dicomweb"\nurl = "{archive.web_url}"\n')
        bring_in(open_home(tmp_path / "home"), BY_DICOMWEB)
        config.write_text(plain + dimse)
        home = open_home(tmp_path / "home")
        bring_in(home, tuple(set(PATIENTS) - set(BY_DICOMWEB)))
        store, case_id, model = segmented(home, tmp_path / "package")
        assert len(store.cases()) == len(PATIENTS)
        number = number_of(home, case_id)

        # Nothing of a patient is where research looks: images, masks, weights, tables.
        assert scan_folder(home.folder, KNOWN) == {}

        # Out: what was not checked is not sent; what was checked arrives as it is.
        held = archive.instances()
        reference = next((tmp_path / "export" / f"P{number}").glob("RS.*.dcm"))
        at_home = ("--home", home.folder)
        refused = run("pacs", "send", *at_home, reference)
        assert (refused.returncode, archive.instances()) == (2, held)
        assert "did not pass the export gate" in refused.stderr
        sent_by_us = tmp_path / "out"
        out = {"export-rtstruct": sent_by_us / "rs.dcm", "export-seg": sent_by_us / "seg.dcm"}
        for command, file in out.items():
            assert run(command, *at_home, case_id, "--output", file).returncode == 0
        sent = run("pacs", "send", *at_home, *out.values())
        assert sent.returncode == 0, sent.stderr
        assert archive.instances() == held + 2

        # As another program reads it from the archive.
        arrived = {}
        for name, file in out.items():
            content = archive.file_of(pydicom.dcmread(file).SOPInstanceUID)
            (tmp_path / f"{name}.dcm").write_bytes(content)
            arrived[name] = pydicom.dcmread(tmp_path / f"{name}.dcm")
            assert arrived[name].PatientID == tags(number).patient_id
            assert arrived[name].PatientName == tags(number).name
            assert arrived[name].StudyInstanceUID == uids(number).study
            assert arrived[name].FrameOfReferenceUID == uids(number).frame_of_reference
        structure_set, segmentation = arrived.values()
        assert structure_set.ApprovalStatus == "UNAPPROVED"
        assert [roi.ROIName for roi in structure_set.StructureSetROISequence] == ["GTVp^AI"]
        images = tmp_path / "images"
        work_folder = tmp_path / "plastimatch"
        images.mkdir()
        work_folder.mkdir()
        for file in (tmp_path / "export" / f"P{number}").glob("MR.*.dcm"):
            shutil.copy(file, images)
        geometry = read_series(images).geometry
        theirs = plastimatch(images, tmp_path / "export-rtstruct.dcm", geometry, work_folder)
        assert dice(theirs, model.mask.voxels) >= 0.99
        drawn = highdicom.seg.Segmentation.from_dataset(segmentation)
        order = [uids(number).sop_instances[z] for z in range(DEPTH)]
        frames = drawn.get_pixels_by_source_instance(order, combine_segments=True)
        np.testing.assert_array_equal(frames > 0, model.mask.voxels)

        # Back: a planning system moved the contour, renamed it, and the archive sends it on.
        edited = np.roll(model.mask.voxels, 1, axis=2)
        write_rtstruct(
            tmp_path / "planning" / "rs.dcm",
            {"Boost": edited},
            model.mask.geometry,
            patient=tags(number),
            uids=uids(number),
        )
        planned = pydicom.dcmread(tmp_path / "planning" / "rs.dcm")
        planned.StructureSetDate = structure_set.StructureSetDate
        planned.SOPInstanceUID = planned.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
        planned.save_as(tmp_path / "planning" / "rs.dcm")
        archive.upload(tmp_path / "planning")
        log = tmp_path / "listen.log"
        with listening(home, log) as process:
            archive.send("FEDGTV_IN", tmp_path / "planning")
            wait_until(lambda: "contour came back" in log.read_text())
            archive.send("FEDGTV_IN", sent_by_us)
            wait_until(lambda: "export of ours passed over" in log.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
    returned = store.last_correction(case_id, before=utc_now())
    assert returned is not None
    kept = store.contour(case_id, purpose=RETURNED, round_id=returned.round_id)
    assert kept is not None
    np.testing.assert_array_equal(kept.mask.voxels, edited)
    with Session(store.engine) as session:
        (entry,) = session.scalars(select(AuditRow).where(AuditRow.event == "contour_returned"))
    degree = 100 * (1 - dice(model.mask.voxels, edited))
    assert entry.detail["revision_degree_percent"] == pytest.approx(degree, abs=1e-3)
    said = log.read_text() + refused.stderr + sent.stdout
    assert [text for text in KNOWN.identifiers | KNOWN.names if text in said] == []
    assert scan_folder(home.folder, KNOWN) == {}
